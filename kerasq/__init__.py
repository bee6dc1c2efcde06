"""kerasq: published neural-network quantizers for Keras, down to a small and fast ``.tflite``.

Import it first, or instead of TensorFlow: see :mod:`kerasq.keras` for which Keras it then uses.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from kerasq.keras import keras_version

__version__ = "0.1.0"

_MODULES = frozenset(
    {"benchmark", "codebooks", "export", "layers", "quantizers", "representations", "runtime"}
    | {"tfmot"}
)
_NAMES = {
    "convert": "kerasq.export",
    "summary": "kerasq.export",
    "inspect": "kerasq.export",
    "deploy": "kerasq.export",
    "Interpreter": "kerasq.runtime",
}

__all__ = [
    "__version__",
    "keras_version",
    *sorted(_MODULES),
    *sorted(_NAMES),
]


def __getattr__(name: str) -> Any:
    """Import on first use what not every program needs."""
    if name in _MODULES:
        return importlib.import_module(f"kerasq.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'kerasq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _is_command() -> bool:
    """Tell whether this process is the command ``kerasq``, or ``python -m kerasq.cli``."""
    module = ["-m", "kerasq.cli"]
    return Path(sys.argv[0]).name == "kerasq" or sys.orig_argv[1:3] == module


# Their classes must be known where a model is loaded. The command imports them itself, once it
# has checked its arguments: its help and its errors come at once, without TensorFlow's chatter.
if not _is_command():
    for _name in ("layers", "quantizers"):
        importlib.import_module(f"kerasq.{_name}")
