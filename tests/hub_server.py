"""A small server that speaks the routes by which huggingface_hub looks up, downloads and uploads files."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves repositories at revision "main", and takes files for them; a context manager.

    Attributes:
        repositories: Contents by file name, by the repository's name.
        commits: The newest commit of each, and its message where it was made here.
        files: Contents by file name, of the first repository.
        token: With which one may write, in the name of its user.
        requests: The requests so far, such as "GET /leggedrobotics/defm/resolve/main/defm_resnet18.pth".
        send_only: Bytes after which a download's connection is cut, for each download to come; then they go well.
        announce_less: Every download ends early as if the file were this many bytes shorter.
        is_portal: Every answer is a web page, such as a hotel's network gives before one has paid.
        delay_s: Pause in the middle of a download.
    """

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        self.files = files
        self.repositories = {repository: files}
        self.commits = {repository: (COMMIT, "")}
        self.token, self.user = "hf_token", "user"
        self._large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.send_only: list[int] = []
        self.announce_less = 0
        self.is_portal = False
        self.delay_s = 0.0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def downloads(self) -> int:
        """How many downloads of a file were begun or taken up again."""
        return sum(request.startswith("GET") and "/resolve/" in request for request in self.requests)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805  the handler has the name `self`
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, with_body: bool) -> None:
                with hub._lock:
                    hub.requests.append(f"{self.command} {self.path}")
                if hub.is_portal:
                    return self._show_portal(with_body)
                asked = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/?]+))?(?:\?.*)?", self.path)
                if asked is not None:
                    repository, revision, name = asked[1], asked[2] or "main", None
                else:
                    repository, _, rest = self.path.lstrip("/").partition("/resolve/")
                    revision, _, name = rest.partition("/")
                if repository not in hub.repositories:
                    return self._refuse("RepoNotFound")
                files, (commit, _) = hub.repositories[repository], hub.commits[repository]
                if revision not in ("main", commit):
                    return self._refuse("RevisionNotFound")
                if name is None:
                    siblings = [{"rfilename": name} for name in sorted(files)]
                    return self._answer_json({"id": repository, "sha": commit, "siblings": siblings})
                if name not in files:
                    return self._refuse("EntryNotFound")
                self._send(files[name], commit, with_body)

            def do_PUT(self) -> None:
                content = self._content()
                hub._large[self.path.removeprefix("/large/")] = content
                self._answer_json({})

            def do_POST(self) -> None:
                content = self._content()
                with hub._lock:
                    hub.requests.append(f"{self.command} {self.path}")
                if self.path == "/api/validate-yaml":
                    front = yaml.safe_load(json.loads(content)["content"].split("---")[1])
                    return self._answer_json({"errors": [] if isinstance(front, dict) else [{"message": "no mapping"}]})
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    return self._answer_json({"error": "Invalid credentials"}, 401)
                if self.path == "/api/repos/create":
                    return self._create(json.loads(content))
                asked = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(?:\.git)?/(preupload|info|commit)/.+", self.path)
                if asked is None or asked[1] not in hub.repositories:
                    return self._refuse("RepoNotFound")
                {"preupload": self._preupload, "info": self._batch, "commit": self._commit}[asked[2]](asked[1], content)

            def _content(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                content = b""
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return content

            def _create(self, asked: dict[str, Any]) -> None:
                owner = asked.get("organization") or hub.user
                repository = f"{owner}/{asked['name']}"
                if owner != hub.user:
                    return self._answer_json({"error": "You don't have the rights to create a model there"}, 403)
                if repository in hub.repositories:
                    taken = {"error": "You already created this model repo", "url": f"{hub.url}/{repository}"}
                    return self._answer_json(taken, 409)
                hub.repositories[repository], hub.commits[repository] = {}, (COMMIT, "")
                self._answer_json({"url": f"{hub.url}/{repository}"})

            def _preupload(self, repository: str, content: bytes) -> None:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".gif")) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(content)["files"]
                ]
                self._answer_json({"files": modes})

            def _batch(self, repository: str, content: bytes) -> None:
                wanted = json.loads(content)["objects"]
                actions = [{**one, "actions": {"upload": {"href": f"{hub.url}/large/{one['oid']}"}}} for one in wanted]
                self._answer_json({"transfer": "basic", "objects": actions})

            def _commit(self, repository: str, content: bytes) -> None:
                head, *files = map(json.loads, content.decode().splitlines())
                for file in (line["value"] for line in files):
                    small = file.get("content")
                    content = base64.b64decode(small) if small is not None else hub._large[file["oid"]]
                    assert small is not None or hashlib.sha256(content).hexdigest() == file["oid"]
                    hub.repositories[repository][file["path"]] = content
                commit = hashlib.sha1(hub.commits[repository][0].encode()).hexdigest()
                hub.commits[repository] = (commit, head["value"]["summary"])
                self._answer_json({"commitUrl": f"{hub.url}/{repository}/commit/{commit}", "commitOid": commit})

            def _answer_json(self, content: dict[str, Any], status: int = 200) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _show_portal(self, with_body: bool) -> None:
                page = b"<html>Please log in</html>"
                self.send_response(200)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                if with_body:
                    self.wfile.write(page)

            def _refuse(self, code: str) -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _send(self, content: bytes, commit: str, with_body: bool) -> None:
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
                body = content[start : len(content) - hub.announce_less]
                self.send_response(206 if start else 200)
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", '"etag-of-the-pointer"')
                self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("Content-Length", str(len(body)))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                if not with_body:
                    return
                with hub._lock:
                    end = hub.send_only.pop(0) if hub.send_only else len(body)
                self.wfile.write(body[: end // 2])
                self.wfile.flush()
                threading.Event().wait(hub.delay_s)
                self.wfile.write(body[end // 2 : end])
                if end < len(body):
                    self.close_connection = True

        return Handler
