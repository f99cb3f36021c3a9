"""Fixture: a hub of one's own, which huggingface_hub takes for the only one, with an empty cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import Hub, running_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    library = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install 'bitvit[hub]'")
    with running_hub() as server:
        # It has read its environment variables when it was imported.
        monkeypatch.setattr(library.constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(library.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(library.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(library.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(library.constants, "HF_HUB_DISABLE_XET", True)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server
