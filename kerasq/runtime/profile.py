"""What the kernels ran and took, counted in their library; and what the runtime delegated."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import os
from typing import Any

# The delegate's option whose value names a profile.
OPTION = "profile"
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class OperatorProfile:
    """One of kerasq's operators in an interpreter.

    Attributes:
        index: its number among the operators of the file's first graph.
        kernel: what runs it, such as "codebook_look_up_avx2"; "none" where its output is empty.
        scratch_bytes: of the runtime's memory while it runs, for the inputs' present shapes.
        runs: since the interpreter was made.
        nanoseconds: of all those runs.
    """

    index: int
    kernel: str
    scratch_bytes: int
    runs: int
    nanoseconds: int


class _Record(ctypes.Structure):
    """``KerasqOperatorProfile`` of ``tflite_kernels/tflite/profile.h``."""

    _fields_ = (
        ("node", ctypes.c_int32),
        ("kernel", ctypes.c_char * 60),
        ("scratch_bytes", ctypes.c_uint64),
        ("runs", ctypes.c_uint64),
        ("nanoseconds", ctypes.c_uint64),
    )


class Profile:
    """The counters of one interpreter's delegate.

    Args:
        library: the kernels' library, that the delegate is loaded from.
    """

    def __init__(self, library: str) -> None:
        self.options = {OPTION: f"python-{os.getpid()}-{next(_numbers)}"}
        self._library = library

    def read(self) -> list[OperatorProfile]:
        """Return the operators in the order of the file; any thread may ask at any time."""
        function = ctypes.CDLL(self._library).KerasqProfile_Read
        function.argtypes = (ctypes.c_char_p, ctypes.POINTER(_Record), ctypes.c_int)
        name = self.options[OPTION].encode()
        records = (_Record * max(function(name, None, 0), 0))()
        count = min(function(name, records, len(records)), len(records))
        return [
            OperatorProfile(r.node, r.kernel.decode(), r.scratch_bytes, r.runs, r.nanoseconds)
            for r in records[: max(count, 0)]
        ]


def delegated(interpreter: Any, operators: int) -> set[int]:
    """Return which operators of the first graph run in a delegate: XNNPACK, or kerasq's own.

    The runtime appends a node for every delegated part: its operators are all that lead from its
    inputs to its outputs.

    Args:
        interpreter: a stock interpreter, or ours, with allocated tensors.
        operators: how many operators the first graph of the file has.
    """
    nodes = interpreter._get_ops_details()
    producers = {int(out): node for node in nodes[:operators] for out in node["outputs"]}
    found: set[int] = set()
    for part in nodes[operators:]:
        seen = {int(i) for i in part["inputs"]}
        pending = [int(i) for i in part["outputs"]]
        while pending:
            tensor = pending.pop()
            if tensor in seen or tensor not in producers:
                continue
            seen.add(tensor)
            found.add(producers[tensor]["index"])
            pending += [int(i) for i in producers[tensor]["inputs"]]
    return found
