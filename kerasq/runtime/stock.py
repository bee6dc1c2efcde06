"""The stock runtimes: which are installed, and how to open a model in one."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# In the order of preference.
RUNTIMES = {"ai_edge_litert": "ai_edge_litert.interpreter", "tf.lite": "tensorflow"}
_IDENTIFIER = b"TFL3"


def resolve(runtime: str | None) -> str:
    """Return the name of an installed runtime.

    Raises:
        ValueError: no such runtime is known.
        ImportError: it is not installed, or none is.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise ValueError(f"runtime {runtime!r} is unknown: choose one of {', '.join(RUNTIMES)}")
    for name in RUNTIMES if runtime is None else (runtime,):
        if importlib.util.find_spec(RUNTIMES[name].split(".")[0]) is not None:
            return name
    wanted = "no TFLite runtime" if runtime is None else f"the runtime {runtime!r} not"
    raise ImportError(f"{wanted} found: type `pip install ai-edge-litert`")


def names(runtime: str) -> tuple[Any, Any]:
    """Return a runtime's ``Interpreter`` and ``load_delegate``."""
    module = importlib.import_module(RUNTIMES[runtime])
    if runtime == "ai_edge_litert":
        return module.Interpreter, module.load_delegate
    return module.lite.Interpreter, module.lite.experimental.load_delegate


def read_model(
    model_path: str | os.PathLike[str] | None, model_content: bytes | None
) -> dict[str, Any]:
    """Return a stock interpreter's argument for a model, checked to be one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no ``.tflite``, or not exactly one model is given.
    """
    if (model_path is None) == (model_content is None):
        raise ValueError("give either model_path or model_content")
    if model_path is None:
        head, what = bytes(model_content[:8]), "model_content"
        argument = {"model_content": bytes(model_content)}
    else:
        path = Path(model_path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no model file {path}")
        with path.open("rb") as file:
            head, what = file.read(8), str(path)
        argument = {"model_path": str(path)}
    if head[4:8] != _IDENTIFIER:
        raise ValueError(
            f"{what} is no .tflite model (it lacks the identifier 'TFL3'): "
            "write one with kerasq.convert"
        )
    return argument


def keeping_tensors(runtime: str) -> dict[str, Any]:
    """Return a stock interpreter's arguments for one that overwrites no tensor."""
    module = importlib.import_module(RUNTIMES[runtime])
    if runtime == "tf.lite":
        module = module.lite.experimental
    # XNNPACK, a default delegate, keeps the tensors between its operators to itself.
    resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return {
        "experimental_preserve_all_tensors": True,
        "experimental_op_resolver_type": resolver,
    }


def open_model(
    runtime: str,
    model: dict[str, Any],
    num_threads: int,
    library: str,
    options: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Any:
    """Return a stock interpreter of the model that has loaded the kernels.

    Args:
        runtime: a name of `RUNTIMES`.
        model: argument of `read_model`.
        num_threads: threads of the interpreter.
        library: the kernels.
        options: of the kernels' delegate.
        **arguments: of the stock interpreter.

    Raises:
        RuntimeError: the library or the model does not fit the runtime; the message says why.
    """
    interpreter, load_delegate = names(runtime)
    try:
        ctypes.CDLL(library)  # first, since a runtime that fails to load it complains twice
        delegate = load_delegate(library, options)
    except OSError as error:
        raise RuntimeError(
            f"{runtime} cannot load kerasq's kernels from {library}: {error}. Rebuild them on this "
            "machine with `pip install .`"
        ) from error
    with warnings.catch_warnings():
        # tf.lite advertises ai_edge_litert, which the caller chose against.
        warnings.filterwarnings("ignore", message=r"[\s\S]*tf\.lite\.Interpreter is deprecated")
        return interpreter(
            **model, num_threads=num_threads, experimental_delegates=[delegate], **arguments
        )
