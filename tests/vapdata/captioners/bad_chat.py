"""A chat server on this machine that answers late, out of order, wrongly or not at all, and remembers what it was shown."""

import base64
import io
import json
import random
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

KEY = "sk-very-secret-4711"
MOODS = ("429", "500", "broken", "shapeless", "drop", "half", "html")
"""What passes: asked again, it may answer well."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class BadChat(ThreadingHTTPServer):
    """Each request misbehaves with a chance of `trouble`, drawn from a seed, and is answered after up to `slow_s`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *, trouble: float = 0.0, slow_s: float = 0.0, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Chat)
        self.trouble, self.slow_s = trouble, slow_s
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.moods: Counter[str] = Counter()
        self.always: str | None = None
        """A mood that every request meets."""
        self.pictures: list[bytes] = []
        """The first image of each request that it answered well, by the number that its answer spells."""
        self.order: list[int] = []
        """Those numbers in the order in which the answers left."""
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.text: str | None = None
        """What it says instead of what it was shown."""
        self.finish = "stop"
        self.at_once = 0
        self.most_at_once = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what these tests are about."""

    def mood(self) -> tuple[str, float]:
        with self.lock:
            kind = self.always or (self.random.choice(MOODS) if self.random.random() < self.trouble else "well")
            self.moods[kind] += 1
            return kind, self.random.random() * self.slow_s

    def remember(self, body: dict) -> int:
        parts = body["messages"][0]["content"]
        url = next(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
        with self.lock:
            self.bodies.append(body)
            self.pictures.append(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))
            return len(self.pictures) - 1

    def shown(self, caption: str) -> np.ndarray:
        """The picture that the answer `caption` was given for."""
        number = int("".join(str(DIGITS.index(word)) for word in caption.removeprefix("Picture ").removesuffix(" is seen.").split()))
        return np.asarray(Image.open(io.BytesIO(self.pictures[number])))


class Chat(BaseHTTPRequestHandler):
    """One request."""

    server: BadChat

    def log_message(self, *words) -> None:
        """Silent."""

    def do_POST(self) -> None:
        with self.server.lock:
            self.server.headers.append(dict(self.headers))
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def respond(self, body: dict) -> None:
        mood, wait = self.server.mood()
        if self.path != "/v1/chat/completions":
            return self.send(404, b'{"error": {"message": "no such path"}}')
        if mood == "401" or self.headers["Authorization"] not in (None, f"Bearer {KEY}"):
            return self.send(401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode())
        if mood == "429":
            return self.send(429, b'{"error": {"message": "Rate limit reached"}}', {"Retry-After": "0"})
        if mood == "500":
            return self.send(random.choice((500, 502, 503)), f"who is {KEY}?".encode())
        if mood == "400":
            return self.send(400, b'{"error": {"message": "Invalid image"}}')
        if mood == "307":
            return self.send(307, b"", {"Location": "https://elsewhere.example/v1/chat/completions"})
        if mood == "drop":
            return self.hang_up()
        if mood == "html":
            return self.send(200, b"<html>Please log in</html>")
        if mood == "shapeless":
            return self.send(200, b'{"object": "chat.completion", "choices": []}')
        number = self.server.remember(body)
        time.sleep(wait)  # who came later may be answered sooner
        text = self.server.text or f"Picture {' '.join(DIGITS[int(digit)] for digit in str(number))} is seen."
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": self.server.finish}
        usage = {"prompt_tokens": 1000, "completion_tokens": 20, "total_tokens": 1020}
        data = json.dumps({"id": f"chatcmpl-{number}", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        if mood == "broken":
            return self.send(200, data[: len(data) // 2])
        if mood == "half":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:40])
            return self.hang_up()
        with self.server.lock:
            self.server.order.append(number)
        return self.send(200, data)

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
