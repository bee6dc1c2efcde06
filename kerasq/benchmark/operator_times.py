"""Where the time of a ``.tflite`` file goes: its operators, one by one, in the stock runtime.

An unmodified runtime tells Python nothing of its operators' times. So there are four clocks, and
every round reads each of them once, on the same sample:

- around the whole model;
- within kerasq's kernels, for kerasq's operators, as they run in the whole model (which it makes
  slower by two readings of a clock for each);
- for every other operator, around a file cut out of the model: the operator alone with its
  constants, fed with what it reads in the whole model;
- around a file without operators, that is a call from Python: it is taken off the one before.

What the parts do not explain is the *unattributed* rest: the runtime's own work between operators,
and the operators that have no time of their own. It is below 0 where operators run faster together
than alone, as XNNPACK's may.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kerasq.benchmark.latency import Timing, load
from kerasq.export.extraction import Extractor, empty
from kerasq.export.inspection import Operator, inspect
from kerasq.runtime import Interpreter
from kerasq.runtime.profile import delegated

XNNPACK, BUILTIN = "XNNPACK", "TFLite"
OTHER_GRAPH, REFUSED = "other graph", "not alone"

Show = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """One operator of the file.

    Attributes:
        index: position in the file.
        name: "CONV_2D", "KerasqBitplaneConv2D", ...
        layer: the Keras layer it comes from, as far as tensor names tell.
        shape: of its first output.
        kernel: what runs it: a path of kerasq's kernels, "XNNPACK", or "TFLite", the runtime's own.
        microseconds: median of its runs; None where there is no time of its own.
        note: why there is none: "constant" (computed once, not in every run), "control flow",
            "keeps state", "other graph", "not alone" (the runtime refuses a file of it). Or which
            of "XNNPACK" and "TFLite" ran it alone, where that is not what runs it in the model.
        constant_bytes: of its constants in the file.
        activation_bytes: of the tensors that it reads and writes, constants apart.
        scratch_bytes: of memory besides them while it runs; None where the runtime does not tell.
    """

    index: int
    name: str
    layer: str
    shape: tuple[int, ...]
    kernel: str
    microseconds: float | None
    note: str
    constant_bytes: int
    activation_bytes: int
    scratch_bytes: int | None

    @property
    def peak_bytes(self) -> int:
        """Bytes of memory it needs while it runs, constants apart, as far as the runtime tells."""
        return self.activation_bytes + (self.scratch_bytes or 0)


@dataclasses.dataclass(frozen=True)
class OperatorTimes:
    """A file's operators and the whole, measured in the same rounds.

    Attributes:
        operators: in the order of the file.
        whole: one inference of the whole model, called from Python.
        call: microseconds of a call from Python that computes nothing, a part of the whole.
        threads: of the runtime.
    """

    operators: list[OperatorTime]
    whole: Timing
    call: float
    threads: int

    @property
    def attributed(self) -> float:
        """Microseconds of all operators together."""
        return sum(operator.microseconds or 0.0 for operator in self.operators)

    @property
    def unattributed(self) -> float:
        """Microseconds of the whole that neither the operators nor the call explain."""
        return self.whole.median - self.call - self.attributed

    def share(self, microseconds: float | None) -> float | None:
        """Return per cent of the whole."""
        return None if microseconds is None else 100 * microseconds / self.whole.median

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON types; times are in microseconds, shares in per cent."""
        rows = [
            {
                **dataclasses.asdict(operator),
                "share": self.share(operator.microseconds),
                "peak_bytes": operator.peak_bytes,
            }
            for operator in self.operators
        ]
        return {
            "threads": self.threads,
            "whole": dataclasses.asdict(self.whole),
            "call": self.call,
            "attributed": self.attributed,
            "unattributed": self.unattributed,
            "operators": rows,
        }


def measure(
    path: str | os.PathLike[str],
    runs: int = 100,
    num_threads: int = 1,
    on_progress: Show = lambda text: None,
) -> OperatorTimes:
    """Measure every operator of a file, one sample at a time.

    Args:
        path: a file with operators of kerasq.
        runs: rounds that are measured; a tenth (at least 3) comes first and is not counted.
        num_threads: threads of the runtime.
        on_progress: called with what is being done.

    Raises:
        FileNotFoundError: no such file.
        ValueError: ``runs`` or ``num_threads`` below 1, no ``.tflite``, or none of kerasq's
            operators in it.
        RuntimeError: the runtime refuses the file.
    """
    if runs < 1 or num_threads < 1:
        raise ValueError(f"runs and threads must be at least 1, got {runs} and {num_threads}")
    operators = inspect(path).operators
    if not any(operator.is_custom for operator in operators):
        raise ValueError(
            f"{os.fspath(path)} has none of kerasq's operators: time it without --per-op, or use "
            "TensorFlow's benchmark_model with --enable_op_profiling=true"
        )
    model = load(path, num_threads, profile=True)
    on_progress("run it once, keeping every tensor")
    tensors = _Tensors(load(path, num_threads, keep_tensors=True))
    parts = _Parts(Path(path).read_bytes(), model, tensors, num_threads)
    for operator in operators:
        on_progress(f"cut out operator {operator.index} of {len(operators)}")
        parts.add(operator)
    clocks = _Clocks(model, parts.alone, _opened(empty(), num_threads))
    clocks.run(runs, on_progress)
    call = Timing.of(clocks.call).median
    rows = [parts.row(operator, clocks, call) for operator in operators]
    return OperatorTimes(rows, Timing.of(clocks.whole), call, num_threads)


class _Tensors:
    """The tensors of the first graph, as a run of the whole model leaves them."""

    def __init__(self, interpreter: Interpreter) -> None:
        interpreter.invoke()
        self._interpreter = interpreter
        details = interpreter.get_tensor_details()
        self.shapes = {d["index"]: tuple(int(n) for n in d["shape"]) for d in details}
        self._itemsize = {d["index"]: np.dtype(d["dtype"]).itemsize for d in details}

    def value(self, index: int) -> np.ndarray:
        return self._interpreter.get_tensor(index)

    def nbytes(self, indices: list[int]) -> int:
        return sum(
            int(np.prod(self.shapes[index], dtype=np.int64)) * self._itemsize[index]
            for index in indices
            if index in self.shapes
        )


class _Parts:
    """A file taken apart.

    Attributes:
        alone: the operators of TFLite that can run alone, each ready to.
    """

    def __init__(
        self, content: bytes, model: Interpreter, tensors: _Tensors, num_threads: int
    ) -> None:
        self.alone: dict[int, Interpreter] = {}
        self._notes: dict[int, str] = {}
        self._extractor = Extractor(content)
        self._delegated = delegated(model, len(self._extractor))
        self._tensors, self._num_threads = tensors, num_threads

    def add(self, operator: Operator) -> None:
        """Cut an operator out, or note why not; kerasq's own are timed in the whole model."""
        index = operator.index
        if index >= len(self._extractor):
            self._notes[index] = OTHER_GRAPH
        elif not operator.is_custom:
            self._notes[index] = self._extractor.obstacle(index) or self._cut(index)

    def _cut(self, index: int) -> str:
        extract = self._extractor.extract(index, self._tensors.shapes)
        try:
            interpreter = _opened(extract.content, self._num_threads)
            details = interpreter.get_input_details()
            for detail, source in zip(details, extract.inputs, strict=True):
                interpreter.set_tensor(detail["index"], self._tensors.value(source))
            interpreter.invoke()
        except (RuntimeError, ValueError):  # whatever the runtime has against it
            return REFUSED
        self.alone[index] = interpreter
        is_last_delegated = extract.operators - 1 in delegated(interpreter, extract.operators)
        runs_alone = XNNPACK if is_last_delegated else BUILTIN
        return "" if runs_alone == self._kernel(index) else runs_alone

    def _kernel(self, index: int) -> str:
        return XNNPACK if index in self._delegated else BUILTIN

    def row(self, operator: Operator, clocks: _Clocks, call: float) -> OperatorTime:
        """Return what was measured of an operator."""
        index, extractor = operator.index, self._extractor
        inside = index < len(extractor)
        outputs = extractor.outputs(index) if inside else []
        inputs = extractor.dynamic_inputs(index) if inside else []
        kernel, microseconds, scratch = self._kernel(index), None, None
        if index in self.alone:
            microseconds = max(0.0, Timing.of(clocks.parts[index]).median - call)
        elif index in clocks.profiles:
            microseconds = Timing.of(clocks.parts[index]).median
            kernel = clocks.profiles[index].kernel
            scratch = clocks.profiles[index].scratch_bytes
        return OperatorTime(
            index=index,
            name=operator.name,
            layer=operator.layer,
            shape=self._tensors.shapes.get(outputs[0], ()) if outputs else (),
            kernel=kernel if inside else "",
            microseconds=microseconds,
            note=self._notes.get(index, ""),
            constant_bytes=operator.nbytes,
            activation_bytes=self._tensors.nbytes([*inputs, *outputs]),
            scratch_bytes=scratch,
        )


class _Clocks:
    """The rounds: every clock once in each.

    Attributes:
        whole: seconds of the whole model.
        call: seconds of a file without operators.
        parts: seconds of each operator: within the kernels, or of the file of it alone.
        profiles: what kerasq's kernels tell, by operator.
    """

    def __init__(
        self, model: Interpreter, alone: dict[int, Interpreter], nothing: Interpreter
    ) -> None:
        self._model, self._alone, self._nothing = model, alone, nothing
        self.profiles = {profile.index: profile for profile in model.operator_profiles()}
        self.whole: list[float] = []
        self.call: list[float] = []
        self.parts: dict[int, list[float]] = {index: [] for index in (*self.profiles, *alone)}

    def run(self, runs: int, on_progress: Show) -> None:
        """Run the rounds that are not counted, and those that are."""
        warmup = max(3, runs // 10)
        for turn in range(warmup + runs):
            if turn == warmup:
                for seconds in (self.whole, self.call, *self.parts.values()):
                    seconds.clear()
            self._round()
            on_progress(f"round {turn + 1} of {warmup + runs}")

    def _round(self) -> None:
        before = self.profiles
        self.whole.append(_seconds(self._model))
        self.profiles = {profile.index: profile for profile in self._model.operator_profiles()}
        for index, profile in self.profiles.items():
            nanoseconds = profile.nanoseconds - before[index].nanoseconds
            self.parts[index].append(nanoseconds * 1e-9)
        for index, interpreter in self._alone.items():
            self.parts[index].append(_seconds(interpreter))
        self.call.append(_seconds(self._nothing))


def _seconds(interpreter: Interpreter) -> float:
    invoke = interpreter.invoke
    start = time.perf_counter()
    invoke()
    return time.perf_counter() - start


def _opened(content: bytes, num_threads: int) -> Interpreter:
    interpreter = Interpreter(model_content=content, num_threads=num_threads)
    interpreter.allocate_tensors()
    return interpreter
