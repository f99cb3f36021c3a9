"""read_checkpoint: the golden samples, and damage of every kind."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bitvit.checkpoint import read_checkpoint
from bitvit.errors import BitvitError, CheckpointError
from tests.support.checkpoints import SAMPLES, assert_same, read_zip, refuse, write_legacy, write_zip
from tests.support.golden_data import find, load_case
from tests.support.paths import ROOT
from tools.fuzz.pickles import Raw, tensor


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_holds_the_golden_checkpoint(name: str) -> None:
    path = find(f"pth/{name}")
    found = read_checkpoint(path)
    expected = load_case("micro96_pth").state
    assert_same({key: found.state[key] for key in expected}, expected)
    assert found.state.keys() == expected.keys()
    assert found.path == path
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.format == ("pth-legacy" if "legacy" in name else "pth-zip")
    assert not found.has_ema
    assert (found.args is not None) == (name == "checkpoint.pth")


def test_sample_args_are_the_training_options() -> None:
    args = read_checkpoint(find("pth/checkpoint.pth")).args
    assert args is not None
    assert args["shift3"] is True
    assert args["nb_classes"] == 10
    assert args["model"] == "configs/micro96_pth/config.json"


def test_safetensors_holds_the_golden_checkpoint(tmp_path: Path) -> None:
    expected = dict(load_case("micro96_pth").state)
    save_file(expected, tmp_path / "m.safetensors", metadata={"case": "micro96_pth"})
    found = read_checkpoint(str(tmp_path / "m.safetensors"))
    assert_same({key: found.state[key] for key in expected}, expected)
    assert (found.format, found.args, found.has_ema) == ("safetensors", None, False)


def test_reads_without_torch() -> None:
    code = f"""
import sys
from bitvit.checkpoint import read_checkpoint
for path in {[str(find(f"pth/{name}")) for name in SAMPLES]!r}:
    assert len(read_checkpoint(path).state) == 389
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_nan_and_infinity_are_named(tmp_path: Path, write: Callable[..., Path]) -> None:
    bad = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    value = {"v": tensor("0", (4,)), "w": tensor("1", (4,)), "x": tensor("1", (4,))}
    path = write(tmp_path / "t.pth", value, {"0": np.ones(4, np.float32), "1": bad})
    refuse(path, "'w' has 1 NaN and 2 infinite of 4 values (2 such tensors in all)")


def test_names_in_messages_are_escaped_and_cut(tmp_path: Path) -> None:
    evil = "\x1b[2J" + "a" * 5000
    with pytest.raises(CheckpointError) as caught:
        read_zip(tmp_path, {"x": Raw(f"c{evil}\nb\n".encode())})
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 700


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(SAMPLES[1:]), data=st.data())
def test_damage_at_random_is_an_error_of_ours_or_harmless(tmp_path: Path, name: str, data: st.DataObject) -> None:
    """Cut the file, or flip bytes in it: mostly in the pickles and the directory, at either end."""
    damaged = bytearray(find(f"pth/{name}").read_bytes())
    places = st.one_of(
        st.integers(0, len(damaged) - 1), st.integers(0, 4000), st.integers(len(damaged) - 4000, len(damaged) - 1)
    )
    if data.draw(st.booleans()):
        del damaged[data.draw(places) :]
    else:
        for place in data.draw(st.lists(places, min_size=1, max_size=4)):
            damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged.pth"
    path.write_bytes(damaged)
    try:
        state = read_checkpoint(path).state
    except BitvitError as error:
        assert str(path) in str(error)  # noqa: PT017 - not every damage is found: the legacy format has no check sums
    else:
        assert all(isinstance(array, np.ndarray) for array in state.values())
