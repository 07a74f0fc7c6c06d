"""A web server on this machine for tests: files, and what goes wrong on the way to them."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}  # path -> content; 404 for others
        # path -> bytes that each of the next answers breaks off after
        self.drops: dict[str, list[int]] = {}
        # path -> bytes that the answer stops after, until the other side is gone
        self.stops: dict[str, int] = {}
        # path -> status of each of the next answers
        self.errors: dict[str, list[int]] = {}
        self.ignores_range = False
        self.asked: list[tuple[str, str | None]] = []  # (path, Range)
        # every answer waits until so many are asked for at once
        self.meeting: threading.Barrier | None = None


class Handler(BaseHTTPRequestHandler):
    server: LocalServer

    def do_GET(self):
        server, path, span = self.server, self.path, self.headers.get("Range")
        server.asked.append((path, span))
        if server.meeting and path.endswith(".zip"):
            server.meeting.wait()
        if server.errors.get(path):
            status = server.errors[path].pop(0)
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        if path not in server.files:
            self.send_error(404)
            return
        content, start = server.files[path], 0
        if span and not server.ignores_range:
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if path in server.stops:
            self.wfile.write(content[start : server.stops[path]])
            self.connection.recv(1)
        elif server.drops.get(path):
            self.wfile.write(content[start : start + server.drops[path].pop(0)])
            self.wfile.flush()
            self.connection.close()
        else:
            self.wfile.write(content[start:])

    def log_message(self, *arguments):
        pass


def run_local_server():
    """For a fixture: yields the server, stops it afterwards."""
    with LocalServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
