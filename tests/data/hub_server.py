"""A Hugging Face hub on this machine: one model's files, over the protocol its client speaks."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serve(hub_id: str, files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """The server's address, and the files that it has been asked for so far."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            head, _, name = path.partition(f"/resolve/{COMMIT}/")
            if path.startswith(f"/api/models/{hub_id}/revision"):
                self._send(json.dumps(_listing(hub_id, files)).encode(), "api", body)
            elif path.startswith(f"/api/models/{hub_id}/tree"):
                self._send(json.dumps(_tree(files)).encode(), "api", body)
            elif head == f"/{hub_id}" and name in files:
                if body:
                    asked.append(name)
                self._send(files[name], name, body)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _send(self, content: bytes, name: str, body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _tree(files: dict[str, bytes]) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        for name, content in files.items()
    ]


def _listing(hub_id: str, files: dict[str, bytes]) -> dict[str, object]:
    return {
        "id": hub_id,
        "sha": COMMIT,
        "siblings": [{"rfilename": name} for name in files],
        "private": False,
        "tags": [],
        "downloads": 0,
    }
