"""From a trained Keras model to a ``.tflite`` file, and back to what the file holds."""

from kerasq.export.deploy import deploy
from kerasq.export.inspection import Inspection, Operator, inspect
from kerasq.export.summary import summary
from kerasq.export.tflite import convert

__all__ = ["Inspection", "Operator", "convert", "deploy", "inspect", "summary"]
