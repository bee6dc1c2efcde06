"""Runs each file that comes through stdin in a stock runtime, and answers what became of it.

    file_runner.py [LIBRARY]        without a library: no delegate

A file comes as its length, 4 bytes, and its content; the answer is a line: "ran", "refused",
or "large" where its inputs are left alone for their size. A crash ends this process.
"""

from __future__ import annotations

import sys

import numpy as np
from ai_edge_litert import interpreter as litert

LARGEST_INPUT = 1 << 20


def run(content: bytes, delegates: list[object]) -> str:
    """Load, allocate, invoke and read a file."""
    try:
        interpreter = litert.Interpreter(model_content=content, experimental_delegates=delegates)
        for detail in interpreter.get_input_details():
            if np.prod(detail["shape"], dtype=np.float64) > LARGEST_INPUT:
                return "large"
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], np.ones(detail["shape"], detail["dtype"]))
        interpreter.invoke()
        for detail in interpreter.get_output_details():
            interpreter.get_tensor(detail["index"])
    except (RuntimeError, ValueError, TypeError, MemoryError, UnicodeDecodeError):
        return "refused"
    return "ran"


def main() -> None:
    """Answer until stdin ends."""
    delegates = [litert.load_delegate(library) for library in sys.argv[1:]]
    while size := sys.stdin.buffer.read(4):
        content = sys.stdin.buffer.read(int.from_bytes(size, "little"))
        print(run(content, delegates), flush=True)


if __name__ == "__main__":
    main()
