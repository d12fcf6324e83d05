"""A template service on this machine that takes orders and behaves badly. Imported by the tests of the template provider."""

import hashlib
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-very-secret-4711"
COST = 0.25


class BadService(ThreadingHTTPServer):
    """Each request misbehaves with a chance of `trouble`, drawn from a seed. Counts what it was made to pay for."""

    daemon_threads = True

    def __init__(self, *, trouble: float = 0.0, seed: int = 0, knows_keys: bool = True, cost: float = COST) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.trouble, self.knows_keys, self.cost = trouble, knows_keys, cost
        self.random = random.Random(seed)
        self.video: Callable[[str], bytes] = video_of
        self.always: dict[str, str] = {}
        """Step -> misbehaviour: whatever the chance."""
        self.rejects: set[str] = set()
        """Templates that it refuses to run."""
        self.fails: set[str] = set()
        """Templates that it runs, charges for, and fails on."""
        self.film_url: str | None = None
        """Where it says that a video lies, instead of the truth."""
        self.closing = threading.Event()
        self.jobs: dict[str, dict] = {}
        self.by_key: dict[str, str] = {}
        self.submits: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.keys_elsewhere = 0
        self.lock = threading.Lock()
        self.on_answer: Callable[[str], None] = lambda step: None
        """Called when a request is about to be answered, `submit` ones after the order was taken."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def charged(self) -> float:
        return self.cost * len(self.jobs)

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what these tests are about."""

    def mood(self, step: str, kinds: tuple[str, ...]) -> str:
        with self.lock:
            kind = self.always.get(step) or (self.random.choice(kinds) if self.random.random() < self.trouble else "well")
            self.seen[f"{step} {kind}"] += 1
        return kind

    def accept(self, key: str, template: str) -> str:
        with self.lock:
            self.submits[key] += 1
            if self.knows_keys and key in self.by_key:
                return self.by_key[key]
            job = f"job-{len(self.jobs)}"
            self.jobs[job] = {"key": key, "template": template, "polls_left": self.random.randrange(4)}
            self.by_key[key] = job
            return job


def video_of(key: str) -> bytes:
    """What the service makes of an order."""
    return b"".join(hashlib.sha256(f"{key}{number}".encode()).digest() for number in range(3000))


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: BadService

    def log_message(self, *words) -> None:
        """Silent."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        mood = self.server.mood("submit", ("429", "500", "500 after", "drop after", "broken after", "drop"))
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self.send(401, json.dumps({"error": f"bad key {self.headers['Authorization']}"}).encode())
        if body["template"] in self.server.rejects:
            return self.send(422, b'{"error": "no faces please"}')
        if mood == "429":
            return self.send(429, b"{}", {"Retry-After": "0"})
        if mood == "500":
            return self.send(500, f"who is {KEY}?".encode())
        if mood == "drop":
            return self.hang_up()
        if mood == "moved":
            return self.send(307, b"", {"Location": "https://elsewhere.example/jobs"})
        job = self.server.accept(self.headers["Idempotency-Key"] or "", body["template"])
        self.server.on_answer("submit")
        if mood == "silent after":
            self.server.closing.wait()
            return self.hang_up()
        if mood == "500 after":
            return self.send(503, b"")
        if mood == "drop after":
            return self.hang_up()
        if mood == "broken after":
            return self.send(200, b'{"id": "job-')
        return self.send(200, json.dumps({"id": job}).encode())

    def do_GET(self) -> None:
        if self.path.startswith("/jobs/"):
            return self.poll(self.path.removeprefix("/jobs/"))
        if self.path.startswith("/cdn/"):
            self.server.keys_elsewhere += self.headers["Authorization"] is not None
        return self.film(self.path.rpartition("/")[2])

    def poll(self, name: str) -> None:
        mood = self.server.mood("poll", ("429", "500", "drop", "broken"))
        if mood == "429":
            return self.send(429, b"", {"Retry-After": "0.01"})
        if mood == "500":
            return self.send(502, b"<html>")
        if mood == "drop":
            return self.hang_up()
        if mood == "broken":
            return self.send(200, b"{")
        self.server.on_answer("poll")
        job = self.server.jobs[name]
        with self.server.lock:
            job["polls_left"] -= 1
        if job["template"] in self.server.fails:
            return self.send(200, json.dumps({"status": "failed", "error": {"message": f"sorry, {KEY}"}, "cost": self.server.cost}).encode())
        if job["polls_left"] >= 0 or mood == "never":
            return self.send(200, b'{"status": "processing"}')
        host = self.server.url.replace("127.0.0.1", "localhost")
        answer = {"status": "succeeded", "outputs": [{"url": self.server.film_url or f"{host}/cdn/{name}"}], "cost": self.server.cost, "license": "Acme commercial"}
        return self.send(200, json.dumps(answer).encode())

    def film(self, name: str) -> None:
        mood = self.server.mood("download", ("500", "drop", "short", "moved"))
        self.server.on_answer("download")
        data = self.server.video(self.server.jobs[name]["key"])
        if mood == "500":
            return self.send(500, b"")
        if mood == "drop":
            return self.hang_up()
        if mood == "moved" and self.path.startswith("/cdn/"):
            return self.send(302, b"", {"Location": f"/elsewhere/{name}"})
        if mood == "short":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:1000])
            return self.hang_up()
        return self.send(200, data)

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
