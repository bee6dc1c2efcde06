"""Compress a whole network with codebooks, layer after layer."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks.activations import Activations
from kerasq.codebooks.arguments import check_arguments, check_finite, check_settings
from kerasq.codebooks.checkpoint import Checkpoint
from kerasq.codebooks.cloning import clone_with_replacements
from kerasq.codebooks.data import calibration_data
from kerasq.codebooks.distributed import Workers
from kerasq.codebooks.finetuning import Augment, FineTuner
from kerasq.codebooks.identity import data_of, run_of
from kerasq.codebooks.method import LayerSettings, Method
from kerasq.codebooks.moments import Moments
from kerasq.codebooks.program import Program, Step
from kerasq.codebooks.progress import LayerProgress
from kerasq.codebooks.registry import get
from kerasq.codebooks.report import check_report, write_page
from kerasq.codebooks.report_facts import (
    LayerReport,
    Page,
    accuracy_counts,
    classifies,
    facts,
    other_bytes,
    weight_bytes,
)
from kerasq.codebooks.sampling import PatchSampler
from kerasq.codebooks.site import Site, Solution
from kerasq.codebooks.student import Student
from kerasq.keras import check_model, keras


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
    report: str | os.PathLike[str] | None = None,
    strategy: Any = None,
) -> Any:
    """Return a copy of a model whose Conv2D and Dense layers are compressed.

    Layers are taken in topological order. Each one's inputs come from the network as compressed so
    far, its targets from the float network on the same images, at the same output positions:
    errors of earlier layers are corrected, not accumulated. All other layers, subclasses of Conv2D
    and Dense and DepthwiseConv2D among them, stay as they are. A layer that is called several
    times, itself or in a model within the model, stays one layer, and is fitted to its first call.
    Layers that share a variable get codewords of their own each.

    The copy is not compiled. Its codewords are trained by ``compile`` and ``fit``; the assignments
    stay. The model given is not changed.

    Under a ``tf.distribute.MultiWorkerMirroredStrategy`` each worker passes its part of the data:
    the statistics of a layer are added up, and all workers get the same codewords, those of one
    process with all of the data. Methods that train are refused there.

    Args:
        model: built Sequential or Functional model of the active Keras; branches, residual
            connections and models within the model are fine.
        data: inputs, all of which are taken: an array, ``tf.data.Dataset`` or Keras ``Sequence``;
            or (inputs, labels), which methods that train on labels look at, and the report. None
            where the method needs none.
        method: such as `QCNN`, or its name in `catalogue`.
        checkpoint_dir: folder to which each finished layer, and training under way, is written.
            Called again with the same arguments after an interruption, it goes on from there, with
            the same result, also where Dropout and its like draw at random. Another model, method,
            setting or data is refused; that ``augment`` is the same is not looked at.
        batch_size: images at a time.
        augment: changes the batches that the method trains on, ``augment([inputs], rng)``.
        verbose: show progress, with the relative error of each layer's responses before and
            after error correction.
        callback: is called with a `LayerReport` after each layer.
        report: path of an HTML page about the run, written at the end: errors, bytes, use of the
            codewords and, where the data has labels, the accuracy on it. It needs matplotlib.
        strategy: of the workers; None takes the one whose scope is entered.

    Raises:
        TypeError: a model, data or an argument of a kind that cannot be taken, a model of the
            other Keras.
        ValueError: an unbuilt model, no layer to compress, weights or data that are not finite,
            data of another shape or that ends early, labels that are no classes of the network,
            settings that do not fit a layer, a checkpoint of another run or a corrupt one, a report
            that cannot be written, workers that do not do the same.
        OSError: a checkpoint or report that cannot be written, or no room for the activations, such
            as on a full disk.
        ImportError: a report without matplotlib.
    """
    check_model(model, "compress")
    method = get(method)
    check_arguments(batch_size, checkpoint_dir, report, augment, callback, strategy)
    check_settings(method)
    check_finite(model, "load or train the model again")
    page = None if report is None else check_report(report)
    workers = Workers(strategy)
    sites = sites_of(Program(model))
    inputs, labels = _data(model, data, method, page is not None)
    arrays = inputs if method.needs_data else None
    plan = method.plan_for(model, [step.layer for step in sites], arrays)
    if not plan:
        raise ValueError(
            f"model {model.name!r} has no Conv2D or Dense layer for {method.name} to compress"
        )
    checkpoint = None
    run = run_of(model, method, plan)
    workers.check_equal("model or method", _digest(run))
    if checkpoint_dir is not None:
        folder = Path(checkpoint_dir)
        run["data"] = data_of(arrays)
        if workers.count > 1:
            run["workers"] = workers.count
            folder /= f"worker-{workers.index}"
        checkpoint = Checkpoint(folder, run)
    with LayerProgress(len(plan), verbose) as progress:
        # Alone, every worker would train a network of its own.
        trained = arrays if workers.count == 1 else None
        tuner = FineTuner(model, trained, labels, checkpoint, augment, method.seed, progress.detail)
        prepared = method.prepare(model, tuner)
        job = _Job(prepared, plan, method, arrays, checkpoint, batch_size, workers)
        _say_left_in_float(job.program, plan, progress)
        job.run(tuner, progress, callback)
        method.finish(job.compressed, tuner)
    check_finite(job.compressed, "lower the learning rate of the training, or check the data")
    if page is not None:
        accuracy = _accuracies((model, job.compressed), inputs, labels, batch_size, workers)
        if workers.index == 0:
            write_page(page, job.page(model, accuracy))
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
        workers: Workers,
    ):
        self.program = Program(model)
        self._sites = [step for step in sites_of(self.program) if step.layer.name in plan]
        self._plan, self._method, self._checkpoint = plan, method, checkpoint
        replaced = {id(step.layer): plan[step.layer.name] for step in self._sites}
        self.compressed, self._twins = clone_with_replacements(model, replaced)
        self._student = Student(self.program)
        self._workers = workers
        self._reports: list[LayerReport] = []
        self._finished = self._load()
        self._open = [i for i in range(len(self._sites)) if i not in self._finished]
        images = workers.gather(0 if arrays is None else len(arrays[0]))
        self._images_before = int(images[: workers.index].sum())
        self._activations = None
        if arrays is not None and method.needs_moments:
            targets = [self._sites[i].inputs[0] for i in self._open]
            self._activations = Activations(self.program, arrays, targets, batch_size)

    def _load(self) -> dict[int, Solution]:
        """Return the solutions that all workers find in their checkpoints."""
        if self._checkpoint is None:
            return {}
        names = [step.layer.name for step in self._sites]
        found = [self._checkpoint.load(index, name) for index, name in enumerate(names)]
        having = self._workers.sum(np.array([solution is not None for solution in found]))
        everywhere = np.flatnonzero(having == self._workers.count)
        return {int(index): found[index] for index in everywhere}

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
        moments = None
        if self._activations is not None:
            moments = self._moments(stop, index, kernel)
        # A generator of its own: a run that was taken up again gives the same.
        rng = np.random.default_rng([self._method.seed, index, 1])
        return self._method.solve(Site(layer, kernel, self._plan[layer.name], moments), rng)

    def _moments(self, stop: int, index: int, kernel: np.ndarray) -> list[Moments]:
        layer, positions = self._sites[index].layer, self._method.positions
        weights = np.split(
            kernel.reshape(-1, kernel.shape[-1]), getattr(layer, "groups", 1), axis=1
        )
        moments = [Moments(*part.shape) for part in weights]
        rng = np.random.default_rng([self._method.seed, index])
        # An image's positions are those that it has in one process with all of the data.
        rng.bit_generator.advance(self._images_before * (positions or 0))
        sampler = PatchSampler(layer, positions, rng)

        def visit(original: np.ndarray, current: np.ndarray) -> None:
            drawn = sampler.draw(original.shape)
            targets = sampler.rows(original, drawn)
            inputs = targets if current is original else sampler.rows(current, drawn)
            for sums, w, x, t in zip(moments, weights, inputs, targets, strict=True):
                sums.update(x, t @ w)

        self._activations.advance(stop, visit)
        for sums in moments:
            self._workers.add(sums)
        if not all(sums.finite for sums in moments):
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
        self._student.replaced[id(layer)] = twin
        self._method.after_layer(self._student, twin, tuner)

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
        self._reports.append(report)
        progress.finish(str(report))
        if callback is not None:
            callback(report)

    def page(self, model: Any, accuracy: tuple[float, float, int] | None) -> Page:
        """Return what there is to report of the run."""
        layers = {step.layer.name: step.layer for step in self._sites}
        found = [
            facts(report, layers[report.name].kernel, self._twins[id(layers[report.name])])
            for report in self._reports
        ]
        *shares, samples = accuracy or (None, 0)
        return Page(
            model.name,
            self._method.name,
            self._method.get_config(),
            found,
            weight_bytes(model),
            other_bytes(self.compressed, set(layers)),
            tuple(shares) if accuracy else None,
            samples,
        )


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


def _data(
    model: Any, data: Any, method: Method, reported: bool
) -> tuple[list[np.ndarray] | None, np.ndarray | None]:
    if data is None and method.needs_data:
        raise ValueError(
            f"{method.name} with these settings looks at data: pass calibration data (or, for "
            "qcnn, error_correction=False)"
        )
    if data is None or not (method.needs_data or reported):
        return None, None
    return calibration_data(data, model)


def _accuracies(
    models: tuple[Any, Any],
    inputs: list[np.ndarray] | None,
    labels: np.ndarray | None,
    batch_size: int,
    workers: Workers,
) -> tuple[float, float, int] | None:
    """Return top-1 of two networks on all workers' data, per cent, and how many samples it has."""
    if labels is None or not classifies(models[0]):
        return None
    counts = [accuracy_counts(model, inputs, labels, batch_size) for model in models]
    before, after, samples = workers.sum(np.array([*counts, len(labels)]))
    return 100 * before / samples, 100 * after / samples, int(samples)


def _digest(run: dict[str, Any]) -> str:
    """Return a number of what all workers have alike."""
    return hashlib.sha256(json.dumps(run, default=str, sort_keys=True).encode()).hexdigest()


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
