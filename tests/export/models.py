"""Models for the tests of export: small, random, and with every fold that there is."""

import numpy as np

import kerasq.layers as ql
from kerasq.keras import keras


def randomize(model, seed=0):
    """Give every weight a random value, normalizations negative and zero scales among them."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            randomize(layer, seed + 1)
        elif isinstance(layer, keras.layers.BatchNormalization):
            n = layer.moving_mean.shape[0]
            gamma = rng.standard_normal(n)
            gamma[0] = 0.0
            layer.set_weights(
                [gamma, rng.standard_normal(n), rng.standard_normal(n) * 2, rng.random(n) * 4 + 0.1]
            )
        elif isinstance(layer, ql.QuantConv2D | ql.QuantDense | ql.QuantDepthwiseConv2D):
            layer.set_weights([rng.standard_normal(w.shape) * 0.5 for w in layer.get_weights()])
    return model


def binary_net(shape=(10, 10, 8)):
    """Binary convolutions with normalizations before and after, a shortcut, and a classifier."""
    inputs = keras.Input(shape)
    x = keras.layers.BatchNormalization(name="bn0")(inputs)
    y = ql.QuantConv2D(
        16, 3, padding="same", input_quantizer="ste_sign", kernel_quantizer="bwn", name="c1"
    )(x)
    y = keras.layers.BatchNormalization(name="bn1")(y)
    z = ql.QuantConv2D(
        16,
        3,
        padding="same",
        pad_values=1.0,
        input_quantizer="ste_sign",
        kernel_quantizer="ste_sign",
        use_bias=False,
        name="c2",
    )(y)
    z = keras.layers.BatchNormalization(name="bn2")(z)
    z = keras.layers.Add(name="add")([y, z])
    z = keras.layers.BatchNormalization(name="bn3")(z)
    z = ql.QuantDepthwiseConv2D(
        3,
        strides=2,
        padding="same",
        input_quantizer="ste_sign",
        kernel_quantizer="bwn",
        name="dw",
    )(z)
    z = keras.layers.ReLU(name="relu")(z)
    z = keras.layers.GlobalAveragePooling2D(name="gap")(z)
    return keras.Model(inputs, ql.QuantDense(5, kernel_quantizer="twn", name="fc")(z))


def layer_net(layer, shape=(9, 7, 6), after=()):
    """One layer, and what follows it."""
    model = keras.Sequential([keras.Input(shape), layer, *after])
    return randomize(model)
