"""The catalogue page: complete, and what the code says now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import kerasq.layers as ql
from kerasq import quantizers

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(build):
    assert (DOCS / "catalogue.md").read_text() == build.page(), "type: make docs"


def test_every_method_has_an_entry_and_every_quantizer_a_plot(build):
    page = build.page()
    for name, entry in {**quantizers.catalogue(), **ql.catalogue()}.items():
        assert f"\n## {name}\n" in page
        assert f"](#{name})" in page
        if build.has_plot(entry):
            assert (DOCS / "plots" / f"{name}.png").stat().st_size > 1000
    plots = {path.stem for path in (DOCS / "plots").iterdir()}
    assert plots == {name for name, entry in quantizers.catalogue().items()}


def test_nothing_of_the_docstrings_is_lost(build):
    page = " ".join(build.page().replace("`", "").split())
    for entry in [*quantizers.catalogue().values(), *ql.catalogue().values()]:
        assert "**Paper:**" in build._entry(entry) and "**Deviations:**" in build._entry(entry)
        for word in (entry.cls.__doc__ or "").replace("`", "").split():
            assert word in page


@pytest.mark.parametrize("name", quantizers.catalogue())
def test_curves_come_from_the_live_code(build, name):
    x, values, gradient = build.curves(name)
    assert x.shape == values.shape == gradient.shape
    assert np.isfinite(values).all() and np.isfinite(gradient).all()
    assert np.any(gradient != 0)
