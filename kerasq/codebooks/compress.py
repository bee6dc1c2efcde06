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
from kerasq.codebooks.cloning import clone_with_codebooks
from kerasq.codebooks.data import calibration_arrays
from kerasq.codebooks.layout import KernelLayout
from kerasq.codebooks.method import LayerSettings, Method, Solution
from kerasq.codebooks.moments import Moments
from kerasq.codebooks.program import Program, Step
from kerasq.codebooks.progress import LayerProgress
from kerasq.codebooks.sampling import PatchSampler
from kerasq.keras import check_model, keras


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes:
        name: of the layer.
        settings: d, K and the codewords' type.
        solution: codewords, assignments and errors.
        seconds: taken; 0 where it was read from a checkpoint.
    """

    name: str
    settings: LayerSettings
    solution: Solution
    seconds: float

    def __str__(self) -> str:
        d, k = self.settings.subvector, self.settings.codewords
        before, after = self.solution.error_before, self.solution.error_after
        change = f"{before:.3%}" if before == after else f"{before:.3%} -> {after:.3%}"
        spent = f"{self.seconds:.1f} s" if self.seconds else "from the checkpoint"
        return f"{self.name}: d={d} K={k}, error {change}, {spent}"


def compress(
    model: Any,
    data: Any,
    method: Method,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    *,
    batch_size: int = 128,
    verbose: bool = True,
    callback: Callable[[LayerReport], None] | None = None,
) -> Any:
    """Return a copy of a model whose Conv2D and Dense layers are made of codewords.

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
        data: calibration inputs, all of which are taken: an array, ``tf.data.Dataset`` or Keras
            ``Sequence`` (labels are not used). None where the method needs none.
        method: such as `QCNN`.
        checkpoint_dir: folder to which each finished layer is written. Called again with the
            same arguments after an interruption, it goes on from there, with the same result.
        batch_size: images at a time.
        verbose: show progress, with the relative error of each layer's responses before and
            after error correction.
        callback: is called with a `LayerReport` after each layer.

    Raises:
        TypeError: a model or data of a kind that cannot be compressed, a model of the other Keras.
        ValueError: an unbuilt model, no layer to compress, weights or data that are not finite,
            data of another shape, settings that do not fit a layer, a checkpoint of another run.
    """
    check_model(model, "compress")
    if not isinstance(method, Method):
        raise TypeError(f"method is a {type(method).__name__}: pass kerasq.codebooks.QCNN(...)")
    program = Program(model)
    sites = _sites(program)
    plan = method.plan([step.layer for step in sites])
    sites = [step for step in sites if step.layer.name in plan]
    if not sites:
        raise ValueError(
            f"model {model.name!r} has no Conv2D or Dense layer for {method.name} to compress"
        )
    kernels = [_kernel(step.layer) for step in sites]
    arrays = _data(model, data, method)
    checkpoint = None
    if checkpoint_dir is not None:
        checkpoint = Checkpoint(checkpoint_dir, _run_of(model, arrays, method, plan))
    clone, twins = clone_with_codebooks(
        model, {id(step.layer): plan[step.layer.name] for step in sites}
    )
    with LayerProgress(len(sites), verbose) as progress:
        _say_left_in_float(program, sites, progress)
        job = _Job(program, sites, kernels, plan, method, arrays, checkpoint, twins, batch_size)
        job.run(progress, callback)
    return clone


class _Job:
    """The layers of a run, one after the other."""

    def __init__(
        self,
        program: Program,
        sites: list[Step],
        kernels: list[np.ndarray],
        plan: dict[str, LayerSettings],
        method: Method,
        arrays: list[np.ndarray] | None,
        checkpoint: Checkpoint | None,
        twins: dict[int, Any],
        batch_size: int,
    ):
        self._sites, self._kernels, self._plan = sites, kernels, plan
        self._method, self._checkpoint, self._twins = method, checkpoint, twins
        self._finished: dict[int, Solution] = {}
        for index, step in enumerate(sites):
            solution = checkpoint and checkpoint.load(index, step.layer.name)
            if solution:
                self._finished[index] = solution
        self._open = [i for i in range(len(sites)) if i not in self._finished]
        self._activations = None
        if arrays is not None:
            targets = [sites[i].inputs[0] for i in self._open]
            self._activations = Activations(program, arrays, targets, batch_size)

    def run(self, progress: LayerProgress, callback: Callable[[LayerReport], None] | None) -> None:
        try:
            # All that are finished first: the layers between them are run compressed.
            for index in sorted(self._finished):
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
                seconds = time.perf_counter() - start
                self._report(index, solution, seconds, progress, callback)
        finally:
            if self._activations is not None:
                self._activations.close()

    def _solve(self, stop: int, index: int) -> Solution:
        layer, kernel = self._sites[index].layer, self._kernels[index]
        settings = self._plan[layer.name]
        layout = KernelLayout(kernel.shape, settings.subvector, getattr(layer, "groups", 1))
        # A generator of its own: a run that was taken up again gives the same.
        rng = np.random.default_rng([self._method.seed, index])
        moments = None
        if self._activations is not None:
            moments = self._moments(stop, layer, layout, kernel, rng)
        return self._method.solve(kernel, layout, moments, settings, rng)

    def _moments(
        self, stop: int, layer: Any, layout: KernelLayout, kernel: np.ndarray, rng: Any
    ) -> list[Moments]:
        weights = np.split(
            kernel.reshape(layout.positions * layout.channels, -1), layout.groups, axis=1
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

    def _report(
        self,
        index: int,
        solution: Solution,
        seconds: float,
        progress: LayerProgress,
        callback: Callable[[LayerReport], None] | None,
    ) -> None:
        layer = self._sites[index].layer
        twin = self._twins[id(layer)]
        shape = tuple(twin.assignments.shape)
        twin.set_codebook(solution.codewords, solution.assignments.reshape(shape))
        if self._activations is not None:
            self._activations.replaced[id(layer)] = twin
        report = LayerReport(layer.name, self._plan[layer.name], solution, seconds)
        progress.finish(str(report))
        if callback is not None:
            callback(report)


def _sites(program: Program) -> list[Step]:
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
            f"{method.name} with error correction looks at activations: pass calibration data, or "
            "error_correction=False"
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
        "layers": {name: dataclasses.astuple(settings) for name, settings in plan.items()},
        "model": f"{model.name} {digest.hexdigest()[:16]}",
        "data": None if arrays is None else [[*x.shape, str(x.dtype)] for x in arrays],
    }


def _say_left_in_float(program: Program, sites: list[Step], progress: LayerProgress) -> None:
    chosen = {id(step.layer) for step in sites}
    left = {
        step.layer.name: type(step.layer).__name__
        for step in program.steps
        if id(step.layer) not in chosen
        and (hasattr(step.layer, "kernel") or hasattr(step.layer, "depthwise_kernel"))
    }
    if left:
        names = ", ".join(f"{name} ({kind})" for name, kind in left.items())
        progress.say(f"left in float: {names}")
