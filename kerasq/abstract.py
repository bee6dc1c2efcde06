"""Abstract Keras layers: a class that lacks a method cannot be instantiated."""

from __future__ import annotations

import abc

from kerasq.keras import keras


class _AbstractMeta(abc.ABCMeta, type(keras.layers.Layer)):
    """Joins the metaclass of abstract classes with that of the active Keras's layers."""


class AbstractLayer(keras.layers.Layer, metaclass=_AbstractMeta):
    """A Keras layer whose subclasses must define what is marked ``abc.abstractmethod``."""
