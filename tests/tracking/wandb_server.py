"""A stand-in for W&B's server on loopback: takes what is posted, and answers as much as is asked.

It is no W&B: nothing is checked, and only what `wandb sync` (0.31) and the calls of lineage ask has
an answer. What was posted is kept, by run and by artifact.
"""

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "team"


@dataclass
class PostedRun:
    """What was posted of a run."""

    name: str
    project: str = ""
    group: str | None = None
    job_type: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    exit_code: int | None = None

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of the table that the summary names."""
        content = json.loads(self.files[self.summary[name]["path"]])
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


@dataclass
class PostedArtifact:
    """What was posted of an artifact."""

    type: str
    metadata: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class Quiet(ThreadingHTTPServer):
    """Clients that hang up are no news."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


class Server:
    """The server, on a free port, in a thread of its own; `with` closes it."""

    def __init__(self) -> None:
        self.runs: dict[str, PostedRun] = {}
        self.order: list[str] = []  # runs, as they were first posted
        self.artifacts: dict[str, PostedArtifact] = {}
        self.views: dict[str, Any] = {}  # workspaces
        self.unanswered: list[str] = []
        self._server = Quiet(("127.0.0.1", 0), self._handler())
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(server: "Server") -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _take(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                content = self.rfile.read(length)
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                with server._lock:
                    answer = server.take(self.command, self.path, content)
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = _take

        return Handler

    def take(self, command: str, path: str, content: bytes) -> Any:
        """Keep what was posted; the answer."""
        if path == "/graphql":
            asked = json.loads(content)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            known = asked.get("variables") or {}
            answer = getattr(self, f"_{name[1]}" if name else "_", None)
            if answer is None:
                self.unanswered.append(asked["query"])
                return {"errors": [{"message": f"no answer to {asked['query'][:200]}"}]}
            return {"data": answer(known)}
        if upload := re.fullmatch(r"/upload/(run|artifact)/([^/]+)/(.*)", path):
            kind, name, file = upload.groups()
            place = self.runs[name] if kind == "run" else self.artifacts[name]
            place.files[file] = content
        elif stream := re.fullmatch(rf"/files/{ENTITY}/[^/]+/([^/]+)/file_stream", path):
            self._stream(self.runs[stream[1]], json.loads(content))
        return {}

    def _stream(self, run: PostedRun, posted: dict[str, Any]) -> None:
        files = posted.get("files") or {}
        lines = (files.get("wandb-history.jsonl") or {}).get("content", [])
        run.history += [json.loads(line) for line in lines]
        for line in (files.get("wandb-summary.json") or {}).get("content", []):
            run.summary = json.loads(line)
        if posted.get("complete"):
            run.exit_code = posted["exitcode"]

    def _UpsertBucket(self, asked: dict[str, Any]) -> Any:
        name = asked["name"]
        if name not in self.runs:
            self.order.append(name)
        run = self.runs.setdefault(name, PostedRun(name))
        run.project = asked["project"]
        run.group, run.job_type = asked["groupName"] or run.group, asked["jobType"] or run.job_type
        config = json.loads(asked["config"] or "{}")
        run.config |= {key: item["value"] for key, item in config.items() if key != "_wandb"}
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": f"id-{name}",
            "name": name,
            "displayName": asked["displayName"],
            "description": None,
            "config": "{}",
            "sweepName": None,
            "project": project,
            "historyLineCount": 0,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _ServerFeaturesQuery(self, asked: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _CreateArtifact(self, asked: dict[str, Any]) -> Any:
        given = asked["input"]
        name = given["artifactCollectionName"]
        metadata = json.loads(given["metadata"] or "{}")
        self.artifacts[name] = PostedArtifact(given["artifactTypeName"], metadata)
        self.runs[given["runName"]].artifacts.append(name)
        made = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> Any:
        name = asked["artifactID"]
        url = f"{self.url}/upload/artifact/{name}/{asked['name']}"
        file = {
            "id": "f",
            "uploadUrl": url if asked["includeUpload"] else None,
            "uploadHeaders": [],
        }
        return {"createArtifactManifest": {"artifactManifest": {"id": f"m-{name}", "file": file}}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> Any:
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": f"{self.url}/upload/artifact/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in asked["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> Any:
        name = asked["artifactID"]
        self.artifacts[name].committed = True
        return {"commitArtifact": {"artifact": {"id": name, "digest": "d"}}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> Any:
        run = asked["run"]
        files = [
            {"name": file, "uploadUrl": f"{self.url}/upload/run/{run}/{file}"}
            for file in asked["files"]
        ]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _GetDefaultEntity(self, asked: dict[str, Any]) -> Any:
        return self._Viewer(asked)

    def _Viewer(self, asked: dict[str, Any]) -> Any:
        viewer = {"id": "u", "entity": ENTITY, "username": "someone", "email": "", "flags": "{}"}
        return {"viewer": {**viewer, "teams": {"edges": []}}}

    def _ArtifactMembershipByName(self, asked: dict[str, Any]) -> Any:
        name, _, alias = asked["name"].partition(":")
        project = {"id": "p", "internalId": "1", "name": asked["project"]}
        project["entity"] = {"name": ENTITY}
        source = {"name": name, "project": project}
        now, posted = "2026-01-01T00:00:00Z", self.artifacts[name]
        artifact = {
            "__typename": "Artifact",
            "id": name,
            "artifactSequence": {"__typename": "ArtifactSequence", **source},
            "versionIndex": 0,
            "artifactType": {"name": posted.type},
            "description": None,
            "metadata": json.dumps(posted.metadata),
            "ttlDurationSeconds": -1,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED" if posted.committed else "PENDING",
            "size": 1,
            "digest": "d",
            "commitHash": None,
            "fileCount": len(posted.files),
            "createdAt": now,
            "updatedAt": now,
        }
        membership = {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership-{name}",
            "versionIndex": 0,
            "createdAt": now,
            "aliases": [{"__typename": "ArtifactAlias", "id": "alias", "alias": alias}],
            "artifactCollection": {"__typename": "ArtifactSequence", **source},
            "artifact": artifact,
        }
        return {"project": {"artifactCollectionMembership": membership}}

    def _Run(self, asked: dict[str, Any]) -> Any:
        posted = self.runs[asked["name"]]
        run = {
            "projectId": "1",
            "id": f"id-{posted.name}",
            "tags": [],
            "name": posted.name,
            "displayName": posted.name,
            "sweepName": None,
            "state": "finished",
            "config": "{}",
            "group": posted.group,
            "jobType": posted.job_type,
            "commit": None,
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": None,
            "description": None,
            "notes": None,
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(posted.summary),
            "historyLineCount": len(posted.history),
            "user": {"name": "someone", "username": "someone"},
            "historyKeys": None,
        }
        return {"project": {"run": run}}

    def _UseArtifact(self, asked: dict[str, Any]) -> Any:
        self.runs[asked["runName"]].used.append(asked["artifactID"])
        used = {"id": asked["artifactID"], "digest": "d", "description": None}
        used |= {"state": "COMMITTED", "createdAt": "2026-01-01T00:00:00Z", "metadata": "{}"}
        return {"useArtifact": {"artifact": used}}

    def _UpsertView2(self, asked: dict[str, Any]) -> Any:
        self.views[asked["displayName"]] = json.loads(asked["spec"])
        view = {"id": "view", "name": asked["name"]}
        return {"upsertView": {"view": view, "inserted": True}}
