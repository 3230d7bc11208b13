"""A stand-in for the Hugging Face Hub on 127.0.0.1: the requests that its client makes to push and to fetch a file.

Whoever has the token of a user may write to what is theirs; private repositories are hidden from everybody else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKENS = {"hf_mine": "me", "hf_hers": "she"}


class RefusedError(Exception):
    """A status with the headers in which the Hub says why."""

    def __init__(self, status: int, message: str, code: str = "", url: str = "", **headers: str) -> None:
        self.status, self.content = status, json.dumps({"error": message, "url": url}).encode()
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def at(self, revision: str) -> str:
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid


class Hub(ThreadingHTTPServer):
    """Repositories by name, and every request that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        repository = self.repositories[name]
        return repository.commits[repository.branches[branch]]


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that ends with the block."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join(timeout=5)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    timeout = 10  # seconds, after which a client that says nothing is given up

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            for (method, pattern), route in ROUTES.items():
                found = re.fullmatch(pattern, path)
                if found and self.command in method:
                    status, headers, content = route(self, body, *map(unquote, found.groups()))
                    break
            else:
                raise RefusedError(404, f"the stand-in has no {self.command} {path}")
        except RefusedError as refused:
            status, headers, content = refused.status, refused.headers, refused.content
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    @property
    def user(self) -> str | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def repository(self, name: str, *, write: bool = False) -> Repository:
        found = self.server.repositories.get(name)
        owner = name.partition("/")[0]
        if found is None or (found.private and self.user != owner):
            raise RefusedError(404 if self.user else 401, "Repository not found", "RepoNotFound" if self.user else "")
        if write and self.user != owner:
            raise RefusedError(403 if self.user else 401, f"You have no rights on {name}")
        return found


Answer = tuple[int, dict[str, str], bytes]


def told(**data: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(data).encode()


def create(request: Handler, body: bytes) -> Answer:
    asked = json.loads(body)
    name = f"{asked['organization']}/{asked['name']}"
    if request.user != asked["organization"]:
        raise RefusedError(403 if request.user else 401, f"You have no rights to create a model under {name}")
    if name in request.server.repositories:
        raise RefusedError(409, "You already created this model repo", url=f"{request.server.endpoint}/{name}")
    made = Repository(private=asked.get("visibility") == "private" or asked.get("private") is True)
    made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
    request.server.repositories[name] = made
    return told(url=f"{request.server.endpoint}/{name}")


def branch(request: Handler, body: bytes, name: str, wanted: str) -> Answer:
    repository = request.repository(name, write=True)
    if wanted in repository.branches:
        raise RefusedError(409, "Reference already exists")
    repository.branches[wanted] = repository.branches["main"]
    return told()


def validate(request: Handler, body: bytes) -> Answer:
    head = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
    if head is None or not isinstance(yaml.safe_load(head[1]), dict):
        raise RefusedError(400, "there is no head of YAML")
    return told(errors=[], warnings=[])


def info(request: Handler, body: bytes, name: str, revision: str | None = None) -> Answer:
    repository = request.repository(name)
    return told(id=name, sha=repository.at(revision or "main"), private=repository.private)


def tree(request: Handler, body: bytes, name: str, revision: str) -> Answer:
    repository = request.repository(name)
    files = repository.commits[repository.at(revision)]
    listed = [
        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for path, content in files.items()
    ]
    return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()


def preupload(request: Handler, body: bytes, name: str, revision: str) -> Answer:
    request.repository(name, write=True).at(revision)
    return told(
        files=[
            {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}
            for path in (file["path"] for file in json.loads(body)["files"])
        ]
    )


def batch(request: Handler, body: bytes, name: str) -> Answer:
    request.repository(name, write=True)
    wanted = json.loads(body)["objects"]
    return told(
        transfer="basic",
        objects=[
            {**file, "actions": {"upload": {"href": f"{request.server.endpoint}/lfs/{file['oid']}"}}} for file in wanted
        ],
    )


def put(request: Handler, body: bytes, oid: str) -> Answer:
    if hashlib.sha256(body).hexdigest() != oid:
        raise RefusedError(400, "the content is not what it was said to be")
    request.server.large[oid] = body
    return told()


def commit(request: Handler, body: bytes, name: str, revision: str) -> Answer:
    repository = request.repository(name, write=True)
    files = dict(repository.commits[repository.at(revision)])
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = request.server.large[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    oid = repository.commit(revision, files)
    return told(success=True, commitOid=oid, commitUrl=f"{request.server.endpoint}/{name}/commit/{oid}")


def resolve(request: Handler, body: bytes, name: str, revision: str, path: str) -> Answer:
    repository = request.repository(name)
    oid = repository.at(revision)
    headers = {"X-Repo-Commit": oid}
    if path not in repository.commits[oid]:
        raise RefusedError(404, "Entry not found", "EntryNotFound", **headers)
    content = repository.commits[oid][path]
    mark = hashlib.sha1(content).hexdigest()
    if path.endswith(".safetensors"):  # kept by its hash, and what is kept may be damaged
        mark = hashlib.sha256(content).hexdigest()
        content = request.server.large[mark]
    return 200, {**headers, "ETag": f'"{mark}"'}, content


NAME, REST = r"([^/]+/[^/]+)", r"([^?]+)"
ROUTES: dict[tuple[str, str], Callable[..., Answer]] = {
    ("POST", "/api/repos/create"): create,
    ("POST", "/api/validate-yaml"): validate,
    ("POST", f"/api/models/{NAME}/branch/{REST}"): branch,
    ("POST", f"/api/models/{NAME}/preupload/{REST}"): preupload,
    ("POST", f"/api/models/{NAME}/commit/{REST}"): commit,
    ("GET", f"/api/models/{NAME}"): info,
    ("GET", f"/api/models/{NAME}/revision/{REST}"): info,
    ("GET", f"/api/models/{NAME}/tree/{REST}"): tree,
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch"): batch,
    ("PUT", "/lfs/([0-9a-f]{64})"): put,
    ("GET HEAD", f"/{NAME}/resolve/([^/]+)/{REST}"): resolve,
}
