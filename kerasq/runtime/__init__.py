"""Run exported files in an unmodified TFLite runtime that loads kerasq's kernels.

The kernels are a delegate in a shared library: :class:`Interpreter` loads it, and so does any other
interpreter, by ``load_delegate(kerasq.runtime.library_path())``.
"""

from __future__ import annotations

from kerasq.runtime.interpreter import Interpreter
from kerasq.runtime.library import library_path
from kerasq.runtime.profile import OperatorProfile

__all__ = ["Interpreter", "OperatorProfile", "library_path"]
