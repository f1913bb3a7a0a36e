import inspect
from pathlib import Path

import pytest

import tapadl

ROOT = Path(__file__).parents[2]


def test_public_names_are_the_contract():
    assert sorted(tapadl.__all__) == list(tapadl.__all__)
    assert set(tapadl.__all__) == {
        "AttentionDiversificationLoss",
        "MeasuredGrid",
        "SequenceGrid",
        "Site",
        "TokenAwareAveragePooling",
        "attach_diversification",
        "attach_tap",
        "attention_diversification",
        "attention_diversification_from_map",
        "describe",
        "detach_diversification",
        "detach_tap",
        "token_aware_pooling",
    }


@pytest.mark.parametrize("name", tapadl.__all__)
def test_every_public_name_is_documented(name):
    docstring = inspect.getdoc(getattr(tapadl, name)) or ""
    assert "Args:" in docstring
    assert f"::: tapadl.{name}\n" in (ROOT / "docs" / "api.md").read_text()
    assert name in {"Site", "MeasuredGrid", "SequenceGrid"} or "Example:" in docstring
