"""The command ``kerasq``: demo, convert, inspect, benchmark."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from kerasq.keras import keras_version

app = typer.Typer(
    help="Compress Keras models to small and fast .tflite files.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended; typer returns it too
_HDF5 = b"\x89HDF\r\n\x1a\n"  # an .h5 file begins with it

Json = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")]


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="CIFAR-10 as .npz, with --weights.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Trained ResNet as .npz.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for files and report.")] = Path("report"),
    images: Annotated[int | None, typer.Option(help="Calibration images; 1000 or 5000.")] = None,
    minutes: Annotated[float, typer.Option(help="Most minutes of fine-tuning (CIFAR-10).")] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    json_file: Json = None,
) -> None:
    """Compress a real network in several ways, run every file, and compare.

    Without --data and --weights: a small network, trained on scikit-learn's digits.
    """
    if (data is None) != (weights is None):
        raise ValueError("--data and --weights go together: give both, or neither")
    for path in (data, weights):
        if path is not None:
            _existing(path)
    if images is not None and images < 1:
        raise ValueError(f"--images must be at least 1, got {images}")
    if minutes <= 0:
        raise ValueError(f"--minutes must be above 0, got {minutes:g}")
    _writable(json_file)
    _folder(out)
    with _quiet_start():
        from kerasq.benchmark import demo as demos
        from kerasq.benchmark.report import write_json

    if data is None:
        report = demos.run_digits(out, images=images or 1000, seed=seed)
    else:
        report = demos.run_cifar(
            data, weights, out, images=images or 5000, minutes=minutes, seed=seed
        )
    report.write(out)
    if json_file is not None:
        write_json(json_file, report.to_dict())
    report.print()


@app.command()
def convert(
    model: Annotated[Path, typer.Argument(help=".keras, .h5 or SavedModel folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .tflite file to write.")],
    integer: Annotated[
        bool, typer.Option("--integer", help="Compute in int8 between activation quantizers.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Some inputs as .npy: codebooks get look-up tables of 8 bits."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Convert a saved Keras model to a .tflite file with packed kernels."""
    _existing(model)
    data = None if calibration is None else _array(calibration)
    _writable(output)
    _writable(json_file)
    from kerasq.benchmark.progress import stage

    with _quiet_start():
        from kerasq.benchmark.report import write_json
        from kerasq.export import convert as convert_model
        from kerasq.export import inspect as inspect_file
        from kerasq.export.summary import print_inspection

    with stage(f"load {model}"):
        loaded = load_model(model)
    with stage(f"convert to {output}"):
        content = convert_model(loaded, output, integer=integer, calibration_data=data)
        inspection = inspect_file(content)
    if json_file is not None:
        write_json(json_file, inspection.to_dict())
    print_inspection(inspection, title=str(output))


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="The .tflite file.")], json_file: Json = None
) -> None:
    """List every operator and every byte of a .tflite file."""
    _existing(file)
    _writable(json_file)
    with _quiet_start():
        from kerasq.benchmark.report import write_json
        from kerasq.export import inspect as inspect_file
        from kerasq.export.summary import print_inspection

    inspection = inspect_file(file)
    if json_file is not None:
        write_json(json_file, inspection.to_dict())
    print_inspection(inspection, title=str(file))


@app.command()
def benchmark(
    file: Annotated[Path, typer.Argument(help="The .tflite file.")],
    vs: Annotated[Path | None, typer.Option("--vs", help="Another file to compare with.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
    runs: Annotated[int, typer.Option(help="Measured runs of each file.")] = 100,
    per_op: Annotated[
        bool, typer.Option("--per-op", help="Time, kernel and memory of every operator.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Measure the latency of a .tflite file in the stock runtime, one sample at a time.

    With --per-op: kerasq's operators are timed by their own kernels while the whole model runs;
    each of the others alone, as a file cut out of the model and fed with what it reads there. All
    are interleaved with the whole model, which tells how much of its time they leave unattributed.
    """
    if per_op:
        if vs is not None:
            raise ValueError("--per-op takes one file: leave --vs away")
        _benchmark_operators(file, threads, runs, json_file)
        return
    files = {str(path): path for path in (file, vs) if path is not None}
    for path in files.values():
        _existing(path)
    _writable(json_file)
    from kerasq.benchmark.progress import stage

    with _quiet_start():
        from kerasq.benchmark.latency import compare
        from kerasq.benchmark.report import print_timings, write_json

    with stage(f"{runs} runs on {threads} thread{'s' if threads > 1 else ''}") as show:
        timings = compare(files, runs, threads, lambda done: show(f"round {done}"))
    if json_file is not None:
        rows = {label: dataclasses.asdict(timing) for label, timing in timings.items()}
        write_json(json_file, {"threads": threads, "microseconds": rows})
    print_timings(timings, baseline=str(vs) if vs is not None else None)


def _benchmark_operators(file: Path, threads: int, runs: int, json_file: Path | None) -> None:
    """Measure, write and print the operators of a file."""
    _existing(file)
    _writable(json_file)
    from kerasq.benchmark.progress import stage

    with _quiet_start():
        from kerasq.benchmark.operator_table import print_operator_times
        from kerasq.benchmark.operator_times import measure
        from kerasq.benchmark.report import write_json

    with stage(f"{runs} runs of every operator") as show:
        times = measure(file, runs, threads, show)
    if json_file is not None:
        write_json(json_file, {"file": str(file), **times.to_dict()})
    print_operator_times(times, title=str(file))


def load_model(path: Path) -> Any:
    """Load a model that Keras saved, with the layers and quantizers of kerasq, larq and TFMOT.

    Raises:
        ValueError: the file was saved by the Keras that is not active, or cannot be read.
    """
    from kerasq.keras import keras

    _check_saved_model(path)
    for name in ("kerasq.layers", "kerasq.layers.codebook"):
        importlib.import_module(name)  # registers the classes that a file may name
    scope: Any = contextlib.nullcontext()
    if keras_version() == 2:
        with contextlib.suppress(ImportError):
            importlib.import_module("larq")
        with contextlib.suppress(ImportError):
            scope = importlib.import_module("kerasq.tfmot").quantize_scope()
    try:
        with scope:
            return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its own loading code runs into
        raise ValueError(
            f"Keras {keras_version()} cannot load {path}: {_one_line(error)}"
        ) from error


def _check_saved_model(path: Path) -> None:
    """Refuse what is no saved model, or one of the other Keras, with what to type."""
    if path.is_dir() and keras_version() == 3:
        raise ValueError(
            f"{path} is a SavedModel, which Keras 3 cannot load: set TF_USE_LEGACY_KERAS=1"
        )
    if path.is_dir():
        return
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(len(_HDF5)) != _HDF5:
                raise ValueError(f"{path} is no saved Keras model: neither .keras nor .h5")
        return
    with zipfile.ZipFile(path) as archive:
        if "metadata.json" not in archive.namelist():
            return
        version = str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
    if version[:1] in ("2", "3") and int(version[0]) != keras_version():
        legacy = 1 if version[0] == "2" else 0
        raise ValueError(
            f"{path} was saved by Keras {version}, but Keras {keras_version()} is active: set "
            f"TF_USE_LEGACY_KERAS={legacy}"
        )


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Show that TensorFlow starts, and keep its chatter off standard error.

    TensorFlow logs there before its log level counts; our one line must stand alone.
    """
    from kerasq.benchmark.progress import console

    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        with console.status("start TensorFlow"):
            os.dup2(nowhere, 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _existing(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")


def _array(path: Path) -> np.ndarray:
    _existing(path)
    try:
        return np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, IsADirectoryError) as error:
        raise ValueError(f"{path} is no .npy file of numbers: {error}") from error


def _folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: --out names a folder")


def _writable(path: Path | None) -> None:
    """Refuse an output that could not be written, before any work is done for it."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"cannot write {path}: no permission in {path.parent}")


def _one_line(error: BaseException) -> str:
    """Return the message of an error as one line."""
    formatted = getattr(error, "format_message", None)  # typer's own errors
    text = " ".join((formatted() if formatted else str(error)).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.strerror}: {error.filename}"
    return text or type(error).__name__


def main() -> None:
    """Run the command; bad input ends it with one line on standard error and exit code 1 or 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        if os.environ.get("KERASQ_TRACEBACK"):
            raise
        _fail(_one_line(error), getattr(error, "exit_code", 1))
    if code == _INTERRUPTED:
        _fail("interrupted", _INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(f"kerasq: error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
