"""bitvit serve: where it listens, and one line for a mistake."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import run, shell
from tests.support.logs import loggers_as_they_were
from tests.support.paths import ROOT, WEIGHTS

SERVER = ("uvicorn", "httptools", "orjson", "prometheus_client", "python_multipart")
MODEL = WEIGHTS / "bhvit-cifar10.safetensors"


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """The command sets the loggers of its whole process."""
    with loggers_as_they_were():
        yield


def packages() -> None:
    for package in SERVER:
        pytest.importorskip(package, reason="needs the packages of the server: pip install 'bitvit[serve]'")


def test_nothing_else_imports_the_servers_packages() -> None:
    script = "import sys, bitvit, bitvit.serve, bitvit.cli.application; bitvit.Classifier; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "bitvit.serve" in done.stdout.split()
    assert set(done.stdout.split()) & {*SERVER, "asyncio"} == set()


@pytest.mark.parametrize("package", SERVER)
def test_a_missing_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packages()
    monkeypatch.setitem(sys.modules, package, None)
    _, stderr = run("serve", MODEL, code=1)
    assert stderr.startswith(f"Error: serving needs {package}, which is not installed: ")
    assert stderr.endswith(" -m pip install 'bitvit[serve]'\n")


def test_mistakes(tmp_path: Path) -> None:
    packages()
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for arguments, said in (
        ([tmp_path / "nothing"], "nothing: does not exist"),
        ([tmp_path / "bad.safetensors"], "bad.safetensors: "),
        ([MODEL, MODEL], "two models are called bhvit-cifar10"),
        ([f"x={MODEL}", f"x={MODEL}"], "two models are called x"),
        (["x="], "x=: names no file behind the =; expected NAME=PATH"),
        ([f"/={MODEL}"], "a model is called '/'"),
        ([MODEL, "--host", "192.0.2.1"], "192.0.2.1 port 8000: is not an address of this machine"),
        ([MODEL, "--uds", tmp_path / "bad.safetensors"], "is in use by another process, or a file"),
        ([MODEL, "--uds", tmp_path / "no" / "socket"], "cannot be listened at"),
    ):
        _, stderr = run("serve", *arguments, code=1)
        assert said in stderr
        assert stderr.count("Error: ") == 1
        assert len(stderr.splitlines()) <= 2


def test_a_port_in_use() -> None:
    packages()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = shell("serve", MODEL, "--port", port)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"Error: 127.0.0.1 port {port}: is in use by another process; end it, or")
    assert len(done.stderr.splitlines()) == 1
