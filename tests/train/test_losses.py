"""The terms of the loss."""

import numpy as np
import pytest

from bitvit.config import Config

torch = pytest.importorskip("torch")

from bitvit.train import losses  # noqa: E402
from bitvit.train.network import BHViT, binary_weights  # noqa: E402
from tests.support.training import SMALL  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


def test_distillation_is_the_cross_entropy_of_two_softmaxes() -> None:
    generator = torch.Generator().manual_seed(6)
    student, teacher = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    p = np.exp(teacher.numpy()) / np.exp(teacher.numpy()).sum(1, keepdims=True)
    log_q = student.numpy() - np.log(np.exp(student.numpy()).sum(1, keepdims=True))
    assert losses.distillation(student, teacher).item() == pytest.approx(-(p * log_q).sum(1).mean(), rel=1e-6)


def test_regulariser_is_the_mean_distance_from_one() -> None:
    model = BHViT(SMALL.config(2))
    values = []
    for k, (_, weight) in enumerate(binary_weights(model)):
        torch.nn.init.constant_(weight, 0.1 * k if k % 2 else -0.1 * k)
        values.append(abs(0.1 * k - 1))
    assert losses.oscillation(model).item() == pytest.approx(np.mean(values), rel=1e-5)


def test_regulariser_covers_every_binary_weight_but_the_patch_embeddings() -> None:
    model = BHViT(Config(**{**SMALL.config(2).__dict__, "downsampling": "binary"}))
    names = {name for name, _ in binary_weights(model)}
    latent = {
        name
        for name in model.state_dict()
        if name.endswith(".weight")
        and name.split(".")[-2] in ("cov1", "cov2", "cov3", "query", "key", "value", "dense")
    }
    assert names == latent
    assert len(names) == 2 * 5 + 2 * 6


def test_task_takes_classes_or_their_shares() -> None:
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1, 0])
    shares = torch.nn.functional.one_hot(labels, 3).float()
    assert losses.task(logits, labels, 0.1) == pytest.approx(float(losses.task(logits, shares, 0.1)), rel=1e-6)
