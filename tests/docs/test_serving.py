"""docs/serving.md: its commands run against a server as it starts it, its options exist, its examples are sound."""

import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command import run
from tests.support.paths import ROOT, WEIGHTS
from tests.support.serving import RunningServer, running

PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "docs" / "examples"
NEEDED = ("starlette", "orjson", "prometheus_client", "python_multipart", "uvicorn", "httptools")
needs_server = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="needs the packages of the server: pip install 'bitvit[serve]'",
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@needs_server
@pytest.mark.skipif(os.name == "nt" or not shutil.which("curl"), reason="shell and curl")
def test_commands_and_programs_run(tmp_path: Path) -> None:
    start, *commands = blocks("bash")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)).save(tmp_path / "photo.jpg")
    with running(tmp_path, *shlex.split(start)[2:]) as server:
        for command in commands:
            script = command.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl -sS --fail ")
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert "error" not in done.stdout
        assert server.stop() == 0  # its log is complete
    statuses = [line["status"] for line in server.lines()]
    assert statuses == [200] * "".join(commands).count("curl ")
    (program,) = blocks("python")
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_options_and_defaults_are_the_commands() -> None:
    stdout, _ = run("serve", "--help")
    table = PAGE.split("| option |")[1].split("\n\n")[0]
    options = set(re.findall(r"`(--[a-z-]+)`", table))
    assert options == set(re.findall(r"(--[a-z-]+)", stdout)) - {"--help"}
    source = (ROOT / "bitvit" / "cli" / "serve.py").read_text(encoding="utf-8")
    for option, default in re.findall(r"^\| `(--[a-z-]+)` \| (\d+) \|", table, re.MULTILINE):
        name = option[2:].replace("-", "_")
        assert re.search(rf"\n    {name}: Annotated\[.*?\] = {default},\n", source, re.DOTALL), option


@needs_server
def test_metrics_are_those_that_are_counted() -> None:
    source = (ROOT / "bitvit" / "serve" / "metrics.py").read_text(encoding="utf-8")
    counted = set(re.findall(r'"(bitvit_[a-z_]+)"', source))
    assert {name.removesuffix("_total") for name in re.findall(r"`(bitvit_[a-z_]+)`", PAGE)} == counted


def test_the_page_is_linked() -> None:
    assert "serving.md" in (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------- examples
@pytest.fixture(scope="module")
def unit() -> configparser.SectionProxy:
    """The service's part of the unit."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment]
    found.read(EXAMPLES / "bitvit.service")
    return found["Service"]


@pytest.fixture(scope="module")
def as_a_service(unit: configparser.SectionProxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The unit's own command, with another model and port."""
    _, _, *arguments = shlex.split(unit["ExecStart"])
    arguments[arguments.index("/srv/model.safetensors")] = str(WEIGHTS / "bhvit-cifar10.safetensors")
    del arguments[arguments.index("--port") : arguments.index("--port") + 2]
    with running(tmp_path_factory.mktemp("service"), *arguments) as server:
        yield server


@needs_server
def test_the_units_command_is_one(unit: configparser.SectionProxy, as_a_service: RunningServer) -> None:
    program, verb, *arguments = shlex.split(unit["ExecStart"])
    assert (Path(program).name, verb, unit["ExecReload"]) == ("bitvit", "serve", "/bin/kill -HUP $MAINPID")
    assert as_a_service.ask("GET", "/v2/models/bhvit-cifar10/ready").status == 200
    assert int(arguments[arguments.index("--grace") + 1]) < int(unit["TimeoutStopSec"])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "bitvit.service"
    unit.write_text(
        (EXAMPLES / "bitvit.service").read_text().replace("/opt/venv/bin/bitvit", shutil.which("true") or "")
    )
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "bitvit.service" in line] == []


@needs_server
def test_the_dockerfile_warms_up_as_root_and_serves_as_another(as_a_service: RunningServer) -> None:
    text = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")
    words = [
        "pip install",
        "COPY model.safetensors",
        "ENV NUMBA_CACHE_DIR=",
        "RUN bitvit warmup",
        "USER ",
        "ENTRYPOINT",
    ]
    places = [text.index(word) for word in words]
    assert places == sorted(places)
    parts = {name: json.loads(value) for name, value in re.findall(r"^(ENTRYPOINT|CMD) (\[.*\])$", text, re.MULTILINE)}
    command = parts["ENTRYPOINT"] + parts["CMD"]
    assert command[:4] == ["bitvit", "serve", "--host", "0.0.0.0"]
    assert command[-1] in text.split("COPY model.safetensors ")[1].splitlines()[0]
    (check,) = re.findall(r"^HEALTHCHECK CMD (\[.*\])$", text, re.MULTILINE)
    probe = json.loads(check)[2].replace("http://127.0.0.1:8000", as_a_service.url)
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
    assert as_a_service.stop() == 0
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode != 0
