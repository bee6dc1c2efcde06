"""Published ResNets of "And the bit goes down": PyTorch files to Keras models, and back."""

from __future__ import annotations

import os
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense

# {name of the module: {name of the entry: array or number}}
Archive = dict[str, dict[str, Any]]
_EPSILON = 1e-5
_POINTS = ((), (1, 1))  # leading axes of assignments for which both orders are the same
_QUANTIZED = ("centroids", "assignments", "n_blocks", "is_conv", "k")
_NUMBERS = ("n_blocks", "is_conv", "k")


def load_kill_the_bits(
    path: str | os.PathLike[str], input_shape: tuple[int, int, int] = (224, 224, 3)
) -> Any:
    """Return the Keras model of a published ``.pth`` file, from images to logits.

    Images are RGB, scaled to 0 ... 1, minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).

    Args:
        path: such as ``resnet18_small_blocks.pth``. It needs PyTorch:
            ``pip install kerasq[torch]``.
        input_shape: (height, width, 3).

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: a file of another kind, or one that is cut short or corrupt.

    Reference: Stock et al., And the bit goes down: revisiting the quantization of neural networks,
    arXiv:1907.05686; files of github.com/facebookresearch/kill-the-bits
    """
    torch = _torch()
    _check_zip(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        archive = {
            name: {k: _number(v) for k, v in entry.items()} for name, entry in loaded.items()
        }
    except OSError:
        raise
    except Exception as error:  # PyTorch raises what its unpickler and its zip reader raise
        raise ValueError(f"{os.fspath(path)!r} is not a checkpoint of networks: {error}") from error
    return resnet_of(archive, input_shape)


def _check_zip(path: str | os.PathLike[str]) -> None:
    """Raise where a zip file is damaged: PyTorch, which writes them, does not look at checksums."""
    with open(path, "rb") as file:
        begins_as_zip = file.read(4) == b"PK\3\4"
        length = file.seek(0, os.SEEK_END)
    if not begins_as_zip:
        return  # of PyTorch before 1.6, or none at all
    owner = repr(os.fspath(path))
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{owner} is cut short: it ends at byte {length}, before its directory")
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            at = None if bad is None else archive.getinfo(bad).header_offset
    except Exception as error:  # the zip reader raises errors of any kind
        raise ValueError(f"{owner} is corrupt: {error}") from error
    if bad is not None:
        raise ValueError(f"{owner} is corrupt: {bad!r}, from byte {at} on, has another checksum")


def save_kill_the_bits(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a model with the layers of `load_kill_the_bits` in the published layout.

    Args:
        model: as loaded, perhaps trained since.
        path: the ``.pth`` file. It needs PyTorch: ``pip install kerasq[torch]``.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: a layer that the layout has no place for.
    """
    torch = _torch()
    state = {
        name: {k: _tensor(torch, v) for k, v in of.items()}
        for name, of in archive_of(model).items()
    }
    torch.save(state, path)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "reading and writing .pth files needs PyTorch: pip install kerasq[torch]"
        ) from error
    return torch


def _tensor(torch: Any, value: Any) -> Any:
    # A copy: arrays of TensorFlow cannot be written to.
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def _number(value: Any) -> Any:
    return value.numpy() if hasattr(value, "numpy") else value


def resnet_of(archive: Archive, input_shape: tuple[int, int, int] = (224, 224, 3)) -> Any:
    """Return the ResNet whose layers an archive holds.

    The depth and the widths are those of the archive. A quantized layer has ``centroids`` (K, d),
    ``assignments`` (blocks · outputs, output innermost), ``n_blocks``, ``is_conv`` and ``k``, the
    kernel size; a float convolution ``weight`` (outputs, inputs, k, k); a BatchNormalization
    ``weight`` and ``bias``, into which its statistics are folded; ``fc_bias`` has ``bias``.

    Args:
        archive: arrays and numbers by module and name.
        input_shape: (height, width, channels).

    Raises:
        ValueError: entries that are missing, do not fit, or belong to no ResNet.
    """
    modules = _Modules(archive)
    inputs = keras.Input(input_shape)
    x = modules.conv(inputs, "conv1", 2)
    x = keras.layers.ReLU(name="relu")(modules.norm(x, "bn1"))
    # What comes from a ReLU is at least zero: zeros around it change no maximum.
    x = keras.layers.ZeroPadding2D(1, name="maxpool_pad")(x)
    x = keras.layers.MaxPooling2D(3, 2, name="maxpool")(x)
    stage = 1
    while f"layer{stage}.0.conv1" in archive:
        block = 0
        while f"layer{stage}.{block}.conv1" in archive:
            stride = 2 if stage > 1 and block == 0 else 1
            x = _block(modules, x, f"layer{stage}.{block}", stride)
            block += 1
        stage += 1
    x = keras.layers.GlobalAveragePooling2D(name="avgpool")(x)
    model = keras.Model(inputs, modules.classifier(x), name="resnet")
    modules.check_all_taken()
    return model


def _block(modules: _Modules, x: Any, name: str, stride: int) -> Any:
    """Add a basic block (2 convolutions) or a bottleneck (3, with its stride in the second)."""
    bottleneck = modules.has(f"{name}.conv3")
    short, count = x, 3 if bottleneck else 2
    for i in range(1, count + 1):
        strides = stride if i == (2 if bottleneck else 1) else 1
        x = modules.norm(modules.conv(x, f"{name}.conv{i}", strides), f"{name}.bn{i}")
        if i < count:
            x = keras.layers.ReLU(name=_keras_name(f"{name}.relu{i}"))(x)
    if modules.has(f"{name}.downsample.0"):
        short = modules.conv(short, f"{name}.downsample.0", stride)
        short = modules.norm(short, f"{name}.downsample.1")
    x = keras.layers.Add(name=_keras_name(f"{name}.add"))([x, short])
    return keras.layers.ReLU(name=_keras_name(f"{name}.relu"))(x)


class _Modules:
    """The modules of an archive as Keras layers with their weights."""

    def __init__(self, archive: Archive):
        self._archive, self._taken = archive, set()

    def has(self, name: str) -> bool:
        return name in self._archive

    def _entry(self, name: str, *keys: str) -> list[Any]:
        entry = self._archive.get(name)
        if entry is None:
            raise ValueError(f"the checkpoint has no {name!r}: it is not that of a ResNet")
        missing = [key for key in keys if key not in entry]
        if missing:
            raise ValueError(f"{name!r} of the checkpoint has no {missing}, but {sorted(entry)}")
        self._taken.add(name)
        for key in keys:
            _check_value(entry[key], f"{key!r} of {name!r}", key in _NUMBERS)
        return [entry[key] for key in keys]

    def conv(self, x: Any, name: str, stride: int) -> Any:
        if "weight" in (self._archive.get(name) or {}):
            (weight,) = self._entry(name, "weight")
            if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
                raise ValueError(f"{name!r} of the checkpoint has no kernel, but {weight.shape}")
            outputs, channels, size, _ = weight.shape
            _check_channels(x, name, channels)
            values = [np.transpose(weight, (2, 3, 1, 0)).astype(np.float32)]
            cls, settings = keras.layers.Conv2D, {}
        else:
            outputs, settings, values, size = self._codebook(x, name)
            cls = CodebookConv2D
        if size > 1:  # PyTorch's padding: the same on all sides, whatever the stride
            x = keras.layers.ZeroPadding2D(size // 2, name=_keras_name(f"{name}.pad"))(x)
        layer = cls(outputs, size, stride, use_bias=False, name=_keras_name(name), **settings)
        x = layer(x)
        layer.set_codebook(*values) if settings else layer.set_weights(values)
        return x

    def _codebook(self, x: Any, name: str) -> tuple[int, dict[str, Any], list[np.ndarray], int]:
        """Return the outputs, the layer's settings, codewords and assignments, the kernel size."""
        entry = self._entry(name, *_QUANTIZED)
        centroids, assignments, blocks, is_conv, size = entry
        blocks, size = int(blocks), int(size) if is_conv else 1
        assignments = np.asarray(assignments).reshape(-1)
        if centroids.ndim != 2 or assignments.dtype.kind not in "iu" or min(blocks, size) < 1:
            raise ValueError(
                f"{name!r} of the checkpoint: centroids {centroids.shape}, assignments of type "
                f"{assignments.dtype}, {blocks} blocks and k = {size} are no codebook"
            )
        codewords, subvector = centroids.shape
        if len(assignments) % blocks or blocks * subvector % size**2:
            raise ValueError(
                f"{name!r} of the checkpoint: {len(assignments)} assignments in {blocks} blocks of "
                f"{subvector} are no {size}x{size} kernel"
            )
        _check_channels(x, name, blocks * subvector // size**2)
        if assignments.min() < 0 or assignments.max() >= codewords:
            raise ValueError(
                f"{name!r} of the checkpoint has assignments {assignments.min()} to "
                f"{assignments.max()}, but {codewords} centroids"
            )
        settings = {
            "subvector": subvector,
            "codewords": codewords,
            "codebook_dtype": "float16",
            "gradient": "mean",
            "shared": True,
            "order": "channel",
        }
        values = [centroids.astype(np.float32)[None], assignments.reshape(blocks, -1)]
        return len(assignments) // blocks, settings, values, size

    def norm(self, x: Any, name: str) -> Any:
        gamma, beta = self._entry(name, "weight", "bias")
        _check_length(gamma, x.shape[-1], f"weight of {name!r}")
        _check_length(beta, x.shape[-1], f"bias of {name!r}")
        layer = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=_EPSILON, name=_keras_name(name)
        )
        x = layer(x)
        layer.gamma.assign(gamma.astype(np.float32))
        layer.beta.assign(beta.astype(np.float32))
        return x

    def classifier(self, x: Any) -> Any:
        units, settings, values, _ = self._codebook(x, "fc")
        (bias,) = self._entry("fc_bias", "bias")
        _check_length(bias, units, "bias of 'fc_bias'")
        layer = CodebookDense(units, name="fc", **settings)
        x = layer(x)
        layer.set_codebook(*values)
        layer.bias.assign(bias.astype(np.float32))
        return x

    def check_all_taken(self) -> None:
        left = sorted(set(self._archive) - self._taken)
        if left:
            raise ValueError(f"the checkpoint has {left}, which no ResNet has")


def _check_channels(x: Any, name: str, channels: int) -> None:
    if x.shape[-1] != channels:
        raise ValueError(
            f"{name!r} of the checkpoint reads {channels} channels, but there are {x.shape[-1]}"
        )


def _check_length(value: np.ndarray, length: int, owner: str) -> None:
    if value.shape != (length,):
        raise ValueError(f"{owner} of the checkpoint has {value.shape} values, not {(length,)}")


def _check_value(value: Any, owner: str, number: bool) -> None:
    if number:
        fits = np.shape(value) == () and np.asarray(value).dtype.kind in "biu"
    else:
        fits = isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.size > 0
        fits = fits and bool(np.isfinite(value).all())
    if not fits:
        wanted = "a whole number" if number else "finite numbers"
        raise ValueError(f"{owner} of the checkpoint is not {wanted}: it is corrupt")


def archive_of(model: Any) -> Archive:
    """Return the archive of a model with the layers of `resnet_of`.

    Raises:
        ValueError: a layer that the layout has no place for.
    """
    archive: Archive = {}
    for layer in model.layers:
        name = layer.name.replace("_", ".")
        if isinstance(layer, CodebookConv2D | CodebookDense):
            archive[name] = _quantized(layer)
            if layer.use_bias:
                archive["fc_bias"] = {"bias": _array(layer.bias)}
        elif isinstance(layer, keras.layers.BatchNormalization):
            archive[name] = _folded(layer)
        elif type(layer) is keras.layers.Conv2D and not layer.use_bias:
            weight = np.transpose(_array(layer.kernel), (3, 2, 0, 1))
            archive[name] = {"weight": np.ascontiguousarray(weight, np.float16)}
        elif layer.weights:
            raise ValueError(
                f"layer {layer.name!r} ({type(layer).__name__}) has no place in the layout of "
                "kill-the-bits"
            )
    return archive


def _quantized(layer: Any) -> dict[str, Any]:
    convolves = isinstance(layer, CodebookConv2D)
    codewords, assignments = _array(layer.codewords), _array(layer.assignments)
    single = len(codewords) == 1 and (layer.order == "channel" or assignments.shape[:-2] in _POINTS)
    if not single or (convolves and (layer.use_bias or layer.groups > 1)):
        raise ValueError(
            f"layer {layer.name!r}: the layout of kill-the-bits has convolutions without bias and "
            'groups, with one codebook and order="channel"'
        )
    assignments = assignments.reshape(-1, assignments.shape[-1])
    return {
        "centroids": codewords[0].astype(np.float16),
        "assignments": assignments.ravel().astype(
            np.uint8 if codewords.shape[1] <= 256 else np.int16
        ),
        "n_blocks": len(assignments),
        "is_conv": convolves,
        "k": layer.kernel_size[0] if convolves else 1,
    }


def _folded(layer: Any) -> dict[str, np.ndarray]:
    """Return scale and offset for a mean of 0 and a variance of 1."""
    deviation = np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    scale = _array(layer.gamma) / deviation
    bias = _array(layer.beta) - scale * _array(layer.moving_mean)
    weight = scale * np.sqrt(np.float32(1 + _EPSILON))
    return {"weight": weight.astype(np.float16), "bias": bias.astype(np.float16)}


def _array(variable: Any) -> np.ndarray:
    return np.asarray(tf.convert_to_tensor(variable))


def _keras_name(name: str) -> str:
    return name.replace(".", "_")
