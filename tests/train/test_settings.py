"""Settings out of files and changes."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bitvit.train.settings import TrainingError, read_settings  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own


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
