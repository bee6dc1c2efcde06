"""What a method costs in training: ``python -m kerasq.benchmark.training``.

A step of ResNet-20 on batches of 128, for every method, over the step of the float network: each
method's steps alternate with the float network's, so that what slows the machine slows both. The
same quantizers of larq, and TFMOT's 8-bit model, are measured in the same way in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
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
    """A method's step.

    Attributes:
        name: of the method.
        library: "kerasq", "larq" or "tfmot".
        seconds: median of a step.
        float_seconds: median of the float network's steps between them.
    """

    name: str
    library: str
    seconds: float
    float_seconds: float

    @property
    def ratio(self) -> float:
        """Step over the float network's step."""
        return self.seconds / self.float_seconds


def step_of(model: Any, seed: int = 0) -> Callable[[], None]:
    """Compile a network and return a function that takes one step on a fixed batch."""
    compile_for_training(model)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(BATCH, 32, 32, 3)).astype(np.float32)
    y = rng.integers(0, 10, BATCH)
    return lambda: model.train_on_batch(x, y)


def alternate(first: Callable[[], None], second: Callable[[], None], steps: int) -> tuple:
    """Return the median seconds of both, taken in turn, after a warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for step in range(WARM_UP + steps):
        for function, seconds in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            if step >= WARM_UP:
                seconds.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


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


def run(names: list[str], steps: int, show: Callable[[str], None]) -> Iterator[Cost]:
    """Measure the methods in turn."""
    reference = step_of(resnet20(FLOAT))
    for index, name in enumerate(names, 1):
        show(f"{name} ({index} of {len(names)})")
        for library, build in networks(name).items():
            seconds, float_seconds = alternate(step_of(build()), reference, steps)
            yield Cost(name, library, seconds, float_seconds)


def print_costs(costs: list[Cost]) -> None:
    """Print a row for each measurement."""
    table = Table(title=f"Training step of ResNet-20, batch {BATCH}, over the float network's")
    table.add_column("method", no_wrap=True)
    table.add_column("library")
    for column in ("ms", "float ms", "ratio"):
        table.add_column(column, justify="right")
    for cost in costs:
        table.add_row(
            cost.name,
            cost.library,
            f"{1e3 * cost.seconds:.0f}",
            f"{1e3 * cost.float_seconds:.0f}",
            f"{cost.ratio:.2f}",
        )
    table_console().print(table)


def main() -> None:
    """Measure and print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(description="Time a training step of every method.")
    parser.add_argument("--methods", nargs="+", help="names; all of the catalogue without it")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each")
    parser.add_argument("--json", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    unknown = set(arguments.methods or ()) - set(methods())
    if unknown:
        parser.error(f"no method is called {sorted(unknown)[0]!r}: {', '.join(methods())}")
    costs: list[Cost] = []
    try:
        with stage(f"{arguments.steps} steps of each") as show:
            for cost in run(arguments.methods or methods(), arguments.steps, show):
                costs.append(cost)
                if arguments.json is not None:  # after each, so that nothing is lost
                    rows = [{**dataclasses.asdict(done), "ratio": done.ratio} for done in costs]
                    write_json(arguments.json, rows)
    finally:
        print_costs(costs)


if __name__ == "__main__":
    main()
