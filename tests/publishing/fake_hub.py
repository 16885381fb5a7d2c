"""A local fake of the hub's HTTP interface: repositories, LFS and commits, in memory."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_SecretOfTheTest"


@dataclass
class Hub:
    """What the fake holds and saw."""

    endpoint: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> private, card, files
    blobs: dict[str, bytes] = field(default_factory=dict)  # sha256 -> content
    seen: list[str] = field(default_factory=list)
    token: str = TOKEN

    def add(self, name: str, *, private: bool = False, card: dict[str, Any] | None = None) -> None:
        self.repos[name] = {"private": private, "card": card or {}, "files": {}}


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, content: Any, status: int = 200, **headers: str) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.seen.append(f"{self.command} {path}")
            if path.startswith("/lfs/"):  # signed addresses need no token
                hub.blobs[path.removeprefix("/lfs/")] = body
                self.answer({})
            elif self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.answer({"error": "Invalid credentials"}, 401)
            elif path == "/api/repos/create":
                self.create(json.loads(body))
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
                files = [
                    {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                    | {"shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self.answer({"files": files})
            elif match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
                objects = json.loads(body)["objects"]
                upload = [{**each, "actions": {"upload": {"href": f"{hub.endpoint}/lfs/{each['oid']}"}}} for each in objects]
                self.answer({"transfer": "basic", "objects": upload})
            elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
                self.commit(match[1], [json.loads(line) for line in body.splitlines()])
            elif (match := re.fullmatch(r"/api/models/(.+)", path)) and match[1] in hub.repos:
                repo = hub.repos[match[1]]
                self.answer({"id": match[1], "private": repo["private"], "cardData": repo["card"], "siblings": []})
            else:
                self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            is_new = name not in hub.repos
            if name.startswith("forbidden/"):
                self.answer({"error": "You don't have the rights to create a model under this namespace"}, 403)
                return
            if is_new:
                hub.add(name, private=bool(asked.get("private")) or asked.get("visibility") == "private")
            self.answer({"url": f"{hub.endpoint}/{name}", "name": name}, 200 if is_new else 409)

        def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.repos[name]["files"][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    content = hub.blobs[value["oid"]]
                    assert hashlib.sha256(content).hexdigest() == value["oid"]
                    hub.repos[name]["files"][value["path"]] = content
                elif line["key"] == "header":
                    hub.repos[name]["message"] = value["summary"]
            self.answer({"commitUrl": f"{hub.endpoint}/{name}/commit/abc", "commitOid": "a" * 40})

        do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815 - names of http.server

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
