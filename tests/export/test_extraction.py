"""One operator as a file of its own computes what it computes in the whole model."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow.lite.python import schema_py_generated as schema

import kerasq
from kerasq.export import inspect
from kerasq.export.extraction import CONSTANT, STATE, Extractor, empty
from kerasq.export.lowering import pack
from kerasq.keras import keras
from kerasq.layers import QuantConv2D
from kerasq.runtime.stock import RUNTIMES


@pytest.fixture(scope="module")
def content():
    """Operators of ours and of TFLite, one with an int8 kernel, one that reads its input twice."""
    inputs = keras.Input((8, 8, 4))
    lsq = {"class_name": "lsq", "config": {"bits": 8}}
    x = QuantConv2D(8, 3, kernel_quantizer=lsq, activation="relu")(inputs)
    x = QuantConv2D(8, 3, padding="same", input_quantizer="ste_sign", kernel_quantizer="bwn")(x)
    x = keras.layers.Multiply()([x, x])
    x = keras.layers.AveragePooling2D(2)(x)
    x = keras.layers.Concatenate()([x, x])
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(x))
    return kerasq.convert(keras.Model(inputs, x))


@pytest.fixture(scope="module")
def whole(content):
    """An interpreter that has run and kept every tensor."""
    interpreter = kerasq.Interpreter(model_content=content, keep_tensors=True)
    interpreter.allocate_tensors()
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_operator_computes_the_same_alone(content, whole, runtime):
    extractor = Extractor(content)
    shapes = {d["index"]: d["shape"] for d in whole.get_tensor_details()}
    listed = inspect(content).operators
    assert len(extractor) == len(listed) > 6
    for operator in listed:
        if extractor.obstacle(operator.index):
            continue
        extract = extractor.extract(operator.index, shapes)
        assert [o.name for o in inspect(extract.content).operators][-1] == operator.name
        alone = kerasq.Interpreter(model_content=extract.content, runtime=runtime)
        alone.allocate_tensors()
        for detail, index in zip(alone.get_input_details(), extract.inputs, strict=True):
            alone.set_tensor(detail["index"], whole.get_tensor(index))
        alone.invoke()
        outputs = [alone.get_tensor(d["index"]) for d in alone.get_output_details()]
        for found, index in zip(outputs, extractor.outputs(operator.index), strict=True):
            np.testing.assert_allclose(found, whole.get_tensor(index), rtol=1e-4, atol=1e-5)


def test_options_of_ours_survive(content, whole):
    shapes = {d["index"]: d["shape"] for d in whole.get_tensor_details()}
    ours = next(o for o in inspect(content).operators if o.is_custom)
    (alone,) = inspect(Extractor(content).extract(ours.index, shapes).content).operators
    assert alone.options == ours.options
    assert list(alone.constants.values()) == list(ours.constants.values())


def test_a_kernel_comes_with_what_decodes_it(content, whole):
    extractor = Extractor(content)
    shapes = {d["index"]: d["shape"] for d in whole.get_tensor_details()}
    names = [o.name for o in inspect(content).operators]
    assert extractor.obstacle(names.index("DEQUANTIZE")) == CONSTANT
    extract = extractor.extract(names.index("CONV_2D"), shapes)
    assert [o.name for o in inspect(extract.content).operators] == ["DEQUANTIZE", "CONV_2D"]
    assert extract.operators == 2 and len(extract.inputs) == 1


def test_an_input_read_twice_is_one(content):
    names = [o.name for o in inspect(content).operators]
    assert len(Extractor(content).dynamic_inputs(names.index("MUL"))) == 1


def test_what_keeps_state_cannot_be_alone(content):
    index = [o.name for o in inspect(content).operators].index("MUL")
    assert Extractor(content).obstacle(index) == ""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[index].outputs[0]].isVariable = True
    assert Extractor(pack(model, len(content))).obstacle(index) == STATE


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_empty_file_runs(runtime):
    interpreter = kerasq.Interpreter(model_content=empty(), runtime=runtime)
    interpreter.allocate_tensors()
    interpreter.invoke()
    assert inspect(empty()).operators == []
