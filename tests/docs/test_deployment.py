"""docs/deployment.md: what it names exists, and is what the code goes by."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_image_is_warmed_up_as_root_where_the_other_user_looks() -> None:
    """In that order; tests/jit/test_containers.py does the same."""
    image, _ = blocks("dockerfile")
    words = ["pip install", "COPY model.safetensors /srv/", "ENV NUMBA_CACHE_DIR=", "RUN bitvit warmup /srv/", "USER "]
    places = [image.index(word) for word in words]
    assert places == sorted(places)


def test_variables_are_those_that_the_code_reads() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "bitvit").rglob("*.py"))
    named = set(re.findall(r"\b(?:NUMBA|BITVIT)_[A-Z_]+", PAGE))
    assert named == {"NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"}
    assert all(f'"{name}"' in sources for name in named)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names features of x86-64")
def test_llvm_knows_the_features_and_the_processor(tmp_path: Path) -> None:
    """Otherwise it says that it ignores them."""
    _, chosen = blocks("dockerfile")
    variables = dict(re.findall(r"^ENV (\w+)=(\S+)$", chosen, re.MULTILINE))
    script = "from bitvit.jit.compiler import *; from bitvit.kernels.catalog import pool; compile_object(pool)"
    environment = {**os.environ, **variables, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    script = "from bitvit.kernels.target import *; print(CPU, target_has('avx2'), target_has('avx512f'))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "x86-64-v3 True False\n"
