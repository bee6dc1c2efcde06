"""A copy of a model with codebook layers in the place of some layers."""

from __future__ import annotations

from typing import Any

from kerasq.codebooks.method import LayerSettings
from kerasq.codebooks.program import is_graph
from kerasq.keras import keras
from kerasq.layers import CodebookConv2D, CodebookDense

# Arguments of a kernel that codewords have no use for.
_KERNEL_ONLY = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
_NOT_OURS = ("lora_rank", "lora_alpha", "quantization_config")


def clone_with_codebooks(
    model: Any, settings: dict[int, LayerSettings]
) -> tuple[Any, dict[int, Any]]:
    """Copy a model, weights included, with untrained codebook layers in some places.

    Args:
        model: Sequential or Functional.
        settings: of the layers to replace, by their ``id``.

    Returns:
        The copy, and its codebook layers by the ``id`` of the layers they replace.
    """
    copies: dict[int, tuple[Any, Any]] = {}

    def copy(layer: Any) -> Any:
        if id(layer) not in copies:
            copies[id(layer)] = (layer, _copy(layer))
        return copies[id(layer)][1]

    def _copy(layer: Any) -> Any:
        if id(layer) in settings:
            return codebook_layer(layer, settings[id(layer)])
        if is_graph(layer):
            return _clone_graph(layer, copy)
        if type(layer) is keras.layers.Lambda:
            return _lambda(layer)
        return layer.__class__.from_config(layer.get_config())

    clone = _clone_graph(model, copy)
    for key, (layer, twin) in copies.items():
        if key in settings:
            if layer.use_bias:
                twin.bias.assign(layer.bias)
        elif isinstance(layer, keras.layers.Layer) and not is_graph(layer):
            twin.set_weights(layer.get_weights())
    return clone, {key: copies[key][1] for key in settings}


def _clone_graph(model: Any, copy: Any) -> Any:
    clone = keras.models.clone_model(model, clone_function=copy)
    if not clone.built or not getattr(clone, "inputs", None):
        clone.build(model.input_shape)
    if not model.trainable:
        clone.trainable = False  # goes down to all its layers, so only then
    return clone


def _lambda(layer: Any) -> Any:
    # Through its configuration a function would lose its module, and Keras 3 refuses it.
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=layer.dtype,
    )


def codebook_layer(layer: Any, settings: LayerSettings) -> CodebookConv2D | CodebookDense:
    """Return an unbuilt codebook layer of the configuration of a Conv2D or Dense layer.

    Regularizers and constraints of the kernel are left out: they are not those of codewords.
    """
    config = {k: v for k, v in layer.get_config().items() if k not in _KERNEL_ONLY + _NOT_OURS}
    config.update(
        subvector=settings.subvector,
        codewords=settings.codewords,
        codebook_dtype=settings.codebook_dtype,
    )
    cls = CodebookConv2D if isinstance(layer, keras.layers.Conv2D) else CodebookDense
    return cls.from_config(config)
