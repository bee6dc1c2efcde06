"""Fuzzes whole ``.tflite`` files: damaged exports, run by a stock runtime with kerasq's delegate.

    PYTHONPATH=. python tflite_kernels/fuzz/files_fuzzer.py --library LIBRARY [--seconds N]
    PYTHONPATH=. python tflite_kernels/fuzz/files_fuzzer.py --library LIBRARY --repeat FILE

Files are mutated here and run in a child process, which a crash ends and a deadline, too. LIBRARY
is built with the address sanitizer, whose runtime the child preloads: it sees what the operators
read and write of the runtime's memory, and its report tells whose code that was. A file that
crashes is saved under ``--out``; those of kerasq's code make this program exit with 1, those that
crash the runtime by itself, without the delegate, are only counted.
"""

from __future__ import annotations

import argparse
import collections
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.runtime import models

sys.path.insert(0, str(Path(__file__).resolve().parent))
from file_mutations import mutate

RUNNER = Path(__file__).resolve().parent / "file_runner.py"
DEADLINE = 30.0  # seconds for one file
SANITIZER = "detect_leaks=0:handle_abort=1:allocator_may_return_null=1:max_allocation_size_mb=2048"


class Runner:
    """A child process that runs files until one crashes it.

    Args:
        library: the delegate, or None for the runtime alone.
        log: where to write what it prints.
    """

    def __init__(self, library: str | None, log: Path) -> None:
        # The sanitizer looks for the functions of C++ that it intercepts when it is loaded.
        preload = [
            subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
            for name in ("libasan.so", "libstdc++.so")
        ]
        environment = os.environ | {
            "LD_PRELOAD": " ".join(preload),
            "ASAN_OPTIONS": SANITIZER,
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",
        }
        self._log = log
        with log.open("wb") as stderr:
            self._child = subprocess.Popen(
                [sys.executable, str(RUNNER), *([library] if library else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
            )

    def run(self, content: bytes) -> str:
        """Return the child's answer, "crashed" or "slow"; it has ended after the last two."""
        try:
            self._child.stdin.write(len(content).to_bytes(4, "little") + content)
            self._child.stdin.flush()
        except BrokenPipeError:
            return "crashed"
        if not select.select([self._child.stdout], [], [], DEADLINE)[0]:
            self.close()
            return "slow"
        return self._child.stdout.readline().decode().strip() or "crashed"

    def report(self) -> str:
        """Return what the child wrote before it crashed."""
        self._child.wait()
        return self._log.read_text(errors="replace")[-20000:]

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.wait()


def seeds() -> list[bytes]:
    """Return a small export of every operator."""
    rng = np.random.default_rng(7)
    image, vector = (6, 6, 5), (9,)
    layers = [
        (image, models.bitplane_conv(rng, 5, 7)),
        (image, models.bitplane_conv(rng, 5, 7, input_planes=2, pad_value=0)),
        (image, models.bitplane_conv(rng, 5, 7, input_planes=0)),
        ((6, 6, 4), models.bitplane_conv(rng, 4, 8, groups=4)),
        (vector, models.bitplane_dense(rng, 9, 7, input_planes=1)),
        (image, models.codebook_conv(rng, 5, 6)),
        (image, models.codebook_conv(rng, 5, 6, 2, 40, 6)),
        (image, models.codebook_conv(rng, 5, 6, 4, 300, 9, "channel")),
        (vector, models.codebook_dense(rng, 9, 6)),
        (image, models.sparse_conv(rng, 5, 6)),
        (vector, models.sparse_dense(rng, 9, 40)),
        (vector, models.hashed_dense(rng, 9, 12)),
    ]
    return [models.convert(models.sequential(shape, layer)) for shape, layer in layers]


def whose(content: bytes, report: str, log: Path) -> str:
    """Tell whose a crash is: "runtime" where it needs no delegate or no frame is ours."""
    alone = Runner(None, log)
    outcome = alone.run(content)
    alone.close()
    if outcome in ("crashed", "slow"):
        return "runtime"
    stack = [line for line in report.splitlines() if line.lstrip().startswith("#")]
    ours = any("kerasq" in line for line in stack) or "kerasq" in report.split("SUMMARY")[-1]
    return "kerasq" if ours or not stack else "runtime"


def fuzz(library: str, seconds: float, seed: int, out: Path) -> collections.Counter[str]:
    """Run mutated files for that long; return how often what happened."""
    rng = np.random.default_rng(seed)
    start, counts = seeds(), collections.Counter()
    runner = Runner(library, out / "runner.txt")
    for content in start:
        if runner.run(content) != "ran":
            raise RuntimeError(f"an undamaged file does not run: {runner.report()[-2000:]}")
    finish = time.monotonic() + seconds
    while time.monotonic() < finish:
        content = mutate(rng, start[rng.integers(len(start))])
        outcome = runner.run(content)
        if outcome in ("crashed", "slow"):
            report = runner.report()
            outcome += " in " + whose(content, report, out / "alone.txt")
            path = out / f"{outcome.replace(' ', '-')}-{sum(counts.values())}.tflite"
            path.write_bytes(content)
            path.with_suffix(".txt").write_text(report)
            print(f"{outcome}: {path}", flush=True)
            runner = Runner(library, out / "runner.txt")
        counts[outcome] += 1
    runner.close()
    return counts


def repeat(library: str, path: Path) -> int:
    """Run one file, and print what becomes of it; 1 where it crashes or is slow."""
    runner = Runner(library, path.with_suffix(".log"))
    outcome = runner.run(path.read_bytes())
    failed = outcome in ("crashed", "slow")
    print(f"{path}: {outcome}", runner.report() if failed else "", sep="\n")
    runner.close()
    return int(failed)


def main() -> int:
    """Fuzz as the command line says; 1 where kerasq's code is at fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--library", required=True, help="libkerasq_tflite.so, address-sanitized")
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz/files"))
    parser.add_argument("--repeat", type=Path, help="run this file alone, and print what it gives")
    arguments = parser.parse_args()
    if arguments.repeat is not None:
        return repeat(arguments.library, arguments.repeat)
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"files_fuzzer: seed {seed}, {arguments.seconds:g} s", flush=True)
    counts = fuzz(arguments.library, arguments.seconds, seed, arguments.out)
    print(f"files_fuzzer: {sum(counts.values())} files: {dict(counts.most_common())}")
    return int(any(outcome.endswith("kerasq") for outcome in counts))


if __name__ == "__main__":
    sys.exit(main())
