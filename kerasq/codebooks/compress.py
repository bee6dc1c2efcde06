"""Compress a whole network with codebooks, layer after layer."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.activations import Activations
from kerasq.codebooks.checkpoint import Checkpoint
from kerasq.codebooks.cloning import clone_with_replacements
from kerasq.codebooks.data import calibration_arrays, labels_of
from kerasq.codebooks.finetuning import Augment, FineTuner
from kerasq.codebooks.method import LayerSettings, Method
from kerasq.codebooks.moments import Moments
from kerasq.codebooks.program import Program, Step
from kerasq.codebooks.progress import LayerProgress
from kerasq.codebooks.registry import get
from kerasq.codebooks.sampling import PatchSampler
from kerasq.codebooks.site import Site, Solution
from kerasq.keras import check_model, keras


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes:
        name: of the layer.
        settings: of the method's plan.
        solution: its new weights and their errors.
        seconds: taken; 0 where it was read from a checkpoint.
    """

    name: str
    settings: LayerSettings
    solution: Solution
    seconds: float

    def __str__(self) -> str:
        before, after = self.solution.error_before, self.solution.error_after
        change = f"{before:.3%}" if before == after else f"{before:.3%} -> {after:.3%}"
        spent = f"{self.seconds:.1f} s" if self.seconds else "from the checkpoint"
        return f"{self.name}: {self.settings}, error {change}, {spent}"


def compress(
    model: Any,
    data: Any,
    method: Method | str,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    *,
    batch_size: int = 128,
    augment: Augment | None = None,
    verbose: bool = True,
    callback: Callable[[LayerReport], None] | None = None,
) -> Any:
    """Return a copy of a model whose Conv2D and Dense layers are compressed.

    Layers are taken in topological order. Each one's inputs come from the network as compressed so
    far, its targets from the float network on the same images, at the same output positions:
    errors of earlier layers are corrected, not accumulated. All other layers, subclasses of Conv2D
    and Dense and DepthwiseConv2D among them, stay as they are. A layer that is called several
    times is fitted to its first call.

    The copy is not compiled. Its codewords are trained by ``compile`` and ``fit``; the assignments
    stay. The model given is not changed.

    Args:
        model: built Sequential or Functional model of the active Keras; branches, residual
            connections and models within the model are fine.
        data: inputs, all of which are taken: an array, ``tf.data.Dataset`` or Keras ``Sequence``;
            or (inputs, labels), which only methods that train on labels look at. None where the
            method needs none.
        method: such as `QCNN`, or its name in `catalogue`.
        checkpoint_dir: folder to which each finished layer, and training under way, is written.
            Called again with the same arguments after an interruption, it goes on from there, with
            the same result.
        batch_size: images at a time.
        augment: changes the batches that the method trains on, ``augment([inputs], rng)``.
        verbose: show progress, with the relative error of each layer's responses before and
            after error correction.
        callback: is called with a `LayerReport` after each layer.

    Raises:
        TypeError: a model or data of a kind that cannot be compressed, a model of the other Keras.
        ValueError: an unbuilt model, no layer to compress, weights or data that are not finite,
            data of another shape, settings that do not fit a layer, a checkpoint of another run.
    """
    check_model(model, "compress")
    method = get(method)
    sites = sites_of(Program(model))
    plan = method.plan([step.layer for step in sites])
    if not plan:
        raise ValueError(
            f"model {model.name!r} has no Conv2D or Dense layer for {method.name} to compress"
        )
    for step in sites:
        if step.layer.name in plan:
            _kernel(step.layer)  # raises where it is not finite
    arrays = _data(model, data, method)
    labels = None if arrays is None else labels_of(data, model)
    checkpoint = None
    if checkpoint_dir is not None:
        checkpoint = Checkpoint(checkpoint_dir, _run_of(model, arrays, method, plan))
    with LayerProgress(len(plan), verbose) as progress:
        tuner = FineTuner(model, arrays, labels, checkpoint, augment, method.seed, progress.detail)
        job = _Job(method.prepare(model, tuner), plan, method, arrays, checkpoint, batch_size)
        _say_left_in_float(job.program, plan, progress)
        job.run(tuner, progress, callback)
        method.finish(job.compressed, tuner)
    return job.compressed


class _Job:
    """The layers of a run, one after the other.

    Attributes:
        compressed: the copy with replacements.
    """

    def __init__(
        self,
        model: Any,
        plan: dict[str, LayerSettings],
        method: Method,
        arrays: list[np.ndarray] | None,
        checkpoint: Checkpoint | None,
        batch_size: int,
    ):
        self.program = Program(model)
        self._sites = [step for step in sites_of(self.program) if step.layer.name in plan]
        self._plan, self._method, self._checkpoint = plan, method, checkpoint
        replaced = {id(step.layer): plan[step.layer.name] for step in self._sites}
        self.compressed, self._twins = clone_with_replacements(model, replaced)
        self._finished: dict[int, Solution] = {}
        for index in range(len(self._sites)):
            solution = checkpoint and checkpoint.load(index, self._sites[index].layer.name)
            if solution:
                self._finished[index] = solution
        self._open = [i for i in range(len(self._sites)) if i not in self._finished]
        self._activations = None
        if arrays is not None and method.needs_moments:
            targets = [self._sites[i].inputs[0] for i in self._open]
            self._activations = Activations(self.program, arrays, targets, batch_size)

    def run(
        self,
        tuner: FineTuner,
        progress: LayerProgress,
        callback: Callable[[LayerReport], None] | None,
    ) -> None:
        try:
            # All that are finished first: the layers between them are run compressed.
            for index in sorted(self._finished):
                self._replace(index, self._finished[index], tuner)
                self._report(index, self._finished[index], 0.0, progress, callback)
            for stop, index in enumerate(self._open):
                name = self._sites[index].layer.name
                progress.start(name)
                start = time.perf_counter()
                try:
                    solution = self._solve(stop, index)
                except ValueError as error:
                    raise ValueError(f"layer {name!r}: {error}") from error
                if self._checkpoint is not None:
                    self._checkpoint.save(index, solution)
                self._replace(index, solution, tuner)
                seconds = time.perf_counter() - start
                self._report(index, solution, seconds, progress, callback)
        finally:
            if self._activations is not None:
                self._activations.close()

    def _solve(self, stop: int, index: int) -> Solution:
        layer = self._sites[index].layer
        kernel = _kernel(layer)
        # A generator of its own: a run that was taken up again gives the same.
        rng = np.random.default_rng([self._method.seed, index])
        moments = None
        if self._activations is not None:
            moments = self._moments(stop, layer, kernel, rng)
        return self._method.solve(Site(layer, kernel, self._plan[layer.name], moments), rng)

    def _moments(self, stop: int, layer: Any, kernel: np.ndarray, rng: Any) -> list[Moments]:
        weights = np.split(
            kernel.reshape(-1, kernel.shape[-1]), getattr(layer, "groups", 1), axis=1
        )
        moments = [Moments(*part.shape) for part in weights]
        sampler = PatchSampler(layer, self._method.positions, rng)

        def visit(original: np.ndarray, current: np.ndarray) -> None:
            drawn = sampler.draw(original.shape)
            targets = sampler.rows(original, drawn)
            inputs = targets if current is original else sampler.rows(current, drawn)
            for sums, w, x, t in zip(moments, weights, inputs, targets, strict=True):
                sums.update(x, t @ w)

        self._activations.advance(stop, visit)
        if not all(np.isfinite(sums.energy + sums.gram.sum()) for sums in moments):
            raise ValueError(
                "its inputs have NaN or infinite values on the calibration data: check the "
                "weights before it and the scale of the data"
            )
        return moments

    def _replace(self, index: int, solution: Solution, tuner: FineTuner) -> None:
        """Give the replacement its weights, and let the method train it."""
        layer = self._sites[index].layer
        twin = self._twins[id(layer)]
        for name, value in solution.weights.items():
            variable = getattr(twin, name)
            variable.assign(np.reshape(value, tuple(variable.shape)))
        if self._activations is not None:
            self._activations.replaced[id(layer)] = twin
        self._method.after_layer(self.compressed, twin, tuner)

    def _report(
        self,
        index: int,
        solution: Solution,
        seconds: float,
        progress: LayerProgress,
        callback: Callable[[LayerReport], None] | None,
    ) -> None:
        name = self._sites[index].layer.name
        report = LayerReport(name, self._plan[name], solution, seconds)
        progress.finish(str(report))
        if callback is not None:
            callback(report)


def sites_of(program: Program) -> list[Step]:
    """Return the first call of each Conv2D and Dense layer; subclasses are left alone."""
    found: dict[int, Step] = {}
    for step in program.steps:
        if type(step.layer) in (keras.layers.Conv2D, keras.layers.Dense):
            found.setdefault(id(step.layer), step)
    for step in found.values():
        if getattr(step.layer, "data_format", None) == "channels_first":
            raise ValueError(
                f"layer {step.layer.name!r} has its channels first: compress a model with "
                'data_format="channels_last"'
            )
    names = [step.layer.name for step in found.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"several layers are named {twice}: give each layer a name of its own")
    return list(found.values())


def _kernel(layer: Any) -> np.ndarray:
    kernel = np.asarray(tf.convert_to_tensor(layer.kernel), np.float32)
    if not np.isfinite(kernel).all():
        bad = int((~np.isfinite(kernel)).sum())
        raise ValueError(
            f"the kernel of layer {layer.name!r} has {bad} NaN or infinite weights: load or train "
            "the model again"
        )
    return kernel


def _data(model: Any, data: Any, method: Method) -> list[np.ndarray] | None:
    if not method.needs_data:
        return None
    if data is None:
        raise ValueError(
            f"{method.name} with these settings looks at data: pass calibration data (or, for "
            "qcnn, error_correction=False)"
        )
    return calibration_arrays(data, model)


def _run_of(
    model: Any, arrays: list[np.ndarray] | None, method: Method, plan: dict[str, LayerSettings]
) -> dict[str, Any]:
    """Return what the codebooks depend on, for the checkpoint to compare."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    config = {k: v for k, v in method.get_config().items() if k != "layers"}
    return {
        "method": {"name": method.name, **config},
        "layers": {name: dataclasses.asdict(settings) for name, settings in plan.items()},
        "model": f"{model.name} {digest.hexdigest()[:16]}",
        "data": None if arrays is None else [[*x.shape, str(x.dtype)] for x in arrays],
    }


def _say_left_in_float(
    program: Program, plan: dict[str, LayerSettings], progress: LayerProgress
) -> None:
    left = {
        step.layer.name: type(step.layer).__name__
        for step in program.steps
        if step.layer.name not in plan
        and (hasattr(step.layer, "kernel") or hasattr(step.layer, "depthwise_kernel"))
    }
    if left:
        names = ", ".join(f"{name} ({kind})" for name, kind in left.items())
        progress.say(f"left in float: {names}")
