"""tools/differential.py: random networks by the reference, and by other processors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitvit.config import Config
from bitvit.verify import reference
from tests.support.paths import ROOT
from tests.support.shapes import shape
from tools import differential
from tools.differential import check, portion


def differential_run(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.differential", *map(str, arguments), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_few_networks() -> None:
    tally = portion(3, 4, against_reference=True, widest=160)
    assert len(tally.logits) >= 3
    assert all(logits.shape[0] == differential.IMAGES for logits in tally.logits.values())
    again = portion(3, 4, against_reference=False, widest=160)
    assert {name: logits.tobytes() for name, logits in again.logits.items()} == {
        name: logits.tobytes() for name, logits in tally.logits.items()
    }


def test_a_layer_that_errs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    config = shape(32, 1, (8, 8, 8, 16), (1, 1, 2, 1))
    check(config, 1, against_reference=True)
    rolled = reference.rolled_mean
    monkeypatch.setattr(reference, "rolled_mean", lambda x, reach, axis: rolled(x, reach, axis) * 1.001)
    with pytest.raises(AssertionError, match="tokens differ"):
        check(config, 1, against_reference=True)


def test_the_image_that_differs_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []

    def check_layers(_config: Config, _seed: int, image: differential.Logits) -> tuple[int, int, bool]:
        looked.append(image.tobytes())
        return len(looked) - 1, 1, len(looked) > 2  # nothing hangs on last bits, then something does; then all agrees

    monkeypatch.setattr(differential, "close", lambda *_: np.array([True, False, True]))
    monkeypatch.setattr(differential, "check_layers", check_layers)
    config = shape(32, 1, (8, 8, 8, 16), (1, 1, 2, 1))
    with pytest.raises(AssertionError, match="no sign hangs on last bits"):
        check(config, 1, against_reference=True)
    assert not check(config, 1, against_reference=True)[1]
    assert check(config, 1, against_reference=True)[1]
    image = np.random.default_rng(1).standard_normal((3, 3, 32, 32), np.float32)[1]
    assert looked == [image.tobytes()] * 3


def test_what_fails_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(config: Config, number: int, *, against_reference: bool) -> tuple[differential.Logits, bool]:
        assert max(config.hidden_sizes) < 40, f"too wide: {number}, {against_reference}"
        return np.zeros((differential.IMAGES, 1), np.float32), True

    monkeypatch.setattr(differential, "check", fails)
    with pytest.raises(AssertionError, match="too wide: 0, False") as error:
        portion(3, 100, against_reference=False, widest=160)
    assert "image_size=32" in "".join(getattr(error.value, "__notes__", []))


def test_other_bits_are_told(tmp_path: Path) -> None:
    for name, more in (("a (8 lanes)", 0.0), ("b (8 lanes)", 0.0), ("c (16 lanes)", 1.0)):
        place = tmp_path / name
        place.mkdir()
        names = '[["one", 3, false], ["two", 2, true]]'
        np.savez(place / "00000.npz", flat=np.array([1, 2, 3, 4, 5 + more], np.float32), names=np.array(names))
    found = differential_run("compare", folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "a (8 lanes) and b (8 lanes): 2 networks, 2 with the same bits; all must have" in found.stdout
    assert "b (8 lanes) and c (16 lanes): 2 networks, 1 with the same bits, 1 further apart than" in found.stdout
    (tmp_path / "c (16 lanes)").rename(tmp_path / "c (8 lanes)")
    assert differential_run("compare", folder=tmp_path).returncode == 1
