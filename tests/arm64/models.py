"""The models that the aarch64 runtime is tested with. A new one is a line of ``MODELS``."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kerasq.codebooks import QCNN, compress
from kerasq.export.operators import (
    ConvAttributes,
    bitplane_conv2d,
    bitplane_dense,
    codebook_conv2d,
    codebook_dense,
    hashed_dense,
    sparse_conv2d,
    sparse_dense,
)
from kerasq.keras import keras
from kerasq.layers import QuantConv2D, QuantDense, QuantDepthwiseConv2D
from kerasq.quantizers import calibrate
from kerasq.representations import SparseCodebook, pack_bits

layers = keras.layers


class Operator(layers.Layer):
    """A layer that is one operator of the exported file, with the tensors it stores."""

    def __init__(self, function: Callable[..., tf.Tensor], tensors: list[np.ndarray], **kwargs):
        super().__init__(**kwargs)
        self._function = function
        self._tensors = tensors

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self._function(x, *(tf.constant(tensor) for tensor in self._tensors))


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its input shape (batch first) and how many of our operators its file holds.

    ``labels_only`` is for networks that binarize what a float layer computes: there the last bit
    of a float decides a sign, so the label has to agree, the logits need not.
    """

    model: Any
    input_shape: tuple[int, ...]
    operators: int
    labels_only: bool = False


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _positive(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(0.5, 1.5, size=shape).astype(np.float32)


def _bitplane_tensors(
    rng: np.random.Generator,
    channels_in: int,
    attributes: ConvAttributes,
    weight_planes: int,
    input_planes: int,
    offsets: bool,
) -> list[np.ndarray]:
    outputs = attributes.channels_out
    taps = int(np.prod(attributes.kernel_size)) * (channels_in // attributes.groups)
    tensors = [
        pack_bits(rng.integers(0, 2, (weight_planes, outputs, taps), dtype=np.uint8), 1),
        _positive(rng, weight_planes + offsets, outputs),
        _normal(rng, outputs),
    ]
    if input_planes:
        levels = 2**input_planes
        tensors += [
            np.sort(_normal(rng, channels_in, levels - 1), axis=-1),
            rng.choice(np.float32([-1, 1]), channels_in),
            rng.permutation(levels).astype(np.uint8),
            _positive(rng, input_planes + offsets),
        ]
    return tensors


def _codebook_tensors(
    rng: np.random.Generator,
    channels_in: int,
    attributes: ConvAttributes,
    subvector: int,
    codewords: int,
    shared: bool,
    dtype: str,
    order: str = "position",
) -> list[np.ndarray]:
    outputs, positions = attributes.channels_out, int(np.prod(attributes.kernel_size))
    length = channels_in // attributes.groups
    if order == "channel":
        positions, length = 1, positions * length
    subspaces = -(-length // subvector)
    indices = rng.integers(0, codewords, (positions, subspaces, outputs), dtype=np.uint16)
    return [
        _normal(rng, 1 if shared else subspaces, codewords, subvector).astype(dtype),
        pack_bits(indices, _index_bits(codewords)),
        _positive(rng, outputs),
        _normal(rng, outputs),
    ]


def _index_bits(codewords: int) -> int:
    return max(1, (codewords - 1).bit_length())


def bitplane_conv(
    rng: np.random.Generator,
    channels_in: int,
    channels_out: int,
    kernel: int = 3,
    weight_planes: int = 1,
    input_planes: int = 1,
    pad_value: int = 0,
    offsets: bool = False,
    **geometry: Any,
) -> Operator:
    """A convolution of random bit planes."""
    geometry.setdefault("padding", "same")
    attributes = ConvAttributes((kernel, kernel), channels_out, **geometry)
    function = bitplane_conv2d(attributes, weight_planes, input_planes, pad_value)
    planes = (weight_planes, input_planes, offsets)
    return Operator(function, _bitplane_tensors(rng, channels_in, attributes, *planes))


def bitplane_fc(
    rng: np.random.Generator,
    channels_in: int,
    channels_out: int,
    weight_planes: int = 1,
    input_planes: int = 1,
    offsets: bool = False,
) -> Operator:
    """A dense layer of random bit planes."""
    function = bitplane_dense(channels_out, weight_planes, input_planes)
    attributes = ConvAttributes((1, 1), channels_out)
    planes = (weight_planes, input_planes, offsets)
    return Operator(function, _bitplane_tensors(rng, channels_in, attributes, *planes))


def codebook_conv(
    rng: np.random.Generator,
    channels_in: int,
    channels_out: int,
    subvector: int,
    codewords: int,
    kernel: int = 3,
    shared: bool = False,
    dtype: str = "float32",
    order: str = "position",
    **geometry: Any,
) -> Operator:
    """A convolution of random codewords."""
    geometry.setdefault("padding", "same")
    attributes = ConvAttributes((kernel, kernel), channels_out, **geometry)
    function = codebook_conv2d(attributes, subvector, codewords, _index_bits(codewords), order)
    book = (subvector, codewords, shared, dtype, order)
    return Operator(function, _codebook_tensors(rng, channels_in, attributes, *book))


def codebook_fc(
    rng: np.random.Generator,
    channels_in: int,
    channels_out: int,
    subvector: int,
    codewords: int,
    shared: bool = False,
    dtype: str = "float32",
) -> Operator:
    """A dense layer of random codewords."""
    function = codebook_dense(channels_out, subvector, codewords, _index_bits(codewords))
    attributes = ConvAttributes((1, 1), channels_out)
    book = (subvector, codewords, shared, dtype)
    return Operator(function, _codebook_tensors(rng, channels_in, attributes, *book))


def _sparse_tensors(
    rng: np.random.Generator, shape: tuple[int, ...], codewords: int
) -> tuple[SparseCodebook, list[np.ndarray]]:
    numbers = rng.integers(1, codewords, shape) * (rng.random(shape) < 0.1)
    values = np.append(np.float32(0), _normal(rng, codewords - 1))
    kernel = SparseCodebook.from_assignments(values, numbers)
    streams = [kernel.gaps, kernel.gap_lengths, kernel.codes, kernel.code_lengths]
    outputs = [_positive(rng, shape[-1]), _normal(rng, shape[-1])]
    return kernel, [kernel.codewords, *streams, *outputs]


def sparse_conv(
    rng: np.random.Generator, channels_in: int, channels_out: int, codewords: int, **geometry: Any
) -> Operator:
    """A convolution of a random entropy-coded kernel."""
    attributes = ConvAttributes((3, 3), channels_out, padding="same", **geometry)
    group = channels_in // attributes.groups
    kernel, tensors = _sparse_tensors(rng, (3, 3, group, channels_out), codewords)
    sizes = (group, codewords, kernel.entries, kernel.gap_bits)
    return Operator(sparse_conv2d(attributes, *sizes), tensors)


def sparse_fc(
    rng: np.random.Generator, channels_in: int, channels_out: int, codewords: int
) -> Operator:
    """A dense layer of a random entropy-coded kernel."""
    kernel, tensors = _sparse_tensors(rng, (channels_in, channels_out), codewords)
    sizes = (channels_in, codewords, kernel.entries, kernel.gap_bits)
    return Operator(sparse_dense(channels_out, *sizes), tensors)


def hashed_fc(
    rng: np.random.Generator,
    channels_in: int,
    channels_out: int,
    buckets: int,
    dtype: str = "float32",
) -> Operator:
    """A dense layer of random hashed weights."""
    function = hashed_dense(channels_out, channels_in, buckets, seed=2)
    values = _normal(rng, buckets).astype(dtype)
    tensors = [values, _positive(rng, channels_out), _normal(rng, channels_out)]
    return Operator(function, tensors)


def single(make: Callable[..., Operator], *shape: int, **options: Any) -> Callable[..., Case]:
    """A model of one operator; ``shape`` is that of the input, batch first."""

    def build(rng: np.random.Generator) -> Case:
        operator = make(rng, shape[-1], **options)
        return Case(keras.Sequential([layers.Input(shape[1:]), operator]), shape, operators=1)

    return build


def float_network(rng: np.random.Generator) -> Case:
    """No operator of ours: the runtime itself."""
    stack = [
        layers.Input((16, 16, 3)),
        layers.Conv2D(16, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ]
    return Case(keras.Sequential(stack), (4, 16, 16, 3), operators=0)


def codebook_network(rng: np.random.Generator) -> Case:
    """A float stem, codebook convolutions with a stride and a shortcut, a codebook classifier."""
    image = layers.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    y = codebook_conv(rng, 16, 16, 4, 16, activation="relu")(x)
    y = codebook_conv(rng, 16, 16, 8, 256, dtype="float16")(y)
    x = layers.ReLU()(layers.add([x, 0.05 * y]))
    x = codebook_conv(rng, 16, 24, 2, 32, strides=(2, 2), activation="relu6")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = codebook_fc(rng, 24, 10, 4, 64)(x)
    return Case(keras.Model(image, x), (4, 16, 16, 3), operators=4)


def binary_network(rng: np.random.Generator) -> Case:
    """A float stem, binary convolutions with shortcuts, a weight-only classifier."""
    image = layers.Input((16, 16, 3))
    x = layers.Conv2D(32, 3, padding="same")(image)
    x = layers.add([x, bitplane_conv(rng, 32, 32, pad_value=1)(x)])
    x = layers.MaxPooling2D()(x)
    x = layers.add([x, bitplane_conv(rng, 32, 32, weight_planes=2, input_planes=2)(x)])
    x = bitplane_fc(rng, 8 * 8 * 32, 10, input_planes=0)(layers.Flatten()(x))
    return Case(keras.Model(image, x), (16, 16, 16, 3), operators=3, labels_only=True)


def _normalized(rng: np.random.Generator, x: Any) -> Any:
    """BatchNormalization as after training: no statistic is 0 or 1, some gammas are negative."""
    layer = layers.BatchNormalization()
    y = layer(x)
    channels = x.shape[-1]
    gamma = _positive(rng, channels) * rng.choice(np.float32([-1, 1]), channels)
    beta, mean = 0.3 * _normal(rng, channels), 0.3 * _normal(rng, channels)
    layer.set_weights([gamma, beta, mean, _positive(rng, channels)])
    return y


def binary_layers(rng: np.random.Generator) -> Case:
    """Quantized layers between normalizations, converted as a user converts them."""
    sign = {"input_quantizer": "ste_sign", "use_bias": False}
    image = layers.Input((16, 16, 3))
    x = layers.Conv2D(24, 3, padding="same")(image)
    y = QuantConv2D(24, 3, padding="same", kernel_quantizer="bwn", pad_values=1.0, **sign)(x)
    x = layers.add([_normalized(rng, x), _normalized(rng, y)])
    y = QuantConv2D(24, 3, padding="same", strides=2, kernel_quantizer="ste_sign", **sign)(x)
    x = _normalized(rng, y)
    x = layers.add([x, QuantDepthwiseConv2D(3, padding="same", kernel_quantizer="twn")(x)])
    x = QuantDense(10, kernel_quantizer="twn")(layers.Flatten()(x))
    return Case(keras.Model(image, x), (16, 16, 16, 3), operators=4, labels_only=True)


def binary_chain(rng: np.random.Generator) -> Case:
    """Binary layers that pass bits, through pooling and normalizations, to a classifier."""
    sign = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "use_bias": False}
    image = layers.Input((16, 16, 5))
    x = _normalized(rng, QuantConv2D(40, 3, padding="same", **sign)(image))
    x = layers.MaxPooling2D()(QuantConv2D(64, 3, pad_values=1.0, padding="same", **sign)(x))
    x = layers.Flatten()(_normalized(rng, QuantConv2D(32, 3, **sign)(_normalized(rng, x))))
    return Case(keras.Model(image, QuantDense(10, **sign)(x)), (4, 16, 16, 5), operators=5)


def weight_only_layers(rng: np.random.Generator) -> Case:
    """Ternary and 2-bit kernels under float inputs."""
    image = layers.Input((12, 12, 3))
    x = QuantConv2D(16, 3, kernel_quantizer="twn", activation="relu")(image)
    two_bits = {"class_name": "dorefa_weights", "config": {"bits": 2}}
    x = _normalized(rng, QuantConv2D(24, 3, strides=2, kernel_quantizer=two_bits)(x))
    x = QuantDense(10, kernel_quantizer="bwn")(layers.Flatten()(x))
    return Case(keras.Model(image, x), (4, 12, 12, 3), operators=3)


def compressed_network(rng: np.random.Generator) -> Case:
    """A float network through Q-CNN with error correction, as a user compresses it."""
    image = layers.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(image)
    x = _normalized(rng, layers.Conv2D(24, 3, strides=2, padding="same", name="conv")(x))
    x = layers.Dense(10, name="head")(layers.Flatten()(layers.ReLU()(x)))
    settings = {"stem": False, "conv": (4, 16), "head": (2, 8)}
    method = QCNN(layers=settings, sweeps=1)
    small = compress(keras.Model(image, x), _normal(rng, 64, 12, 12, 3), method)
    return Case(small, (4, 12, 12, 3), operators=2)


def method(
    inputs: str, kernel: str, operators: int, bits: int | None = None
) -> Callable[..., Case]:
    """A convolution of two methods of the catalogue, calibrated, as a user converts it."""

    def build_case(rng: np.random.Generator) -> Case:
        config = {} if bits is None else {"bits": bits}
        layer = QuantConv2D(
            10,
            3,
            padding="same",
            input_quantizer={"class_name": inputs, "config": config},
            kernel_quantizer={"class_name": kernel, "config": config},
        )
        model = keras.Sequential([layers.Input((8, 8, 12)), layer])
        calibrate(model, _normal(rng, 16, 8, 8, 12))
        return Case(model, (3, 8, 8, 12), operators)

    return build_case


MODELS: dict[str, Callable[[np.random.Generator], Case]] = {
    "float network": float_network,
    "binary conv": single(bitplane_conv, 2, 9, 9, 64, channels_out=33),
    "binary conv, pad +1": single(bitplane_conv, 2, 9, 7, 40, channels_out=16, pad_value=1),
    "binary conv, stride 2": single(bitplane_conv, 2, 9, 9, 19, channels_out=8, strides=(2, 2)),
    "binary conv, dilated": single(bitplane_conv, 1, 11, 11, 16, channels_out=8, dilations=(2, 2)),
    "binary conv, groups": single(bitplane_conv, 2, 8, 8, 24, channels_out=12, groups=3),
    "binary depthwise": single(bitplane_conv, 2, 8, 8, 20, channels_out=20, groups=20),
    "binary dense": single(bitplane_fc, 5, 131, channels_out=10),
    "weight-only conv": single(bitplane_conv, 2, 9, 9, 24, channels_out=17, input_planes=0),
    "weight-only dense": single(bitplane_fc, 3, 77, channels_out=9, input_planes=0),
    "2x2 planes conv": single(
        bitplane_conv, 2, 9, 9, 32, channels_out=16, weight_planes=2, input_planes=2
    ),
    "3x3 planes conv, offsets": single(
        bitplane_conv, 2, 7, 7, 21, channels_out=10, weight_planes=3, input_planes=3, offsets=True
    ),
    "ternary dense, offsets": single(
        bitplane_fc, 2, 3, 50, channels_out=8, weight_planes=2, input_planes=2, offsets=True
    ),
    "codebook conv, K=16": single(
        codebook_conv, 2, 9, 9, 32, channels_out=24, subvector=8, codewords=16
    ),
    "codebook conv, K=256": single(
        codebook_conv, 2, 9, 9, 32, channels_out=40, subvector=8, codewords=256, dtype="float16"
    ),
    "codebook conv, K=5, d=3": single(
        codebook_conv, 2, 8, 6, 10, channels_out=7, subvector=3, codewords=5, activation="relu6"
    ),
    "codebook conv, stride, groups, shared": single(
        codebook_conv, 2, 9, 9, 24, channels_out=12, subvector=4, codewords=32, shared=True,
        strides=(2, 2), groups=2,
    ),
    "codebook conv, d=1": single(
        codebook_conv, 1, 7, 7, 12, channels_out=9, subvector=1, codewords=16, shared=True
    ),
    "codebook conv, explicit": single(
        codebook_conv, 1, 7, 7, 8, channels_out=8, subvector=4, codewords=16, padding="explicit",
        explicit_padding=(2, 0, 1, 3),
    ),
    "codebook dense": single(codebook_fc, 5, 64, channels_out=33, subvector=8, codewords=64),
    "codebook dense, half": single(
        codebook_fc, 2, 3, 30, channels_out=10, subvector=4, codewords=200, dtype="float16"
    ),
    "codebook conv, by channel": single(
        codebook_conv, 2, 9, 9, 24, channels_out=20, subvector=9, codewords=256, shared=True,
        order="channel", groups=2,
    ),
    "codebook conv, K=1000": single(
        codebook_conv, 2, 8, 8, 16, channels_out=20, subvector=4, codewords=1000, dtype="float16"
    ),
    "sparse conv": single(sparse_conv, 2, 9, 9, 24, channels_out=18, codewords=33, strides=(2, 2)),
    "sparse conv, groups": single(sparse_conv, 1, 8, 8, 24, channels_out=12, codewords=9, groups=3),
    "sparse dense": single(sparse_fc, 5, 131, channels_out=10, codewords=17),
    "hashed dense": single(hashed_fc, 3, 77, channels_out=50, buckets=400),
    "hashed dense, halves": single(
        hashed_fc, 3, 77, channels_out=50, buckets=400, dtype="float16"
    ),
    "codebook network": codebook_network,
    "binary network": binary_network,
    "binary layers": binary_layers,
    "binary chain": binary_chain,
    "weight-only layers": weight_only_layers,
    "compressed network": compressed_network,
    "ABC-Net, 5x5 bases": method("abc_activations", "abc_weights", 1, bits=5),
    "LQ-Nets, 2 bits": method("lq_nets", "lq_nets", 1, bits=2),
    "HORQ, order 3": method("horq", "abc_weights", 3, bits=3),
    "PACT and SAWB, 3 bits": method("pact", "sawb", 1, bits=3),
    "LSQ, TFLite's int8": method("lsq", "lsq", 0, bits=8),
    "ReActNet's sign, TTQ": method("react_sign", "ttq", 1),
}  # fmt: skip


def build(name: str) -> tuple[Case, np.ndarray]:
    """Return the model of that name and its input, the same on every run."""
    seed = zlib.crc32(name.encode())
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    case = MODELS[name](rng)
    return case, _normal(rng, *case.input_shape)
