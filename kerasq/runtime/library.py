"""Where the compiled kernels are."""

from __future__ import annotations

import os
from pathlib import Path

LIBRARY = "libkerasq_tflite.so"
OVERRIDE = "KERASQ_LIBRARY"


def library_path() -> str:
    """Return the path of the kernels' library, for any runtime's ``load_delegate``.

    The variable ``KERASQ_LIBRARY`` overrides the library of the package.

    Raises:
        FileNotFoundError: the kernels have not been built; the message says how.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        if not Path(override).is_file():
            raise FileNotFoundError(
                f"{OVERRIDE} is set to {override}, which is no file: set it to a built {LIBRARY}, "
                "or unset it to use the package's own"
            )
        return override
    path = Path(__file__).resolve().parent / LIBRARY
    if not path.is_file():
        raise FileNotFoundError(
            f"kerasq's kernels are not built: {path} does not exist. Run `pip install .` in the "
            f"source folder, or `make build` in a development tree, or set {OVERRIDE} to a built "
            f"{LIBRARY}"
        )
    return str(path)
