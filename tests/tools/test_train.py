"""tools/train: the PyTorch network, its estimators and losses, the resumable loop, and what comes out of it.

Without PyTorch, which only `pip install 'bitvit[train]'` brings, nothing of this can run.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

import bitvit
from bitvit.checkpoint.infer import infer_config
from bitvit.checkpoint.shapes import expected_shapes
from bitvit.config import Config
from bitvit.errors import ConfigError
from bitvit.images import open_image
from bitvit.verify import reference
from tests.support.engine import random_state
from tests.support.golden_data import case_names, load_case
from tests.support.paths import TOOLS

torch = pytest.importorskip("torch")

from tools.train import (  # noqa: E402
    ablation,
    augment,
    checkpoint,
    data,
    estimators,
    export,
    loop,
    losses,
    machine,
    oscillation,
    schedule,
    sets,
)
from tools.train.__main__ import main  # noqa: E402
from tools.train.network import BHViT, Options, binary_weights  # noqa: E402
from tools.train.settings import Augment, Network, Settings, TrainingError, read_settings  # noqa: E402
from tools.train.teacher import ResidualNetwork, load_teacher  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own

SMALL = Network(image_size=32, depths=(1, 1, 1, 1), widths=(8, 16, 16, 32), expansion=(2, 2, 2, 2), heads=(1, 1, 2, 2))


def small(**changes: Any) -> Settings:
    fields: dict[str, Any] = {"network": SMALL, "epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "flip_window": 5}
    return Settings(**{**fields, **changes})


def squares(count: int = 40) -> data.DataSet:
    """Squares that are bright above or below, as two classes."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % 2
    pixels = torch.randint(0, 120, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    pixels[labels == 0, :16] += 100
    pixels[labels == 1, 16:] += 100
    split = data.Split(pixels, labels)
    way = bitvit.Preprocessing.for_image_size(32, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3), resize=None)
    return data.DataSet("squares", split, split.first(20), ["above", "below"], way, "drawn by a test")


# -------------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("name", case_names())
def test_evaluation_equals_the_golden_logits(name: str) -> None:
    case = load_case(name)
    config = infer_config(case.state, config_json=case.config)
    model = BHViT(config).double().eval()
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in case.state.items()})
    with torch.no_grad():
        logits = model(torch.from_numpy(case.input.astype(np.float64))).numpy()
    # Both are float64 and differ in the order of their sums only.
    assert np.abs(logits - case.logits_f64).max() <= 1e-9 * case.logits_f64.std()


ADDITIONS: dict[str, dict[str, Any]] = {
    "all, attention": {"image_norm": True, "coordinates": True, "positions": "sinusoidal", "pooling": "attention"},
    "all, top, layer norm": {
        "norm": "layer",
        "image_norm": True,
        "coordinates": True,
        "pooling": "top",
        "topk_ratio": 0.6,
    },
    "even windows": {"image_size": 256, "window_size": 8, "merge_padding": "three"},
}


@pytest.mark.parametrize("name", ADDITIONS)
def test_additions_of_forks_are_computed_and_called_as_the_reference_has_them(name: str) -> None:
    network = Network(**{"image_size": 64, "widths": (8, 12, 16, 24), "heads": (1, 1, 2, 3), **ADDITIONS[name]})
    config = network.config(5)
    state = random_state(config, 1)
    model = BHViT(config).double().eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    pixels = np.random.default_rng(0).standard_normal((2, 3, config.image_size, config.image_size))
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels)).numpy()
    shape = {key: getattr(config, key) for key in ("depths", "num_heads", "window_size", "padding", "top_tokens")}
    expected = reference.forward(state, pixels, **shape)
    # Sines of float32, which differ by its last bit, are the only thing that is not float64.
    assert np.abs(logits - expected).max() <= 1e-6 * expected.std()


@pytest.mark.parametrize("name", [name for name in case_names() if name.startswith("micro96")])
def test_names_and_shapes_are_the_authors(name: str) -> None:
    case = load_case(name)
    config = infer_config(case.state, config_json=case.config)
    shapes = {key: tuple(value.shape) for key, value in BHViT(config).state_dict().items()}
    assert shapes == expected_shapes(config)


def test_initialise_measures_the_steps_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = BHViT(SMALL.config(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialise(torch.randn(4, 3, 32, 32))
    changed = {name.rpartition(".")[2] for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {"alpha", "zero_point", "init_state"}
    # Tokens of a window share their attention: mean of 3P is 3/N, here with N = 1 + M.
    alphas = [v for k, v in model.state_dict().items() if k.endswith("att_prob_quantizer.alpha")]
    for alpha, tokens in zip(alphas, (5, 2), strict=True):
        torch.testing.assert_close(alpha, torch.full_like(alpha, 2 * 3 / tokens / 3**0.5))


# --------------------------------------------------------------------------------------------------------- estimators


def test_gradient_of_sign() -> None:
    x = torch.linspace(-2, 2, 401, dtype=torch.float64).requires_grad_()
    y = estimators.sign(x)
    assert y.tolist() == np.sign(x.detach().numpy()).tolist()
    y.sum().backward()
    a = x.detach().numpy()
    expected = np.where((a >= -1) & (a <= 0), 2 + 2 * a, np.where((a > 0) & (a <= 1), 2 - 2 * a, 0))
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-12)


def test_sign_of_zero_is_zero() -> None:
    assert estimators.sign(torch.tensor([0.0, -0.0])).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(5, 12), (4, 3, 3, 3)])
def test_gradient_of_binary_weight(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    value = estimators.binary_weight(weight)
    w, g = weight.detach().numpy().reshape(shape[0], -1), grad.numpy().reshape(shape[0], -1)
    scale, signs = reference.binary_weight(weight.detach().numpy(), np.float64)
    expected = scale[:, None] * signs.reshape(shape[0], -1)
    np.testing.assert_allclose(value.detach().numpy().reshape(shape[0], -1), expected, rtol=1e-15)  # sums' order
    (value * grad).sum().backward()
    masked = g * (np.abs(w - w.mean(1, keepdims=True)) <= 1)
    expected = masked - masked.mean(1, keepdims=True)
    np.testing.assert_allclose(weight.grad.numpy().reshape(shape[0], -1), expected, atol=1e-12)


def test_recu_changes_the_gradient_and_not_the_value() -> None:
    weight = torch.randn(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    value = estimators.binary_weight(weight, recu=True)
    assert value.equal(estimators.binary_weight(weight))
    value.sum().backward()
    w = weight.detach().numpy()
    centred = w - w.mean(1, keepdims=True)
    factor = 2 * np.sqrt(2) / np.sqrt(centred.var(1, ddof=1, keepdims=True) + 1e-5)
    scaled = centred * factor
    mask = (np.abs(scaled) <= -np.log(2 - 2 * 0.92) * np.abs(scaled).mean()).astype(float)
    assert 0.02 < 1 - mask.mean() < 0.3
    # Through the factor: d(scaled_j)/d(centred_i) = factor·δ_ij − factor³/8 · centred_i·centred_j / (n − 1).
    through = factor * mask - factor**3 / 8 * centred * (mask * centred).sum(1, keepdims=True) / (w.shape[1] - 1)
    np.testing.assert_allclose(weight.grad.numpy(), through - through.mean(1, keepdims=True), atol=1e-10)


def test_gradient_of_levels() -> None:
    generator = torch.Generator().manual_seed(3)
    x = (3 * torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    step = torch.tensor([0.5, 0.9, 0.31], dtype=torch.float64).requires_grad_()
    zero = torch.tensor([0.1, -0.2, 0.0], dtype=torch.float64).requires_grad_()
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    y = estimators.levels(x, step, zero)
    (y * grad).sum().backward()
    a, z = (t.detach().numpy()[:, None, None] for t in (step, zero))
    v, g = x.detach().numpy(), grad.numpy()
    rounded = np.rint(v / a + z)
    level, inside = np.clip(rounded, 0, 3), (rounded >= 0) & (rounded <= 3)
    np.testing.assert_array_equal(y.detach().numpy(), level * a)
    factor = 3 / np.sqrt(v.size * 3)
    np.testing.assert_allclose(x.grad.numpy(), g * inside, atol=1e-12)
    np.testing.assert_allclose(step.grad.numpy(), factor * (g * (level - inside * v / a)).sum((0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(zero.grad.numpy(), factor * (g * inside * a).sum((0, 2, 3)), atol=1e-12)


def test_gradient_of_gsb() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 2, 6, generator=generator, dtype=torch.float64).softmax(-1).requires_grad_()
    steps = [torch.tensor(value, dtype=torch.float64).requires_grad_() for value in (0.3, 1.8, 2.5)]
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    y = estimators.gsb(x, *steps)
    (y * grad).sum().backward()
    a, a2, a3 = (step.item() for step in steps)
    v, g = x.detach().numpy(), grad.numpy()
    q = v / a
    top = q.max(-1, keepdims=True)
    t1, t2 = (q > 0.7 * top).astype(float), (q > 0.9 * top).astype(float)
    masks = np.clip(np.rint(q), 0, 1) - t1, t1 - t2, t2
    weighted = masks[0] + a2 * masks[1] + a3 * masks[2]
    h = np.where((q >= 0) & (q <= 1), -q, 0)
    np.testing.assert_allclose(y.detach().numpy(), a * weighted, atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), g * a * weighted, atol=1e-12)
    expected = (g * weighted * (1 + h)).sum(), (g * a * masks[1]).sum(), (g * a * masks[2]).sum()
    np.testing.assert_allclose([step.grad.item() for step in steps], expected, atol=1e-12)


# ------------------------------------------------------------------------------------------------ losses and schedule


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


@torch.no_grad()
def test_flips_are_counted_once_a_weight_and_forgotten_after_the_window() -> None:
    model = BHViT(SMALL.config(2))
    name, weight = next(iter(binary_weights(model)))
    row = weight[0].view(-1)
    row.copy_(torch.linspace(-1, 1, len(row)))
    row[len(row) // 2] = 0.1
    counter = oscillation.FlipCounter(model)
    total = sum(weight.numel() for _, weight in binary_weights(model))
    for step in range(4):
        if step < 2:  # one weight there and back, far enough from the row's mean
            row[-1] *= -1
            row[0] *= -1
        counter.update()
    assert counter.signs[name][0].view(-1)[-1]
    assert counter.share(3) == pytest.approx(2 / total)
    assert counter.share(2) == 0


def test_rate_rises_then_falls_and_the_regulariser_acts_last() -> None:
    settings = small(learning_rate=1.0, warmup=0.1, regulariser=0.3, regulariser_share=0.25)
    rates = [schedule.learning_rate(settings, step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] < 1e-3
    betas = [schedule.regulariser(settings, step, 100) for step in range(100)]
    assert betas == [0.0] * 75 + [0.3] * 25


# ------------------------------------------------------------------------------------------------ images


def test_pixels_are_the_engines() -> None:
    """An image of the set, normalised here, is bit for bit what the packed model's preprocessing makes of it."""
    images, _, held_out = _digits()
    loaded = data.load("digits", None, 96)
    first = int(np.flatnonzero(held_out)[0])
    mine = augment.normalise(loaded.test.pixels[:1], loaded.preprocessing.mean, loaded.preprocessing.std)
    expected = loaded.preprocessing(open_image(images[first]))
    np.testing.assert_array_equal(mine[0].numpy(), expected)
    assert (len(loaded.train), len(loaded.test)) == (1198, 599)


def _digits() -> Any:
    pytest.importorskip("sklearn")
    return sets.digits_images()


def test_variants_do_not_depend_on_the_batch() -> None:
    pixels = torch.randint(0, 256, (10, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for way in (Augment(shift=3, flip=True, cutout=4), Augment(shift=2, rotate=10, zoom=0.1)):
        variants = augment.Variants.draw(way, 10, 7, 1)
        whole = variants(pixels, torch.arange(10))
        some = torch.tensor([7, 2, 5])
        assert variants(pixels, some).equal(whole[some])
        assert not whole.equal(pixels)
        assert not augment.Variants.draw(way, 10, 7, 2)(pixels, torch.arange(10)).equal(whole)
    assert augment.Variants.draw(Augment(), 10, 7, 1)(pixels, torch.arange(10)).equal(pixels)


def test_shift_reflects_and_flip_mirrors() -> None:
    pixels = torch.arange(5, dtype=torch.uint8).view(1, 1, 5, 1).expand(1, 5, 5, 3)
    index, no, yes = torch.tensor([0]), torch.tensor([False]), torch.tensor([True])
    zero, two = torch.tensor([0]), torch.tensor([2])
    assert augment.shifted(pixels, index, zero, two, no)[0, 0, :, 0].tolist() == [2, 3, 4, 3, 2]
    assert augment.shifted(pixels, index, zero, -two, no)[0, 0, :, 0].tolist() == [2, 1, 0, 1, 2]
    assert augment.shifted(pixels, index, zero, zero, yes)[0, 0, :, 0].tolist() == [4, 3, 2, 1, 0]


def test_original_files_are_read(tmp_path: Path) -> None:
    records = np.arange(5 * 2 * 3073, dtype=np.uint32).astype(np.uint8).reshape(5, 2, 3073)
    records[:, :, 0] = np.arange(10).reshape(5, 2)
    for k in range(5):
        (tmp_path / f"data_batch_{k + 1}.bin").write_bytes(records[k].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(records[0].tobytes())
    loaded = data.load("cifar10", tmp_path, 32)
    assert loaded.train.labels.tolist() == list(range(10))
    assert (
        loaded.train.pixels[3, 5, 7].tolist() == records.reshape(10, 3073)[3, 1:].reshape(3, 32, 32)[:, 5, 7].tolist()
    )


def test_small_grey_images_get_a_border(tmp_path: Path) -> None:
    grey = np.full((4, 28, 28), 200, np.uint8)
    np.savez(tmp_path / "fashion_mnist.npz", train_x=grey, train_y=np.arange(4), test_x=grey, test_y=np.arange(4))
    loaded = data.load("fashion", tmp_path, 32)
    assert (loaded.preprocessing.pad, loaded.preprocessing.crop) == (2, 28)
    assert loaded.test.pixels[0, 1].max() == 0
    assert loaded.test.pixels[0, 2, 2:30].min() == 200


def test_mixup_blends_images_and_classes_alike() -> None:
    pixels, shares = torch.eye(6).view(6, 1, 1, 6), torch.eye(6)
    torch.manual_seed(4)
    mixed, classes = augment.mixup(pixels, shares, 0.7)
    assert torch.allclose(mixed.view(6, 6), classes)  # image k is 1 at k, as its class is
    assert torch.allclose(classes.sum(1), torch.ones(6))
    assert int((classes.amax(1) < 1).sum()) > 0
    torch.manual_seed(4)
    assert augment.mixup(pixels, shares, 0.7)[0].equal(mixed)


def test_task_takes_classes_or_their_shares() -> None:
    logits, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1, 0])
    shares = torch.nn.functional.one_hot(labels, 3).float()
    assert losses.task(logits, labels, 0.1) == pytest.approx(float(losses.task(logits, shares, 0.1)), rel=1e-6)


def test_dropped_branches_leave_an_image_as_it_is() -> None:
    options = Options(drop_path=0.5)
    model = BHViT(SMALL.config(2), options)
    blocks = [*model.vit.encoder.layerA, *model.vit.encoder.layerB]
    assert [block.drop_path for block in blocks] == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])
    block, x, y = blocks[-1].train(), torch.zeros(400, 1, 1, 2), torch.ones(400, 1, 1, 2)
    torch.manual_seed(0)
    out = block.dropped(x, y)
    kept = out[:, 0, 0, 0] != 0
    assert 140 < int(kept.sum()) < 260  # half of 400, six deviations either way
    assert torch.equal(out[kept], 2 * y[kept])
    assert block.eval().dropped(x, y) is y


# ------------------------------------------------------------------------------------------------ the loop


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
    for name, value in states(whole).items():
        assert value.equal(states(resumed)[name]), name
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


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    checkpoint.write_bytes(path, b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(TrainingError, match=r"file\.bin: cannot be written: disk full"):
        checkpoint.write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


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
    second = loop.Run(small(seed=5), squares(), tmp_path / "second", start_from=path, **quiet)
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
    third = loop.Run(small(), three, tmp_path / "third", start_from=path, **quiet)
    assert third.model.classifier.weight.shape[0] == 3
    key = "vit.encoder.layerA.0.GC.cov1.weight"
    assert third.model.state_dict()[key].equal(first.model.state_dict()[key])

    other = small(network=dataclasses.replace(SMALL, widths=(8, 16, 16, 16)))
    with pytest.raises(TrainingError, match=r"\[2, 32\], expected \[2, 16\]; .*another network"):
        loop.Run(other, squares(), tmp_path / "fourth", start_from=path, **quiet)
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(bitvit.BitvitError, match=r"text\.pth"):
        loop.Run(small(), squares(), tmp_path / "fifth", start_from=tmp_path / "text.pth", **quiet)


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


# ------------------------------------------------------------------------------------------------ the command


def test_command_trains_on_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    drawn = squares()
    for split in ("train", "test"):
        for k, (pixels, label) in enumerate(zip(drawn.train.pixels, drawn.train.labels, strict=True)):
            place = tmp_path / "images" / split / drawn.labels[int(label)]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(place / f"{k}.png")
    (tmp_path / "config.json").write_text(json.dumps(small().to_dict()))
    arguments = ["--data", "folder", "--data-folder", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    arguments += ["--config", str(tmp_path / "config.json"), "--set", "epochs=1", "--device", "cpu"]
    assert main(arguments) == 0, capsys.readouterr().err
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made >= {
        "state.pt",
        "settings.json",
        "log.csv",
        "model.safetensors",
        "config.json",
        "result.json",
        "CARD.md",
    }
    assert main(arguments) == 0  # a finished run is resumed at its end
    assert main([*arguments, "--set", "seed=3"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epoch": 3}, "has unknown fields \\['epoch'\\]"),
        ({"epochs": "3"}, "epochs is '3', expected an integer"),
        ({"epochs": 0}, "out of range: epochs"),
        ({"network": {"depths": [1, 2]}}, r"network: depths is \[1, 2\], expected a list of 4"),
        ({"network": 3}, "network is 3, expected an object"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(TrainingError, match=message):
        read_settings(path)


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="window_size"):
        Network(image_size=32, window_size=3).config(10)


@pytest.mark.parametrize("path", sorted((TOOLS / "train" / "configs").glob("*.json")))
def test_configs_of_the_project_are_valid(path: Path) -> None:
    settings = read_settings(path)
    if settings.network.kind == "bhvit":
        settings.network.config(10)


def test_single_level_attention_is_not_for_the_engine() -> None:
    network = Network(**{**SMALL.__dict__, "attention_levels": 1})
    assert not small(network=network).exportable
    model = BHViT(network.config(2), Options(attention_levels=1))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 2)


def test_every_row_of_the_ablation_differs_from_the_first() -> None:
    rows = [ablation.variant(small(), name, seed=4) for name in ablation.VARIANTS]
    assert {row.seed for row in rows} == {4}
    assert len({row.digest() for row in rows}) == len(ablation.VARIANTS)


def test_the_ablations_table_has_each_seed_and_their_mean() -> None:
    rows = [{"top1": 80.0, "flips": 0.25}, {"top1": 81.0, "flips": 0.75}]
    first, _, last = ablation.table({"everything": rows}, [3, 7]).splitlines()
    assert first == "| variant | seed 3 | seed 7 | mean top-1 | flips at the end |"
    assert last == "| everything | 80.00 | 81.00 | 80.50 % | 50.00 % |"


def test_the_faster_number_of_threads_is_kept() -> None:
    before = torch.get_num_threads()
    try:
        chooser = machine.ThreadChooser(2)
        for _ in range(2 * machine.TRIAL_STEPS + 1):
            chooser.after_step(10.0 if torch.get_num_threads() == 2 else 1.0)
        assert torch.get_num_threads() == 1
        chooser.next_trial = 0.0
        for _ in range(2 * machine.TRIAL_STEPS + 1):
            chooser.after_step(0.6 if torch.get_num_threads() == 2 else 1.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
