"""SECURITY.md: its limits are the code's, and the tests that it names exist."""

import re

import pytest

from bitvit import images, model, modelfile, tensorfile
from bitvit.checkpoint import pickles, state_dict, torchzip
from tests.support.paths import ROOT

TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
MB, GB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("part", "limit"),
    [
        ("pickle of a `.pth` | {} MB", pickles.MAX_PICKLE / MB),
        ("and {:,} opcodes and copied elements", pickles.MAX_WORK),
        ("directory of a `.pth` | {} MB", torchzip.MAX_DIRECTORY / MB),
        ("inside their storages; {} times the file's size", state_dict.MAX_GROWTH),
        ("header of a `.safetensors` | {} MB", tensorfile.MAX_HEADER / MB),
        ("packed model | {} GB", modelfile.MAX_FILE / GB),
        ("numbers finite and below {:.0e}", modelfile.MAX_VALUE),
        ("working memory of a packed model | {} GB", model.MAX_WORKING_BYTES / GB),
        ("image | {:,} pixels", images.MAX_PIXELS),
        ("formats of images | {} |", ", ".join(images.FORMATS)),
    ],
)
def test_limits_are_the_codes(part: str, limit: float | str) -> None:
    shown = int(limit) if isinstance(limit, float) and "e}" not in part else limit
    assert part.format(shown).replace("1e+12", "1e12") in TEXT


def test_named_files_exist() -> None:
    named = set(re.findall(r"(?:tests|tools)(?:/\w+)+(?:\.py)?", TEXT))
    assert len(named) > 12
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
