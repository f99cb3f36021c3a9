"""The catalog of functions says of each what is so."""

import importlib
import inspect
import re
from typing import get_args

import pytest

from bitvit.kernels import catalog
from bitvit.kernels.catalog import FUNCTIONS, KERNELS, Function, Kernel, Kind


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_functions_are_where_the_catalog_says(function: Function) -> None:
    """Under the same name in both, with as many arguments."""
    assert getattr(catalog, function.name) is function
    written = getattr(importlib.import_module(f"bitvit.kernels.{function.module}"), function.name)
    arguments = list(inspect.signature(written).parameters)
    if isinstance(function, Kernel):
        assert arguments == ["piece", "arguments", "const", "state", "scratch"]
        assert function.kind in (None, *get_args(Kind))
    else:
        assert len(arguments) == function.arguments
        returns = re.search(r"^ +return \S", inspect.getsource(written), re.MULTILINE) is not None
        assert function.signature.startswith("int64(" if returns else "void(")


def test_twins_for_other_norms_have_one_base() -> None:
    """name and name_ln; a kernel without a twin serves both norms, or layer norms alone."""
    by_name = {kernel.name: kernel for kernel in KERNELS}
    twins = {kernel.base for kernel in KERNELS if kernel.name.endswith("_ln")}
    assert {"mlp", "project"} < twins
    for base in twins:
        one, other = by_name[base], by_name[f"{base}_ln"]
        assert (one.norm, other.norm) == ("batch", "layer")
        assert (one.module, one.arguments, one.kind) == (other.module, other.arguments, other.kind)
    assert {kernel.norm for kernel in KERNELS if kernel.base not in twins} == {None, "layer"}
    assert catalog.layer_norm.norm == "layer"
