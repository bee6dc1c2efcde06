"""What a method costs in training: ``python -m kerasq.benchmark.training``.

A step of ResNet-20 on batches of 128, for every method, over the step of the float network. The
same quantizers of larq, and TFMOT's 8-bit model, are measured in the same run. Steps are taken in
turn and compared within a turn, so that what slows the machine slows all. One thread by default: an
operating system that puts two of TensorFlow's threads on one core for a step doubles its time.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.table import Table

import kerasq.layers as ql
from kerasq import quantizers
from kerasq.benchmark.methods import FLOAT, compile_for_training, methods, resnet20
from kerasq.benchmark.progress import stage
from kerasq.benchmark.report import write_json
from kerasq.export.summary import table_console
from kerasq.keras import keras, keras_version

BATCH, WARM_UP = 128, 2
# Ours on the left: larq has the same gradient and, but for the scale, the same values.
LARQ = {
    "ste_sign": "ste_sign",
    "approx_sign": "approx_sign",
    "swish_sign": "swish_sign",
    "magnitude_aware_sign": "magnitude_aware_sign",
    "dorefa_activations": "dorefa_quantizer",
    "twn": "ste_tern",
}
TFMOT = "calibrate_max"


@dataclasses.dataclass(frozen=True)
class Cost:
    """A method's step, each figure the median of the measured turns.

    Attributes:
        name: of the method.
        library: "kerasq", "larq" or "tfmot".
        seconds: of a step.
        over_float: over the float network's step of the same turn.
        over_ours: over kerasq's step of the same turn; 1 for kerasq itself.
    """

    name: str
    library: str
    seconds: float
    over_float: float
    over_ours: float


def step_of(model: Any, seed: int = 0) -> Callable[[], None]:
    """Compile a network and return a function that takes one step on a fixed batch."""
    compile_for_training(model)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, 32, 32, 3)).astype(np.float32)
    y = rng.integers(0, 10, BATCH)
    return lambda: model.train_on_batch(x, y)


def take_turns(functions: list[Callable[[], None]], turns: int) -> np.ndarray:
    """Return the seconds of each function in each turn, (turns, functions), after a warm-up."""
    seconds = np.empty((WARM_UP + turns, len(functions)))
    for turn in seconds:
        for index, function in enumerate(functions):
            start = time.perf_counter()
            function()
            turn[index] = time.perf_counter() - start
    return seconds[WARM_UP:]


def networks(name: str) -> dict[str, Callable[[], Any]]:
    """Return what to measure for a method, by library; each a function that builds a network."""
    built = {"kerasq": lambda: resnet20(name)}
    if keras_version() == 2:
        if name in LARQ:
            built["larq"] = lambda: _with_larq(name)
        if name == TFMOT:
            built["tfmot"] = _with_tfmot
    return built


def _with_larq(name: str) -> Any:
    import larq

    use = "kernel_quantizer"
    if quantizers.catalogue()[name].target != "weights":
        use = "input_quantizer"
    method = LARQ[name]
    if method == "ste_tern":
        method = larq.quantizers.SteTern(ternary_weight_networks=True)
    if method == "dorefa_quantizer":
        method = larq.quantizers.DoReFa(2, "activations")
    model = resnet20(name)

    def clone(layer: Any) -> Any:
        if not isinstance(layer, ql.QuantConv2D):
            return layer.__class__.from_config(layer.get_config())
        same = {"padding": "same", "use_bias": False, "name": layer.name}
        partner = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
        if layer.input_quantizer is None:
            partner["input_quantizer"] = None
        return larq.layers.QuantConv2D(
            layer.filters, 3, layer.strides, **{**partner, use: method}, **same
        )

    return keras.models.clone_model(model, clone_function=clone)


def _with_tfmot() -> Any:
    import tensorflow_model_optimization as tfmot

    def clone(layer: Any) -> Any:
        if not isinstance(layer, ql.QuantConv2D):
            return layer.__class__.from_config(layer.get_config())
        same = {"padding": "same", "use_bias": False, "name": layer.name}
        return keras.layers.Conv2D(layer.filters, 3, layer.strides, **same)

    plain = keras.models.clone_model(resnet20(FLOAT), clone_function=clone)
    return tfmot.quantization.keras.quantize_model(plain)


def run(names: list[str], turns: int, show: Callable[[str], None]) -> Iterator[Cost]:
    """Measure the methods one after the other."""
    float_step = step_of(resnet20(FLOAT))
    for index, name in enumerate(names, 1):
        show(f"{name} ({index} of {len(names)})")
        built = networks(name)
        steps = [step_of(build()) for build in built.values()]
        seconds = take_turns([float_step, *steps], turns)
        of_float, ours = seconds[:, 0], seconds[:, 1]
        for library, step in zip(built, seconds.T[1:], strict=True):
            yield Cost(
                name, library, *(float(np.median(x)) for x in (step, step / of_float, step / ours))
            )
        keras.backend.clear_session()  # the graphs of 50 networks would fill the memory


def print_costs(costs: list[Cost]) -> None:
    """Print a row for each measurement."""
    table = Table(title=f"Training step of ResNet-20, batch {BATCH}; medians")
    table.add_column("method", no_wrap=True)
    table.add_column("library")
    for column in ("ms", "over float", "over kerasq"):
        table.add_column(column, justify="right")
    for cost in costs:
        over_ours = "" if cost.library == "kerasq" else f"{cost.over_ours:.2f}"
        figures = f"{1e3 * cost.seconds:.0f}", f"{cost.over_float:.2f}", over_ours
        table.add_row(cost.name, cost.library, *figures)
    table_console().print(table)


def main() -> None:
    """Measure and print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description="Time a training step of every method.")
    parser.add_argument("--methods", nargs="+", help="names; all of the catalogue without it")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each")
    parser.add_argument("--threads", type=int, default=1, help="of TensorFlow; 0 lets it choose")
    parser.add_argument("--json", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    unknown = set(arguments.methods or ()) - set(methods())
    if unknown:
        parser.error(f"no method is called {sorted(unknown)[0]!r}: {', '.join(methods())}")
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    costs: list[Cost] = []
    try:
        with stage(f"{arguments.steps} steps of each") as show:
            for cost in run(arguments.methods or methods(), arguments.steps, show):
                costs.append(cost)
                if arguments.json is not None:  # after each, so that nothing is lost
                    write_json(arguments.json, [dataclasses.asdict(done) for done in costs])
    finally:
        print_costs(costs)


if __name__ == "__main__":
    main()
