"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a file beside its place and rename it, so that it appears whole or not at all.

    What a killed process left beside is overwritten by the next one.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:  # Ctrl-C too leaves nothing half-written
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
