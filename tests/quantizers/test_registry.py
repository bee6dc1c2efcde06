"""Asking for a quantizer, and what is said about a wrong request."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from kerasq import quantizers
from kerasq.keras import keras


@pytest.mark.parametrize("name", quantizers.catalogue())
def test_by_name_class_config_instance(name):
    cls = quantizers.catalogue()[name].cls
    instance = quantizers.get(name)
    assert type(instance) is cls
    assert quantizers.get(instance) is instance
    assert type(quantizers.get(cls)) is cls
    for class_name in (name, cls.__name__, f"kerasq>{cls.__name__}"):
        assert type(quantizers.get({"class_name": class_name, "config": {}})) is cls


def test_none_is_none():
    assert quantizers.get(None) is None and quantizers.serialize(None) is None


@pytest.mark.parametrize(
    ("wrong", "right"), [("bnw", "bwn"), ("ste_sing", "ste_sign"), ("dorefa_weight", "dorefa_w")]
)
def test_unknown_name_suggests_the_nearest(wrong, right):
    with pytest.raises(
        ValueError, match=f"no quantizer is called '{wrong}'.*did you mean '{right}"
    ):
        quantizers.get(wrong)


@pytest.mark.parametrize("wrong", [3, object(), int, len])
def test_wrong_kind(wrong):
    with pytest.raises(TypeError, match="cannot make a quantizer of"):
        quantizers.get(wrong)


def test_config_without_class_name():
    with pytest.raises(ValueError, match="a quantizer's config is"):
        quantizers.get({"bits": 2})


@pytest.mark.parametrize("name", ["dorefa_weights", "dorefa_activations"])
@pytest.mark.parametrize("bits", [0, 9, -1, 2.5, True])
def test_bits_out_of_range(name, bits):
    with pytest.raises(ValueError, match=f"{name}: bits must be a whole number in 1..8"):
        quantizers.get({"class_name": name, "config": {"bits": bits}})


def test_unknown_gradient():
    with pytest.raises(ValueError, match="gradient must be one of"):
        quantizers.BWN(gradient="swish")


def test_axes_outside_the_tensor():
    with pytest.raises(ValueError, match="do not fit a tensor of rank 1"):
        quantizers.BWN(channel_axes=(-2, -1)).represent(np.ones(3))


def test_empty_tensor():
    with pytest.raises(ValueError, match="empty"):
        quantizers.get("bwn").represent(np.ones((0, 3)))


def test_latent_clip():
    clip = quantizers.LatentClip()
    np.testing.assert_array_equal(clip(tf.constant([-3.0, 0.5, 2.0])), [-1.0, 0.5, 1.0])
    with pytest.raises(ValueError, match="positive"):
        quantizers.LatentClip(0)


def test_xnor_conditioning(rng):
    w = rng.normal(0, 0.5, (3, 3, 4, 2)).astype(np.float32)
    want = np.clip(w - w.mean(2, keepdims=True), -1, 1)
    condition = quantizers.XnorConditioning()
    np.testing.assert_allclose(condition(tf.constant(w)), want, atol=1e-6)
    single = w[:, :, :1]
    np.testing.assert_array_equal(condition(tf.constant(single)), np.clip(single, -1, 1))


def test_constraints_serialize():
    for constraint in (quantizers.LatentClip(0.5), quantizers.XnorConditioning()):
        copy = keras.constraints.deserialize(keras.constraints.serialize(constraint))
        assert copy.get_config() == constraint.get_config() and type(copy) is type(constraint)
