"""A fake W&B server on this machine that can also refuse requests, hang and die."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY = "0" * 40
OPERATION = re.compile(r"(?:query|mutation)\s+(\w+)")


class WandbServer(ThreadingHTTPServer):
    """Answers the requests of one run.

    Args:
        behaviour: how further requests are answered; "drops" closes connections without an answer.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, behaviour: Literal["works", "503", "403", "hangs", "drops"]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.rows: list[dict[str, Any]] = []
        """The uploaded history, in order."""
        self.keys: set[str] = set()
        """With which clients have logged in."""
        self.files: dict[str, bytes] = {}
        """Name -> uploaded content."""
        self.artifacts: dict[str, dict[str, Any]] = {}
        """Id -> what the client said of it; whether it is complete ("committed"), and an input of the run ("used")."""
        self.sweep: list[dict[str, Any]] = [{}, {}]
        """A sweep's configuration, and the parameters of the one run that an agent is asked to start."""
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self) -> dict[str, str]:
        """Returns the variables that make a run use this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def die(self) -> None:
        """Close all connections and refuse new ones."""
        self.behaviour = "drops"
        self.ended.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: tests kill clients during requests."""


@contextlib.contextmanager
def serving(behaviour: Literal["works", "503", "403", "hangs", "drops"]) -> Iterator[WandbServer]:
    server = WandbServer(behaviour)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.die()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.behaviour == "hangs":
            self.server.ended.wait()
        if self.server.behaviour in ("hangs", "drops"):
            self.close_connection = True
        elif self.server.behaviour != "works":
            self._answer(int(self.server.behaviour))
        elif self.path == "/graphql":
            if authorization := self.headers.get("Authorization"):
                user, _, key = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
                self.server.keys.add(key if user == "api" else "no key")
            request = json.loads(body)
            name = request.get("operationName") or OPERATION.findall(request["query"])[0]  # the agent sends no name
            self._answer(200, {"data": self._graphql(name, request.get("variables") or {})})
        elif self.path.endswith("/file_stream"):
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl")
            if history:
                self.server.rows[history["offset"] :] = map(json.loads, history["content"])
            self._answer(200)
        elif self.command == "PUT":
            self.server.files[self.path.removeprefix("/storage/")] = body
            self._answer(200)
        else:
            self._answer(404)

    do_PUT = do_GET = do_POST

    def _graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "entity", "name": "somebody"}
        if operation == "UpsertBucket":
            project = {"id": "project", "name": "gan_dist", "entity": entity}
            names = {name: variables.get(name) for name in ("name", "displayName")}
            bucket = {
                "id": "bucket",
                **names,
                "config": "{}",
                "historyLineCount": len(self.server.rows),
                "project": project,
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "RunResumeStatus":
            return {
                "model": {"id": "project", "name": "gan_dist", "entity": entity, "bucket": self._resumed(variables)}
            }
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.server.url}/storage/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": files}}
        if operation == "Viewer":
            return {"viewer": {"id": "user", "username": "somebody", "entity": "somebody", "flags": "{}"}}
        if operation == "ArtifactType":
            return {"project": {"artifact": None}}
        if "Artifact" in operation:
            return self._artifact(operation, variables)
        if operation == "SweepWithRuns":
            config = json.dumps(self.server.sweep[0])
            return {"project": {"sweep": {"id": "sweep", "name": "sweep", "config": config, "runs": {"edges": []}}}}
        if operation == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent"}}}
        if operation == "Heartbeat":
            arguments, self.server.sweep[1] = self.server.sweep[1], {}
            values = {name: {"value": value} for name, value in arguments.items()}
            run = {"type": "run", "run_id": "run-of-sweep", "program": "", "args": values}
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps([run] if values else [])}}
        return {}

    def _artifact(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer the requests with which the client uploads an artifact, and declares one as an input of the run."""
        artifacts, given = self.server.artifacts, variables.get("input", {})
        if operation == "CreateArtifact":
            key = f"artifact{len(artifacts)}"
            metadata = json.loads(given["metadata"] or "{}")
            artifacts[key] = {**given, "metadata": metadata, "committed": False, "used": False}
            sequence = {"latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": key, "state": "PENDING", "artifactSequence": sequence}}}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            key = variables.get("artifactID") or variables["artifactManifestID"]
            file = {"id": "file", "uploadUrl": f"{self.server.url}/storage/{key}/manifest.json", "uploadHeaders": []}
            answer = operation[0].lower() + operation[1:]
            return {answer: {"artifactManifest": {"id": key, "file": file}}}
        if operation == "CreateArtifactFiles":
            nodes = []
            for each in given["artifactFiles"]:
                path = f"{each['artifactID']}/{each['name']}"
                node = {"storagePath": path, "uploadUrl": f"{self.server.url}/storage/{path}", "uploadHeaders": []}
                nodes.append({"node": {**node, "uploadMultipartUrls": None, "artifact": {"id": each["artifactID"]}}})
            return {"createArtifactFiles": {"files": {"edges": nodes}}}
        if operation == "CommitArtifact":
            artifact = artifacts[variables["artifactID"]]
            artifact["committed"] = True
            return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": artifact["digest"]}}}
        if operation == "UseArtifact":
            artifacts[given["artifactID"]]["used"] = True
            return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}
        if operation == "ArtifactByID":
            return {"artifact": self._described(variables["id"])}
        return {}

    def _described(self, key: str) -> dict[str, Any]:
        """What a server tells of an artifact."""
        given = self.server.artifacts[key]
        project = {"id": "project", "internalId": "1", "name": "gan_dist", "entity": {"name": "somebody"}}
        sequence = {"__typename": "ArtifactSequence", "name": given["artifactCollectionName"], "project": project}
        unset = dict.fromkeys(("description", "historyStep", "commitHash", "updatedAt"))
        return {
            "__typename": "Artifact",
            "id": key,
            "artifactSequence": sequence,
            "artifactType": {"name": given["artifactTypeName"]},
            "metadata": json.dumps(given["metadata"]),
            "digest": given["digest"],
            "versionIndex": 0,
            "size": 1,
            "fileCount": 1,
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "aliases": [],
            "state": "COMMITTED",
            "createdAt": "2026-01-01T00:00:00Z",
            **unset,
        }

    def _resumed(self, variables: dict[str, Any]) -> dict[str, Any] | None:
        """What is known of the run; None if it has no history yet."""
        rows = self.server.rows
        if not rows:
            return None
        tail, config = json.dumps([json.dumps(rows[-1])]), json.dumps({})
        lines = {"historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": json.dumps(rows[-1])}
        names = {"name": variables.get("name"), "displayName": "run", "id": "bucket"}
        return {**names, **lines, **tails, "config": config, "wandbConfig": config, "tags": []}

    def _answer(self, status: int, content: dict[str, Any] | None = None) -> None:
        body = json.dumps(content or {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
