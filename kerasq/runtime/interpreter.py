"""A stock interpreter with kerasq's kernels, and batches in and out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerasq.runtime import quantization, stock
from kerasq.runtime.library import library_path
from kerasq.runtime.profile import OperatorProfile, Profile

# As Keras's predict: bounds the memory of a model whose batch is free.
DEFAULT_BATCH_SIZE = 32

Detail = dict[str, Any]
Batch = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]


class Interpreter:
    """Run a ``.tflite`` in an unmodified TFLite runtime, with kerasq's operators.

    Every method of the runtime's own interpreter (``allocate_tensors``, ``set_tensor``, ``invoke``,
    ``get_signature_runner`` ...) is there as well.

    Args:
        model_path: the file.
        model_content: or its bytes.
        num_threads: threads of the whole interpreter, kerasq's operators among them.
        runtime: "ai_edge_litert" or "tf.lite"; None takes the first that is installed.
        profile: count the runs of kerasq's operators and their time, for `operator_profiles`.
        keep_tensors: keep all tensors between operators, for ``get_tensor``. It takes more memory,
            and XNNPACK runs nothing.

    Raises:
        FileNotFoundError: no such file, or the kernels are not built.
        ImportError: the runtime is not installed.
        ValueError: no ``.tflite``, an unknown runtime, or no positive number of threads.
        RuntimeError: the runtime or the kernels refuse the model; the message names the operator.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str] | None = None,
        model_content: bytes | None = None,
        num_threads: int = 1,
        runtime: str | None = None,
        profile: bool = False,
        keep_tensors: bool = False,
    ) -> None:
        if num_threads < 1:
            raise ValueError(f"num_threads is {num_threads}: it must be at least 1")
        self.runtime = stock.resolve(runtime)
        model = stock.read_model(model_path, model_content)
        library = library_path()
        self._profile = Profile(library) if profile else None
        self._stock = stock.open_model(
            self.runtime,
            model,
            int(num_threads),
            library,
            self._profile.options if self._profile else None,
            **(stock.keeping_tensors(self.runtime) if keep_tensors else {}),
        )
        self._names = _signature_names(self._stock)

    def __getattr__(self, name: str) -> Any:
        """Pass on to the stock interpreter what is not defined here."""
        if name.startswith("__") or name == "_stock":  # not there before __init__
            raise AttributeError(name)
        return getattr(self._stock, name)

    def operator_profiles(self) -> list[OperatorProfile]:
        """Return what kerasq's operators of the first graph ran and took so far.

        The time is measured within the kernels' library, from a call of the operator to its end.

        Raises:
            ValueError: the interpreter was made without ``profile=True``.
        """
        if self._profile is None:
            raise ValueError("nothing was counted: make the Interpreter with profile=True")
        return self._profile.read()

    def predict(self, x: Batch, batch_size: int | None = None) -> Any:
        """Compute the outputs of a batch of any size.

        Args:
            x: an array (N, ...), or one for each input: a list in the file's order, or a dict by
                name. Quantized inputs take float values, which are quantized by the input's scale,
                or codes in the input's own integer type.
            batch_size: how many to compute at once; by default what the file fixes, or 32.

        Returns:
            An array (N, ...), or one for each output: a list, or a dict where x is one. Quantized
            outputs come as float32 values.

        Raises:
            ValueError: the number, the type or the shape of the inputs is wrong; the message says
                what is expected and what was received. Or the model cannot change its batch.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
        details = self._stock.get_input_details()
        arrays = self._arrange(x, details)
        arrays = [self._check(a, d) for a, d in zip(arrays, details, strict=True)]
        count = len(arrays[0])
        if any(len(array) != count for array in arrays):
            sizes = ", ".join(str(len(array)) for array in arrays)
            raise ValueError(f"the inputs differ in their batch, their first axis: {sizes}")
        step = batch_size or self._fixed_batch(details) or min(max(count, 1), DEFAULT_BATCH_SIZE)
        chunks = [
            self._run([array[start : start + step] for array in arrays])
            for start in range(0, count, step)
        ]
        outputs = self._join(chunks)
        if isinstance(x, Mapping):
            named = [self._names.get(d["index"], d["name"]) for d in self._output_details()]
            return dict(zip(named, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs

    def _arrange(self, x: Batch, details: list[Detail]) -> list[np.ndarray]:
        """Return one array per input, in the file's order."""
        named = [self._names.get(detail["index"], detail["name"]) for detail in details]
        if isinstance(x, Mapping):
            if set(x) != set(named):
                raise ValueError(f"expected inputs named {sorted(named)}, received {sorted(x)}")
            return [np.asarray(x[name]) for name in named]
        if isinstance(x, list | tuple) and (len(details) > 1 or len(x) == 1):
            arrays = [np.asarray(array) for array in x]
        else:
            arrays = [np.asarray(x)]
        if len(arrays) != len(details):
            raise ValueError(
                f"the model has {len(details)} inputs ({', '.join(named)}), received {len(arrays)}"
            )
        return arrays

    def _check(self, array: np.ndarray, detail: Detail) -> np.ndarray:
        """Check an input's shape; return it as the runtime takes it."""
        name = self._names.get(detail["index"], detail["name"])
        expected = _free_shape(detail)
        fits = len(expected) == array.ndim > 0 and all(
            want in (-1, have) for want, have in zip(expected[1:], array.shape[1:], strict=True)
        )
        if not fits:
            axes = ["any" if size == -1 else str(size) for size in expected[1:]]
            raise ValueError(
                f"input {name!r}: expected shape ({', '.join(['batch', *axes])}), "
                f"received {array.shape}"
            )
        return quantization.encode(array, detail, name)

    @staticmethod
    def _fixed_batch(details: list[Detail]) -> int | None:
        batch = _free_shape(details[0])[0]
        return int(batch) if batch > 0 else None

    def _output_details(self) -> list[Detail]:
        return self._stock.get_output_details()

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Compute one batch."""
        for array, detail in zip(arrays, self._stock.get_input_details(), strict=True):
            if tuple(detail["shape"]) != array.shape:
                self._stock.resize_tensor_input(detail["index"], array.shape)
        self._stock.allocate_tensors()
        for array, detail in zip(arrays, self._stock.get_input_details(), strict=True):
            self._stock.set_tensor(detail["index"], array)
        self._stock.invoke()
        outputs = []
        for detail in self._output_details():
            output = quantization.decode(self._stock.get_tensor(detail["index"]), detail)
            if output.ndim == 0 or len(output) != len(arrays[0]):
                raise ValueError(
                    f"output {detail['name']!r} has shape {output.shape} for a batch of "
                    f"{len(arrays[0])}: this model does not compute one row per input row. Use "
                    "set_tensor, invoke and get_tensor"
                )
            outputs.append(output)
        return outputs

    def _join(self, chunks: list[list[np.ndarray]]) -> list[np.ndarray]:
        """Concatenate the batches; an empty batch gives empty outputs of the right shape."""
        if chunks:
            return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
        self._stock.allocate_tensors()
        outputs = []
        for detail in self._output_details():
            row = self._stock.get_tensor(detail["index"])[:0]
            outputs.append(quantization.decode(row, detail))
        return outputs


def _free_shape(detail: Detail) -> tuple[int, ...]:
    """Return an input's shape, -1 where the file leaves it free."""
    signature = detail.get("shape_signature", ())
    return tuple(signature if len(signature) else detail["shape"])


def _signature_names(stock_interpreter: Any) -> dict[int, str]:
    """Return the names that the model's signature gives to tensors, if it has just one."""
    signatures = list(stock_interpreter.get_signature_list())
    if len(signatures) != 1:
        return {}
    runner = stock_interpreter.get_signature_runner(signatures[0])
    named = {**runner.get_input_details(), **runner.get_output_details()}
    return {detail["index"]: name for name, detail in named.items()}
