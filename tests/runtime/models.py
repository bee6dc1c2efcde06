"""Small files of kerasq's operators, their oracle, and ways to damage them."""

from __future__ import annotations

import contextlib
import os

import flatbuffers
import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.lite.python import schema_py_generated as schema

from kerasq.export import operators
from kerasq.keras import keras
from kerasq.representations import SparseCodebook


class Operator(keras.layers.Layer):
    """A layer that is one operator on constants."""

    def __init__(self, function, constants, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.function, self.constants = function, constants

    def call(self, x):
        return self.function(x, *map(tf.constant, self.constants))


def bitplane_conv(rng, channels_in, channels_out, input_planes=1, pad_value=1, **attributes):
    """A random KerasqBitplaneConv2D."""
    attributes = operators.ConvAttributes((3, 3), channels_out, **{"padding": "same"} | attributes)
    group = channels_in // attributes.groups
    constants = bitplane_constants(rng, channels_in, channels_out, 9 * group, input_planes)
    function = operators.bitplane_conv2d(attributes, 1, input_planes, pad_value)
    return Operator(function, constants)


def bitplane_dense(rng, channels_in, channels_out, input_planes=0):
    """A random KerasqBitplaneDense."""
    constants = bitplane_constants(rng, channels_in, channels_out, channels_in, input_planes)
    return Operator(operators.bitplane_dense(channels_out, 1, input_planes), constants)


def bitplane_constants(rng, channels_in, channels_out, bits, input_planes):
    constants = [
        rng.integers(0, 256, (1, channels_out, -(-bits // 8)), dtype=np.uint8),
        rng.uniform(0.5, 1, (1, channels_out)).astype(np.float32),
        rng.standard_normal(channels_out).astype(np.float32),
    ]
    if input_planes:
        levels = 2**input_planes
        constants += [
            np.sort(rng.standard_normal((1, levels - 1)).astype(np.float32)),
            rng.choice([-1, 1], channels_in).astype(np.float32),
            np.arange(levels, dtype=np.uint8),
            np.ones(input_planes, np.float32),
        ]
    return constants


def codebook_constants(rng, taps, channels_in, channels_out, subvector, codewords, bits):
    subspaces = -(-channels_in // subvector)
    assignments = rng.integers(0, codewords, (taps, subspaces, channels_out))
    stream = (assignments[..., None] >> np.arange(bits)) & 1
    packed = np.packbits(stream.reshape(taps, subspaces, -1), axis=-1, bitorder="little")
    return [
        rng.standard_normal((subspaces, codewords, subvector)).astype(np.float32),
        packed,
        np.ones(1, np.float32),
        rng.standard_normal(channels_out).astype(np.float32),
    ]


def codebook_conv(
    rng,
    channels_in,
    channels_out,
    subvector=2,
    codewords=5,
    bits=3,
    order="position",
    **attributes,
):
    """A random KerasqCodebookConv2D; 5 codewords of 3 bits leave indices that point past them."""
    attributes = operators.ConvAttributes((3, 3), channels_out, **{"padding": "same"} | attributes)
    group = channels_in // attributes.groups
    taps, length = (1, 9 * group) if order == "channel" else (9, group)
    constants = codebook_constants(rng, taps, length, channels_out, subvector, codewords, bits)
    function = operators.codebook_conv2d(attributes, subvector, codewords, bits, order)
    return Operator(function, constants)


def codebook_dense(rng, channels_in, channels_out, subvector=2, codewords=5, bits=3):
    """A random KerasqCodebookDense."""
    constants = codebook_constants(rng, 1, channels_in, channels_out, subvector, codewords, bits)
    return Operator(operators.codebook_dense(channels_out, subvector, codewords, bits), constants)


def byte_codebook_constants(rng, taps, channels_in, channels_out, subvector, codewords, bits):
    """Return codewords of int8, and what a codebook of floats has besides; then 1 / scale."""
    constants = codebook_constants(rng, taps, channels_in, channels_out, subvector, codewords, bits)
    codebook = rng.integers(-128, 128, constants[0].shape).astype(np.int8)
    return codebook, *constants[1:], np.float32([40.0])


def byte_tables(rng):
    """Return some arithmetic of tables whose entries are mostly within 8 bits."""
    return operators.ByteTables(
        int(rng.integers(-128, 128)), int(rng.integers(0, 4)), int(rng.integers(300, 900))
    )


def byte_codebook_conv(rng, channels_in, channels_out, subvector=2, codewords=16, **attributes):
    """Return a convolution by tables of 8 bits with random constants."""
    geometry = operators.ConvAttributes((3, 3), channels_out, **{"padding": "same", **attributes})
    bits = max(1, (codewords - 1).bit_length())
    operator = operators.byte_codebook_conv2d(
        geometry, subvector, codewords, bits, byte_tables(rng)
    )
    group = channels_in // geometry.groups
    constants = byte_codebook_constants(rng, 9, group, channels_out, subvector, codewords, bits)
    return Operator(operator, constants)


def byte_codebook_dense(rng, channels_in, channels_out, subvector=2, codewords=16):
    """Return a dense layer by tables of 8 bits with random constants."""
    bits = max(1, (codewords - 1).bit_length())
    operator = operators.byte_codebook_dense(
        channels_out, subvector, codewords, bits, byte_tables(rng)
    )
    constants = byte_codebook_constants(
        rng, 1, channels_in, channels_out, subvector, codewords, bits
    )
    return Operator(operator, constants)


def sparse_representation(rng, shape, codewords=9, density=0.2):
    """A random SparseCodebook."""
    numbers = rng.integers(1, codewords, shape)
    values = np.append(0, rng.standard_normal(codewords - 1)).astype(np.float32)
    numbers = np.where(rng.random(shape) < density, numbers, 0)
    return SparseCodebook.from_assignments(values, numbers)


def sparse_constants(rng, kernel, channels_out):
    streams = (kernel.gaps, kernel.gap_lengths, kernel.codes, kernel.code_lengths)
    return [
        kernel.codewords,
        *streams,
        rng.standard_normal(channels_out).astype(np.float32),
        rng.standard_normal(channels_out).astype(np.float32),
    ]


def sparse_conv(rng, channels_in, channels_out, codewords=9, density=0.2, **attributes):
    """A random KerasqSparseConv2D."""
    attributes = operators.ConvAttributes((3, 3), channels_out, **{"padding": "same"} | attributes)
    group = channels_in // attributes.groups
    kernel = sparse_representation(rng, (3, 3, group, channels_out), codewords, density)
    function = operators.sparse_conv2d(
        attributes, group, codewords, kernel.entries, kernel.gap_bits
    )
    return Operator(function, sparse_constants(rng, kernel, channels_out))


def sparse_dense(rng, channels_in, channels_out, codewords=9, density=0.2):
    """A random KerasqSparseDense."""
    kernel = sparse_representation(rng, (channels_in, channels_out), codewords, density)
    function = operators.sparse_dense(
        channels_out, channels_in, codewords, kernel.entries, kernel.gap_bits
    )
    return Operator(function, sparse_constants(rng, kernel, channels_out))


def hashed_dense(rng, channels_in, channels_out, buckets=50, seed=2, dtype=np.float32):
    """A random KerasqHashedDense; ``dtype`` is that of its values."""
    constants = [
        rng.standard_normal(size).astype(kind)
        for size, kind in (
            (buckets, dtype),
            (channels_out, np.float32),
            (channels_out, np.float32),
        )
    ]
    return Operator(operators.hashed_dense(channels_out, channels_in, buckets, seed), constants)


def sequential(shape, *layers):
    """A model whose prediction is the oracle of its file."""
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def convert(model) -> bytes:
    """Write a model with the stock converter."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.allow_custom_ops = True
    with silent():
        return bytes(converter.convert())


@contextlib.contextmanager
def silent():
    """Keep the converter's chatter, written to file descriptor 2, away."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


class File:
    """A ``.tflite`` taken apart, with one operator of kerasq to damage."""

    def __init__(self, content):
        self.model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
        self.graph = self.model.subgraphs[0]
        self.operator = next(
            operator
            for operator in self.graph.operators
            if (self.model.operatorCodes[operator.opcodeIndex].customCode or b"").startswith(
                b"Kerasq"
            )
        )

    @property
    def options(self) -> dict[str, int]:
        return flexbuffers.Loads(bytes(self.operator.customOptions))

    @options.setter
    def options(self, options):
        self.operator.customOptions = np.frombuffer(flexbuffers.Dumps(options), np.uint8)

    def tensor(self, position):
        """The operator's input number ``position``."""
        return self.graph.tensors[self.operator.inputs[position]]

    def data(self, position):
        """The bytes of a constant input, to change in place."""
        buffer = self.model.buffers[self.tensor(position).buffer]
        buffer.data = np.array(buffer.data, np.uint8)
        return buffer.data

    def pack(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
