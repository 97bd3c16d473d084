"""The Hugging Face hub's API on this machine, as far as publishing asks it: a real HTTP server that keeps what it is
sent, or fails as a test tells it to.

Written from what huggingface_hub sends and reads; large files go by LFS, whose contents outlive a commit that fails.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".parquet")
TOKEN = "hf_planted"


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # by id, the last one newest
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return next(reversed(self.commits.values()))

    def commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(str(len(self.commits)).encode()).hexdigest()
        self.commits[name] = files
        return name

    def at(self, revision: str) -> dict[str, bytes]:
        return self.files if revision == "main" else self.commits[self.tags.get(revision, revision)]


class Hub:
    """`faults`: by what is asked, such as `commit`, statuses to answer with first; `drop` closes the connection, and
    `lost` does so after the request was followed."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.stored: dict[str, bytes] = {}  # by SHA-256
        self.faults: dict[str, list[int | str]] = {}
        self.asked: Counter[str] = Counter()
        self.url = ""

    def make(self, kind: str, name: str, private: bool, **files: bytes) -> Repository:
        made = self.repositories[kind, name] = Repository(private)
        made.commit({".gitattributes": b"", **files})
        return made


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        what, call, groups = self.route(path)
        self.hub.asked[what] += 1
        fault = self.hub.faults.get(what, [])[:1]
        del self.hub.faults.get(what, [])[:1]
        length = int(self.headers.get("Content-Length") or 0)
        if fault == ["drop"]:
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(length)
        if fault and isinstance(fault[0], int):
            self.send(fault[0], {"error": f"planted {fault[0]}"})
            return
        if what != "put" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(401, {"error": "Invalid username or password."})
            return
        status, answered = call(body, *groups)
        if fault == ["lost"]:
            self.close_connection = True
            self.connection.close()
            return
        self.send(status, answered)

    def send(self, status: int, answered: Any) -> None:
        content = json.dumps(answered).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(content)

    def route(self, path: str) -> tuple[str, Any, tuple[str, ...]]:
        name = r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)"
        routes = {
            "whoami": ("GET", r"/api/whoami-v2", self.whoami),
            "create": ("POST", r"/api/repos/create", self.create),
            "yaml": ("POST", r"/api/validate-yaml", self.yaml),
            "refs": ("GET", rf"{name}/refs", self.refs),
            "tree": ("GET", rf"{name}/tree/([^/]+)/?", self.tree),
            "preupload": ("POST", rf"{name}/preupload/([^/]+)", self.preupload),
            "commit": ("POST", rf"{name}/commit/([^/]+)", self.commit),
            "tag": ("POST", rf"{name}/tag/([^/]+)", self.tag),
            "untag": ("DELETE", rf"{name}/tag/([^/]+)", self.untag),
            "batch": ("POST", r"/(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self.batch),
            "put": ("PUT", r"/lfs/(\w+)", self.put),
            "info": ("GET", rf"{name}(?:/revision/[^/]+)?", self.info),
        }
        for what, (method, pattern, call) in routes.items():
            if self.command == method and (found := re.fullmatch(pattern, path)):
                return what, call, found.groups()
        return "other", lambda _: (404, {"error": "Not found"}), ()

    def repository(self, kind: str, name: str) -> Repository | None:
        return self.hub.repositories.get((kind, name))

    def whoami(self, _: bytes) -> tuple[int, Any]:
        return 200, {"name": "me", "type": "user"}

    def create(self, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        key = asked.get("type") or "model", f"{asked['organization'] or 'me'}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}"}
        if key in self.hub.repositories:
            return 409, url | {"error": "You already created this repo"}
        self.hub.make(*key, private=asked.get("visibility") == "private")
        return 200, url

    def yaml(self, _: bytes) -> tuple[int, Any]:
        return 200, {"warnings": [], "errors": []}

    def info(self, _: bytes, kind: str, name: str) -> tuple[int, Any]:
        found = self.repository(kind, name)
        if found is None:
            return 404, {"error": "Repository not found"}
        return 200, {"id": name, "private": found.private, "sha": next(reversed(found.commits)), "tags": []}

    def refs(self, _: bytes, kind: str, name: str) -> tuple[int, Any]:
        found = self.repository(kind, name)
        if found is None:
            return 404, {"error": "Repository not found"}
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": to} for tag, to in found.tags.items()]
        return 200, {"branches": [], "converts": [], "tags": tags}

    def tree(self, _: bytes, kind: str, name: str, revision: str) -> tuple[int, Any]:
        found = self.repository(kind, name)
        assert found is not None
        listed = []
        for path, content in found.at(revision).items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            sha256 = hashlib.sha256(content).hexdigest()
            lfs = {"lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}} if path.endswith(LARGE) else {}
            listed.append({"type": "file", "path": path, "size": len(content), "oid": blob, **lfs})
        return 200, listed

    def preupload(self, body: bytes, kind: str, name: str, _: str) -> tuple[int, Any]:
        found = self.repository(kind, name)
        assert found is not None
        answered = []
        for asked in json.loads(body)["files"]:
            mode = "lfs" if asked["path"].endswith(LARGE) else "regular"
            there = found.files.get(asked["path"])
            oid = None
            if there is not None:
                whole = there if mode == "lfs" else b"blob %d\0" % len(there) + there
                oid = (hashlib.sha256 if mode == "lfs" else hashlib.sha1)(whole).hexdigest()
            answered.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": answered}

    def batch(self, body: bytes, *_: str) -> tuple[int, Any]:
        objects = []
        for asked in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append(asked | ({} if asked["oid"] in self.hub.stored else {"actions": upload}))
        return 200, {"transfer": "basic", "objects": objects}

    def put(self, body: bytes, oid: str) -> tuple[int, Any]:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.stored[oid] = body
        return 200, {}

    def commit(self, body: bytes, kind: str, name: str, _: str) -> tuple[int, Any]:
        found = self.repository(kind, name)
        assert found is not None
        files = dict(found.files)
        for line in body.splitlines():
            asked = json.loads(line)
            value = asked["value"]
            if asked["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif asked["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif asked["key"] == "deletedFile":
                del files[value["path"]]
        oid = found.commit(files)
        return 200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid}

    def tag(self, body: bytes, kind: str, name: str, revision: str) -> tuple[int, Any]:
        found = self.repository(kind, name)
        assert found is not None
        wanted = json.loads(body)["tag"]
        if wanted in found.tags:
            return 409, {"error": "Tag reference exists already"}
        found.tags[wanted] = revision
        return 200, {}

    def untag(self, _: bytes, kind: str, name: str, tag: str) -> tuple[int, Any]:
        found = self.repository(kind, name)
        assert found is not None
        del found.tags[tag]
        return 200, {}


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
