"""The resumable training, and what comes out of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitvit

torch = pytest.importorskip("torch")

from bitvit.train import augment, export, loop  # noqa: E402
from bitvit.train.layers import Options  # noqa: E402
from bitvit.train.network import BHViT  # noqa: E402
from bitvit.train.settings import Augment, Network, TrainingError  # noqa: E402
from bitvit.train.start import read_weights  # noqa: E402
from tests.support.training import SMALL, small, squares  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def states(run: loop.Run) -> dict[str, Any]:
    return {**run.model.state_dict(), **{f"ema {k}": v for k, v in run.best_model.state_dict().items()}}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"ema": 0.9, "views": 2, "augment": Augment(shift=2, flip=True)},
        {"mixup": 0.8, "drop_path": 0.3},
        {"precision": "bfloat16", "network": dataclasses.replace(SMALL, widths=(16, 32, 64, 64))},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, extra: dict[str, Any]) -> None:
    settings, drawn = small(**extra), squares()
    torch.manual_seed(9)
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2)) if extra else None
    quiet: dict[str, Any] = {"teacher": teacher, "say": lambda _text: None}
    whole = loop.Run(settings, drawn, tmp_path / "whole", **quiet)
    whole.train()
    for stop in (3, 5, 7):  # the middle of an epoch, its end, and the second epoch
        with pytest.raises(loop.InterruptedRunError):
            loop.Run(settings, drawn, tmp_path / "parts", stop_after=stop, **quiet).train()
    resumed = loop.Run(settings, drawn, tmp_path / "parts", **quiet)
    resumed.train()
    assert resumed.step == whole.step == 10
    found = states(resumed)
    for name, value in states(whole).items():
        assert value.equal(found[name]), name
    untimed = [[{**row, "seconds": 0} for row in run.log] for run in (whole, resumed)]
    assert untimed[0] == untimed[1]
    assert whole.flips.share(5) == resumed.flips.share(5) > 0


def test_a_run_with_other_settings_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(loop.InterruptedRunError):
        loop.Run(small(), squares(), tmp_path, stop_after=2, say=lambda _text: None).train()
    with pytest.raises(TrainingError, match="other settings"):
        loop.Run(small(seed=1), squares(), tmp_path)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"damaged")
    with pytest.raises(TrainingError, match=r"state\.pt: cannot be read"):
        loop.Run(small(), squares(), tmp_path)


@pytest.mark.parametrize("changes", [{}, {"downsampling": "binary"}, {"quantizer": "gsb"}, {"norm": "layer"}])
def test_train_convert_and_run_in_the_engine(tmp_path: Path, changes: dict[str, Any]) -> None:
    network = Network(**{**SMALL.__dict__, **changes})
    run = loop.Run(small(network=network, epochs=8), squares(), tmp_path, say=lambda _text: None)
    run.train()
    result = export.export(run, "python -m tools.train")
    assert result.top1_pytorch >= 90
    assert result.top1_bitvit == result.top1_pytorch
    assert result.same_predictions == 20
    engine = bitvit.load(tmp_path / "bhvit-squares.safetensors")
    pixels = augment.normalise(run.data.test.pixels, run.data.preprocessing.mean, run.data.preprocessing.std)
    expected = loop.predictions(run.model, run.data.test, run.data).numpy()
    np.testing.assert_allclose(engine(pixels.contiguous().numpy()), expected, atol=2e-5 * expected.std())
    assert json.loads((tmp_path / "result.json").read_text())["sha256"] == result.sha256
    assert "drawn by a test" in (tmp_path / "CARD.md").read_text()


def test_a_run_starts_from_a_checkpoint(tmp_path: Path) -> None:
    quiet: dict[str, Any] = {"say": lambda _text: None}
    first = loop.Run(small(), squares(), tmp_path / "first", **quiet)
    first.train()
    export.export(first, "")
    path = tmp_path / "first" / "model.safetensors"
    second = loop.Run(small(seed=5), squares(), tmp_path / "second", start=read_weights(path), **quiet)
    for name, value in first.model.state_dict().items():
        assert value.equal(second.model.state_dict()[name]), name
    steps = [m.alpha.clone() for m in second.model.modules() if hasattr(m, "zero_point")]
    second.stop_after = 0
    second.settings = dataclasses.replace(second.settings, learning_rate=1e-12)
    second.train()
    assert all(
        torch.allclose(step, m.alpha, rtol=1e-6)
        for step, m in zip(steps, (m for m in second.model.modules() if hasattr(m, "zero_point")), strict=True)
    ), "steps that were learnt are not measured afresh"

    three = dataclasses.replace(squares(), labels=["above", "below", "neither"])
    third = loop.Run(small(), three, tmp_path / "third", start=read_weights(path), **quiet)
    assert third.model.classifier.weight.shape[0] == 3
    key = "vit.encoder.layerA.0.GC.cov1.weight"
    assert third.model.state_dict()[key].equal(first.model.state_dict()[key])

    other = small(network=dataclasses.replace(SMALL, widths=(8, 16, 16, 16)))
    with pytest.raises(TrainingError, match=r"\[2, 32\], expected \[2, 16\]; .*another network"):
        loop.Run(other, squares(), tmp_path / "fourth", start=read_weights(path), **quiet)
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(bitvit.BitvitError, match=r"text\.pth"):
        loop.Run(small(), squares(), tmp_path / "fifth", start=read_weights(tmp_path / "text.pth"), **quiet)


def test_single_level_attention_is_not_for_the_engine() -> None:
    network = Network(**{**SMALL.__dict__, "attention_levels": 1})
    assert not small(network=network).exportable
    model = BHViT(network.config(2), Options(attention_levels=1))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 2)
