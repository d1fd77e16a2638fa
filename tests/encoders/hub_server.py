"""A small server that speaks the routes by which huggingface_hub looks up and downloads a file."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves the files of one repository at revision "main"; a context manager.

    Attributes:
        files: Contents by file name.
        requests: The requests so far, such as "GET /leggedrobotics/defm/resolve/main/defm_resnet18.pth".
        send_only: Bytes after which a download's connection is cut, for each download to come; then they go well.
        announce_less: Every download ends early as if the file were this many bytes shorter.
        is_portal: Every answer is a web page, such as a hotel's network gives before one has paid.
        delay_s: Pause in the middle of a download.
    """

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        self.repository = repository
        self.files = files
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
                repository, _, rest = self.path.lstrip("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                if repository != hub.repository:
                    return self._refuse("RepoNotFound")
                if revision not in ("main", COMMIT):
                    return self._refuse("RevisionNotFound")
                if name not in hub.files:
                    return self._refuse("EntryNotFound")
                self._send(hub.files[name], with_body)

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

            def _send(self, content: bytes, with_body: bool) -> None:
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
                body = content[start : len(content) - hub.announce_less]
                self.send_response(206 if start else 200)
                self.send_header("X-Repo-Commit", COMMIT)
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
