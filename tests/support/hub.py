"""A server that speaks as much of the Hugging Face Hub's protocol as huggingface_hub asks for, on this machine."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

__all__ = ["TOKEN", "Hub", "Repository", "hub", "running_hub"]

TOKEN = "hf_goodtoken"


@dataclass
class Repository:
    """Commits, each with all its files, and the names of some of them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    """Branches and tags."""

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add files to those of a branch; returns the commit."""
        before = self.commits.get(self.references.get(branch, ""), {})
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[name] = before | files
        self.references[branch] = name
        return name

    def found(self, revision: str) -> str | None:
        commit = self.references.get(revision, revision)
        return commit if commit in self.commits else None


class Hub:
    """The server's repositories, the large files that were uploaded, and what it was asked."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.other_host = f"http://localhost:{port}"  # where large files lie: the client leaves its token out there
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.tokens: dict[str, set[str]] = {"127.0.0.1": set(), "localhost": set()}
        self.broken = False
        """Whether every answer is 500."""

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False) -> str:
        """A repository with one commit, which is returned."""
        self.repositories[name] = Repository(private, gated)
        return self.repositories[name].commit(files)


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(server.server_port)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub takes for the only one, with an empty cache."""
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="needs huggingface_hub: pip install 'bitvit[hub]'"
    )
    with running_hub() as server:
        # It has read its environment variables when it was imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses"), raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass

    # ------------------------------------------------------------------------------------------------------- reading
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._begin()
        if path is None:
            return
        if match := re.fullmatch(r"/large/(\w+)", path):
            self._send_bytes(self.hub.large[match[1]])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._send_info(match[1], unquote(match[2] or "main"))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._send_file(match[1], unquote(match[2]), unquote(match[3]))
        else:
            self._send(404, {"error": "not found"})

    def _allowed(self, name: str) -> Repository | None:
        """The repository, if there is one that this token may read; otherwise the answer is sent."""
        repository = self.hub.repositories.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != TOKEN:
            self._send(
                401, {"error": "Invalid credentials"}, **_error("", "Invalid credentials in Authorization header")
            )
        elif repository is None or (repository.private and token != TOKEN):
            # As the Hub does, which does not say whether there is such a repository.
            status = 404 if token else 401
            self._send(
                status, {"error": "Repository not found"}, **_error("RepoNotFound" if token else "", "not found")
            )
        else:
            return repository
        return None

    def _send_info(self, name: str, revision: str) -> None:
        repository = self._allowed(name)
        if repository is None:
            return
        commit = repository.found(revision)
        if commit is None:
            self._send(404, {"error": "Invalid rev"}, **_error("RevisionNotFound", f"Invalid rev id: {revision}"))
            return
        files = [{"rfilename": file} for file in repository.commits[commit]]
        self._send(200, {"id": name, "sha": commit, "private": repository.private, "siblings": files})

    def _send_file(self, name: str, revision: str, file: str) -> None:
        repository = self._allowed(name)
        if repository is None:
            return
        commit = repository.found(revision)
        if repository.gated:
            self._send(403, {"error": "gated"}, **_error("GatedRepo", "Access to this model is restricted"))
        elif commit is None:
            self._send(404, {}, **_error("RevisionNotFound", "Invalid rev"))
        elif file not in repository.commits[commit]:
            self._send(404, {}, **_error("EntryNotFound", "Entry not found"))
        else:
            data, about = repository.commits[commit][file], {"X-Repo-Commit": commit}
            if not file.endswith(".safetensors"):
                self._send_bytes(data, **about, ETag=f'"{hashlib.sha1(data).hexdigest()}"')
                return
            digest = hashlib.sha256(data).hexdigest()
            self.hub.large[digest] = data
            about |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{digest}"'}
            self._send(302, {}, **about, Location=f"{self.hub.other_host}/large/{digest}")

    # ------------------------------------------------------------------------------------------------------- writing
    def do_PUT(self) -> None:
        path = self._begin()
        if path is not None:
            self.hub.large[path.rpartition("/")[2]] = self._body
            self._send(200, {})

    def do_POST(self) -> None:
        path = self._begin()
        if path is None:
            return
        if path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid username or password."}, **_error("", "Invalid username or password."))
        elif path == "/api/validate-yaml":
            has_front_matter = json.loads(self._body)["content"].startswith("---\n")
            self._send(200, {"warnings": [] if has_front_matter else [{"message": "empty metadata"}]})
        elif path == "/api/repos/create":
            self._create(json.loads(self._body))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
            references, branch = self.hub.repositories[match[1]].references, unquote(match[2])
            status = 409 if branch in references else 200
            references.setdefault(branch, references["main"])
            self._send(status, {})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/.+", path):
            names = [file["path"] for file in json.loads(self._body)["files"]]
            mode = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            self._send(200, {"files": [{"path": n, "uploadMode": mode[n], "shouldIgnore": False} for n in names]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(self._body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{self.hub.other_host}/large/{item['oid']}"}}
            self._send(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            self._commit(match[1], unquote(match[2]))
        else:
            self._send(404, {"error": "not found"})

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] == "strangers":
            self._send(403, {"error": "You don't have the rights"}, **_error("", "You don't have the rights"))
        elif name in self.hub.repositories:
            self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{name}"})
        else:
            is_private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.hub.add(name, {".gitattributes": b""}, private=is_private)
            self._send(200, {"url": f"{self.hub.endpoint}/{name}"})

    def _commit(self, name: str, branch: str) -> None:
        files: dict[str, bytes] = {}
        for line in self._body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.repositories[name].commit(files, branch)
        url = f"{self.hub.endpoint}/{name}/commit/{commit}"
        self._send(200, {"commitUrl": url, "commitOid": commit, "success": True})

    # ------------------------------------------------------------------------------------------------------ answering
    def _begin(self) -> str | None:
        """The path of a request, whose body is read; None if it was answered already."""
        self._body = self._read_body()
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        host = self.headers["Host"].partition(":")[0]
        self.hub.tokens[host].add(self.headers.get("Authorization", ""))
        if self.hub.broken:
            self._send(500, {"error": "out of order"})
            return None
        return path

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, answer: object, **headers: str) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_bytes(self, data: bytes, **headers: str) -> None:
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = (int(span[1]), int(span[2] or len(data) - 1) + 1) if span else (0, len(data))
        part = data[begin:end]
        self.send_response(206 if span else 200)
        if span:
            headers |= {"Content-Range": f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"}
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(part)


def _error(code: str, message: str) -> dict[str, str]:
    return {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
