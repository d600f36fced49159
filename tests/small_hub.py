"""A small Hub on this machine, which serves a folder as org/name.

`SmallHub` serves; `point_at` makes this process ask it, with a cache of the Hub of its own.
"""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class SmallHub:
    """Serve a folder; `paths` are those that were asked for, and what is `down` is not sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[str] = []
        self.down: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.paths.append(self.path)
                self.answer(*hub.answer(self.path.partition("?")[0]))

            do_HEAD = do_GET

            def answer(self, status, body, headers=None):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path):
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        listed = [(file.relative_to(self.folder).as_posix(), file.stat().st_size) for file in files]
        if not path.removeprefix("/api/models").startswith("/org/name"):
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        if "/tree/" in path:
            tree = [{"type": "file", "path": f, "size": s, "oid": f} for f, s in listed]
            return 200, json.dumps(tree).encode()
        if path.startswith("/api/"):
            siblings = [{"rfilename": f, "size": s} for f, s in listed]
            info = {"id": "org/name", "sha": COMMIT, "siblings": siblings}
            return 200, json.dumps(info).encode()
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        if name in self.down:
            return 400, b""  # unlike 503, it is not tried again
        headers = {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": COMMIT}
        return 200, (self.folder / name).read_bytes(), headers

    def serve(self) -> None:
        """Serve until it is closed."""
        self._server.serve_forever()

    def __enter__(self):
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def point_at(endpoint: str, cache: Path, setattr: Callable[..., None] = setattr) -> None:
    """Let this process ask a Hub, and keep what comes in a folder."""
    from huggingface_hub import constants

    setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    setattr(constants, "HF_HUB_CACHE", str(cache))
    setattr(constants, "HF_HUB_OFFLINE", False)
