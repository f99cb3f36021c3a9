"""Teachers."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bitvit.train import export, loop  # noqa: E402
from bitvit.train.settings import Network, TrainingError  # noqa: E402
from bitvit.train.teacher import ResidualNetwork, load_teacher  # noqa: E402
from tests.support.training import small, squares  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def test_a_trained_teacher_is_loaded_and_its_classes_are_checked(tmp_path: Path) -> None:
    network = Network(kind="teacher", image_size=16, widths=(8, 8, 8, 16))
    run = loop.Run(small(network=network, ema=0.5), squares(), tmp_path, say=lambda _text: None)
    run.train()
    assert isinstance(run.model, ResidualNetwork)
    assert export.export(run, "").top1_bitvit is None
    teacher = load_teacher(tmp_path / "model.safetensors", 2)
    pixels = torch.randn(2, 3, 32, 32)
    assert teacher(pixels).equal(run.best_model.eval()(pixels))
    with pytest.raises(TrainingError, match="2 classes, expected 3"):
        load_teacher(tmp_path / "model.safetensors", 3)


def test_files_that_are_not_a_teacher_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(b"no")
    with pytest.raises(TrainingError, match="cannot be read"):
        load_teacher(tmp_path / "t.safetensors", 2)
