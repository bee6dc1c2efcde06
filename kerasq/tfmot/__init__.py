"""Our quantizers inside TensorFlow Model Optimization; importing this mends its saving.

TFMOT needs Keras 2.
"""

from kerasq.keras import keras_version

if keras_version() != 2:
    raise ImportError(
        "kerasq.tfmot needs Keras 2, but Keras 3 is active (TensorFlow or keras was imported "
        "before kerasq). Import kerasq first, or set TF_USE_LEGACY_KERAS=1 before importing "
        "tensorflow: type export TF_USE_LEGACY_KERAS=1 before Python starts"
    )

from kerasq.tfmot.apply import quantize_apply
from kerasq.tfmot.mend import mend
from kerasq.tfmot.quantize_config import LayerQuantizer, QuantizeConfig, quantize_scope

mend()

__all__ = ["LayerQuantizer", "QuantizeConfig", "quantize_apply", "quantize_scope"]
