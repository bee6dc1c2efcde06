"""The papers' formulas in numpy, a module per family: ``METHODS`` collects them by name."""

import importlib
import pkgutil

from tests.quantizers.oracles.method import G_STAR, GX_STAR, W_STAR, X_STAR, Method

METHODS: dict[str, Method] = {}
for _module in pkgutil.iter_modules(__path__):
    if _module.name != "method":
        METHODS |= importlib.import_module(f"{__name__}.{_module.name}").METHODS

__all__ = ["GX_STAR", "G_STAR", "METHODS", "W_STAR", "X_STAR", "Method"]
