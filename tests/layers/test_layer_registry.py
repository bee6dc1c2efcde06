"""The catalogue of layers: what an entry must have."""

from __future__ import annotations

import pytest

from kerasq import layers
from kerasq.keras import keras


@pytest.mark.parametrize("entry", layers.catalogue().values(), ids=lambda entry: entry.name)
def test_entry(entry):
    assert issubclass(entry.cls, keras.layers.Layer)
    assert keras.utils.get_registered_name(entry.cls) == f"kerasq>{entry.cls.__name__}"
    assert keras.utils.get_custom_objects()[entry.name] is entry.cls
    assert getattr(layers, entry.cls.__name__) is entry.cls
    assert layers.get(entry.name) is layers.get(entry.cls.__name__) is entry.cls
    assert entry.representation in ("-", "BitPlanes", "Affine", "Codebook")
    for text in ("Forward", "Gradient", "Args:", "Paper: ", entry.arxiv, "Deviations: "):
        assert text in entry.cls.__doc__


def test_catalogue_is_sorted_and_holds_the_papers_blocks():
    names = list(layers.catalogue())
    assert names == sorted(names)
    assert {
        "bireal_block",
        "fixup_block",
        "group_net_block",
        "range_batch_norm",
        "shift_batch_norm",
        "xnor_conv",
    } <= set(names)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'fixup_block'"):
        layers.get("fixup_blok")


def test_catalogue_name_in_a_config():
    config = {"class_name": "shift_batch_norm", "config": {"momentum": 0.5}}
    layer = keras.layers.deserialize(config)
    assert isinstance(layer, layers.ShiftBatchNormalization)
    assert layer.momentum == 0.5
