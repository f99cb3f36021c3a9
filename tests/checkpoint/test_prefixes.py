"""What wrappers put before and between names."""

import runpy
from pathlib import Path

import pytest

from bitvit.checkpoint import read_checkpoint
from bitvit.checkpoint.prefixes import choose_names, has_network
from bitvit.errors import CheckpointError
from tests.support.checkpoints import FIVE, assert_same, read_zip, refuse, write_zip
from tools.fuzz.pickles import tensor

NAMES = ("vit.encoder.layerA.0.w", "vit.embeddings.w", "classifier.weight")


def mend(prefix: str) -> str:
    return f"take {prefix}"


@pytest.mark.parametrize(
    "prefix",
    ["model.", "net.", "backbone.", "student.", "any.other.", "model._orig_mod.", "0.", "module.model.module."],
)
def test_one_prefix_is_taken_off_and_said(prefix: str) -> None:
    found = choose_names([prefix + name for name in NAMES], False, mend)
    assert tuple(found.names.values()) == NAMES
    assert tuple(found.names) == tuple(prefix + name for name in NAMES)
    assert len(found.notes) == 1
    assert found.notes[0].endswith("which was taken off")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_torch_need_no_word(prefix: str) -> None:
    found = choose_names([prefix + name for name in NAMES], False, mend)
    assert (tuple(found.names.values()), found.notes) == (NAMES, ())


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_wrappers_of_single_blocks(wrapper: str) -> None:
    stored = [f"vit.encoder.layerA.0.{wrapper}w", f"vit.{wrapper}embeddings.w", "classifier.weight"]
    assert tuple(choose_names(stored, False, mend).names.values()) == NAMES


def test_averaged_model_has_a_counter() -> None:
    """torch.optim.swa_utils.AveragedModel."""
    found = choose_names(["n_averaged", *(f"module.{name}" for name in NAMES)], False, mend)
    assert tuple(found.names.values()) == NAMES
    assert found.notes == ("the weights are averages over the training (AveragedModel: 'n_averaged' is there)",)
    assert "n_averaged" in choose_names(["n_averaged", *NAMES], False, mend).names


@pytest.mark.parametrize("averaged", ["ema.", "ema_model.", "model_ema.module.", "model.swa."])
def test_averages_beside_the_weights(averaged: str) -> None:
    stored = [prefix + name for prefix in ("model.", averaged) for name in NAMES]
    trained = choose_names(stored, False, mend)
    assert tuple(trained.names) == tuple(f"model.{name}" for name in NAMES)
    taken = choose_names(stored, True, mend)
    assert tuple(taken.names) == tuple(averaged + name for name in NAMES)
    assert tuple(taken.names.values()) == tuple(trained.names.values()) == NAMES
    assert trained.averages == taken.averages == averaged


@pytest.mark.parametrize("word", ["schema.", "swap.", "lemma."])
def test_words_that_only_look_like_averages(word: str) -> None:
    found = choose_names([word + name for name in NAMES], False, mend)
    assert (tuple(found.names.values()), found.averages) == (NAMES, None)
    with pytest.raises(CheckpointError, match="holds 2 networks"):
        choose_names([prefix + name for prefix in ("model.", word) for name in NAMES], False, mend)


def test_averages_alone_are_the_weights() -> None:
    found = choose_names([f"ema.{name}" for name in NAMES], False, mend)
    assert (tuple(found.names.values()), found.averages) == (NAMES, None)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (["student.", "teacher."], "holds 2 networks: names begin with 'student.', 'teacher.'; .*; take student."),
        (["", "model."], "holds 2 networks"),
    ],
)
def test_networks_that_are_not_told_apart(stored: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        choose_names([prefix + name for prefix in stored for name in NAMES], False, mend)


def test_what_is_beside_a_wrapped_network_is_not_dropped() -> None:
    """It may be a layer that images go through first."""
    with pytest.raises(
        CheckpointError, match=r"'1\.', but 1 tensor without .*: '0\.mean'; save the network alone; take 1\."
    ):
        choose_names(["0.mean", *(f"1.{name}" for name in NAMES)], False, mend)


@pytest.mark.parametrize("stored", [("w", "v"), ("layer1.0.conv1.weight",), ("my_vit.encoder.layerA.0.w",), ()])
def test_other_networks_keep_their_names(stored: tuple[str, ...]) -> None:
    found = choose_names(stored, False, mend)
    assert (tuple(found.names.values()), found.averages, found.notes) == (stored, None, ())


def test_names_that_become_one() -> None:
    with pytest.raises(CheckpointError, match=r"'vit\.embeddings\.w' occurs with and without a prefix"):
        choose_names([*NAMES, "module.vit.embeddings.w"], False, mend)


def test_names_of_a_network_are_known() -> None:
    assert has_network(["epoch", 3, "module.model.vit.encoder.layerA.0.w"])
    assert not has_network(["epoch", 3, "vit.encoder.layer.0.w"])


# ----------------------------------------------------------------------------------------------------------- in files


def test_only_the_chosen_network_is_read(tmp_path: Path) -> None:
    value = {f"{prefix}{NAMES[0]}": tensor(key, (5,)) for prefix, key in (("net.", "0"), ("ema.", "missing"))}
    found = read_zip(tmp_path, {"state_dict": value}, {"0": FIVE})
    assert_same(found.state, {NAMES[0]: FIVE})
    assert found.has_ema
    assert found.notes[1] == "averaged (EMA) weights are there too ('ema.'): --ema (ema=True) takes them"
    refuse(tmp_path / "t.pth", "storage 'missing' has no bytes", ema=True)


def test_the_line_in_the_message_mends_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    state = {f"model.{NAMES[0]}": torch.arange(5.0), "criterion.weight": torch.ones(3)}
    for wrap, path in (({"state_dict": state}, "wrapped.pth"), (state, "bare.pth")):
        torch.save(wrap, tmp_path / path)
        with pytest.raises(CheckpointError, match=r"'criterion\.weight'") as caught:
            read_checkpoint(tmp_path / path)
        (tmp_path / "mend.py").write_text(str(caught.value).partition("write it anew: ")[2])
        monkeypatch.chdir(tmp_path)
        runpy.run_path("mend.py")
        assert_same(read_checkpoint("weights.pth").state, {NAMES[0]: FIVE})


def test_an_ordinary_refusal_names_the_file(tmp_path: Path) -> None:
    value = {f"a.{NAMES[0]}": tensor("0", (5,)), f"b.{NAMES[0]}": tensor("0", (5,))}
    path = write_zip(tmp_path / "t.pth", value, {"0": FIVE})
    refuse(path, "holds 2 networks", f"torch.load({str(path)!r}, weights_only=False)", "removeprefix('a.')")
