"""A stand-in for the Hugging Face hub: repositories of models, commits, and downloads of their files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

TOKEN = "hf_test"


class Hub:
    """What the server has, and how it misbehaves."""

    def __init__(self) -> None:
        self.address = ""
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.claimed_size: int | None = None
        """Size that is claimed for every file."""
        self.failing = ""
        """Part of a path that is answered with 500."""


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *words: Any) -> None:
        pass

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(self.path)
        if self.hub.failing and self.hub.failing in self.path:
            return self.answer({"error": "broken"}, 500)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid user token."}, 401)
        if self.path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values['organization']}/{values['name']}" if values.get("organization") else values["name"]
            known = name in self.hub.repositories
            self.hub.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.hub.address}/{name}"}, 409 if known else 200)
        if self.path == "/api/validate-yaml":
            return self.answer({"warnings": [], "errors": []})
        _, _, _, user, model, action, *_ = self.path.split("/")
        if action == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            return self.answer({"files": [{**file, "shouldIgnore": False} for file in files]})
        assert action == "commit", self.path
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.hub.repositories[f"{user}/{model}"][entry["value"]["path"]] = content
        url = f"{self.hub.address}/{user}/{model}/commit/{'1' * 40}"
        return self.answer({"commitUrl": url, "commitOid": "1" * 40, "success": True})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests.append(self.path)
        parts = self.path.removeprefix("/api/models").strip("/").split("/")
        files = self.hub.repositories.get("/".join(parts[:2]))
        if files is None:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        if "resolve" not in parts:
            return self.answer({"id": "/".join(parts[:2]), "sha": "1" * 40, "siblings": []})
        content = files.get(parts[-1])
        if content is None:
            return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": etag, "X_Repo_Commit": "1" * 40}
        if self.hub.claimed_size is not None:
            headers["X_Linked_Size"] = str(self.hub.claimed_size)
        return self.answer(content, **headers)


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Yields a running server."""
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
