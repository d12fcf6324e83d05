"""One REST client for all template services: addresses, headers, body and the places of the answers come from a file.

Placeholders in addresses and texts: `{template}`, `{prompt}`, `{seed}`, `{idempotency_key}`, `{image_base64}`,
`{image_data_url}`, in the address of polling `{job}`, and in headers `{secret}`, the key from the environment variable that
`key_env` names. Answers are found by paths such as `data.outputs.0.url`. The key leaves for the host that orders go to and
for no other, and over https only (plain http to this machine itself). Exercised by
`pytest tests/vapdata/conditions/test_template.py`.
"""

import base64
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from vapdata.conditions.service import Accepted, Order, Status
from vapdata.errors import CallError, ClipError, Transient
from vapdata.servers import TurnedAway, amount, may_carry_a_key, retry_after_s

_ANSWER_BYTES = 8 << 20
_REDIRECTS = 5
_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """How a service is spoken to: the part of the configuration that says so. Holds no secret, only where one is found."""

    submit_url: str
    poll_url: str
    """With `{job}`."""
    body: Mapping[str, Any]
    """JSON of an order, with placeholders; a template's own `fields` go over it."""
    job: str
    """Where the answer to an order has the job's id."""
    status: str
    """Where the answer to polling has its state."""
    video: str
    """Where that has the video's address."""
    done: tuple[str, ...]
    failed: tuple[str, ...]
    running: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of every request to the service; `{secret}` stands for the key."""
    key_env: str | None = None
    """Environment variable with the key."""
    cost: str | None = None
    """Where answers have what the job costs, if they do; likewise the next three."""
    license: str | None = None
    terms: str | None = None
    message: str | None = None
    repeat_within_s: float = 0.0
    """How long the service gives the same job for the same idempotency key; 0 where it does not."""
    timeout_s: float = 60.0
    """Without a byte, and ten times that for a whole video."""
    most_bytes: int = 1 << 30
    """Of a video."""

    def __post_init__(self) -> None:
        for url in (self.submit_url, self.poll_url):
            if not may_carry_a_key(url):
                raise CallError(f"{url}: a key would travel in the open; wanted an https:// address")
            if "{secret}" in url:
                raise CallError(f"{url}: a key in an address ends up in logs; put {{secret}} in a header")
        if "{job}" not in self.poll_url:
            raise CallError(f"{self.poll_url}: got a poll url without {{job}}; wanted e.g. https://api.example.com/jobs/{{job}}")
        if "{secret}" in json.dumps(dict(self.body)):
            raise CallError("submit.body holds {secret}: bodies are kept by services. Put it in a header")
        if self.repeat_within_s and "{idempotency_key}" not in json.dumps([dict(self.body), dict(self.headers), self.submit_url]):
            raise CallError("idempotency.hours is set, and nothing sends {idempotency_key}. Put it in submit.headers or submit.body, or remove the hours")


class Rest:
    """A Service by HTTP. Thread-safe: every request has its own connection."""

    def __init__(self, name: str, endpoints: Endpoints) -> None:
        """Reads the key from the environment. Raises CallError where it is not set."""
        self._name, self._said = name, endpoints
        self._secret = os.environ.get(endpoints.key_env, "") if endpoints.key_env else ""
        if endpoints.key_env and not self._secret:
            raise CallError(f"{name}: its key is read from the environment variable {endpoints.key_env}, which is not set. Type export {endpoints.key_env}=...")
        self._opener = urllib.request.build_opener(_NoRedirects)

    @property
    def name(self) -> str:
        """The service, as journal and catalog name it."""
        return self._name

    @property
    def repeat_within_s(self) -> float:
        """As the configuration says."""
        return self._said.repeat_within_s

    def submit(self, order: Order) -> Accepted:
        """POSTs the order."""
        words = _words(order)
        body = {**_filled(self._said.body, words), **order.fields}
        url = _in_address(self._said.submit_url, words)
        answer = self._json(url, self._headers(words), json.dumps(body).encode(), ordering=True)
        job = _at(answer, self._said.job)
        if not isinstance(job, str | int) or isinstance(job, bool) or job == "":
            raise Transient(self._clean(f"{url}: the answer has no job id at {self._said.job!r}: {json.dumps(answer)[:300]}"))
        return Accepted(job=str(job), cost=amount(_at(answer, self._said.cost)))

    def poll(self, job: str) -> Status:
        """GETs where the job stands. Raises Transient for a state that the configuration does not name."""
        url = _in_address(self._said.poll_url, {"job": job})
        answer = self._json(url, self._headers({"idempotency_key": ""}), None, ordering=False)
        state, video = _at(answer, self._said.status), _at(answer, self._said.video)
        told = {name: _text(_at(answer, getattr(self._said, name))) for name in ("license", "terms", "message")}
        told["message"] = told["message"] and self._clean(told["message"])
        cost = amount(_at(answer, self._said.cost))
        if state in self._said.done:
            if not isinstance(video, str) or not video:
                raise Transient(self._clean(f"{url}: the job is {state}, and its answer has no address at {self._said.video!r}: {json.dumps(answer)[:300]}"))
            return Status(state="done", url=video, cost=cost, **told)
        if state in self._said.failed:
            return Status(state="failed", cost=cost, **told)
        if state in self._said.running:
            return Status(state="running", cost=cost)
        raise Transient(self._clean(f"{url}: state {state!r} stands in none of states.done, states.failed and states.running of the configuration; add it there"))

    def download(self, url: str, path: str) -> None:
        """Writes the video, whole or not at all. Redirects are followed, without the key to other hosts."""
        for _ in range(_REDIRECTS):
            if urlsplit(url).scheme not in ("http", "https"):
                raise ClipError(self._clean(f"{url}: the video's address is neither http nor https"))
            headers = self._headers({"idempotency_key": ""}) if _origin(url) == _origin(self._said.poll_url) else {}
            try:
                with self._open(urllib.request.Request(url, headers=headers), ordering=False) as response:
                    return self._save(response, url, path)
            except _Elsewhere as elsewhere:
                url = urljoin(url, elsewhere.url)
        raise Transient(self._clean(f"{url}: redirected more than {_REDIRECTS} times"))

    def _save(self, response: Any, url: str, path: str) -> None:
        stated = response.headers.get("Content-Length")
        wanted = int(stated) if stated and stated.isdigit() else None
        if (wanted or 0) > self._said.most_bytes:
            raise ClipError(self._clean(f"{url}: got a video of {wanted} bytes, wanted at most {self._said.most_bytes}"))
        partial = f"{path}.{os.getpid()}-{threading.get_ident()}.partial"
        try:
            with open(partial, "wb") as file:
                size = self._copy(response, file, url)
                if size == 0 or (wanted is not None and size != wanted):
                    raise Transient(self._clean(f"{url}: got {size} bytes of {wanted}"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            if os.path.exists(partial):
                os.remove(partial)

    def _copy(self, response: Any, file: Any, url: str) -> int:
        size, deadline = 0, time.monotonic() + 10 * self._said.timeout_s
        while True:
            try:
                piece = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise Transient(self._clean(f"{url}: broke off after {size} bytes: {error}")) from error
            if not piece:
                return size
            file.write(piece)
            size += len(piece)
            if size > self._said.most_bytes:
                raise ClipError(self._clean(f"{url}: the video has more than {self._said.most_bytes} bytes"))
            if time.monotonic() > deadline:
                raise Transient(self._clean(f"{url}: only {size} bytes in {10 * self._said.timeout_s:.0f} s"))

    def _json(self, url: str, headers: dict[str, str], body: bytes | None, *, ordering: bool) -> Any:
        sent = {"Accept": "application/json", **headers} | ({"Content-Type": "application/json"} if body is not None else {})
        try:
            with self._open(urllib.request.Request(url, data=body, headers=sent), ordering=ordering) as response:
                data = response.read(_ANSWER_BYTES + 1)
        except _Elsewhere as elsewhere:
            raise CallError(self._clean(f"{url}: it redirects to {elsewhere.url}. Put that address in the configuration")) from None
        except (OSError, http.client.HTTPException) as error:
            raise Transient(self._clean(f"{url}: broke off in its answer: {error}")) from None
        try:
            return json.loads(data)
        except ValueError as error:
            raise Transient(self._clean(f"{url}: its answer is no JSON ({error}): {data[:200]!r}")) from None

    def _open(self, request: urllib.request.Request, *, ordering: bool) -> Any:
        url = request.full_url
        try:
            return self._opener.open(request, timeout=self._said.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise self._trouble(url, error, ordering) from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            kind = TurnedAway if isinstance(reason, ConnectionRefusedError | socket.gaierror) else Transient
            raise kind(self._clean(f"{url}: {type(reason).__name__}: {reason}")) from None

    def _trouble(self, url: str, error: urllib.error.HTTPError, ordering: bool) -> Exception:
        """What a status other than 2xx means. A 5xx may have taken the order; other refusals have not."""
        if error.code in (301, 302, 303, 307, 308) and error.headers.get("Location"):
            return _Elsewhere(error.headers["Location"])
        try:
            said = error.read(2000).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            said = ""
        message = self._clean(f"{url}: {error.code} {error.reason}: {' '.join(said.split())[:300]}")
        if error.code == 429:
            return TurnedAway(message, retry_after_s(error.headers.get("Retry-After")))
        if error.code >= 500 or error.code in (408, 409, 425) or (error.code in (404, 410) and not ordering):
            return Transient(message)
        if error.code == 401 or (ordering and error.code in (402, 403, 404, 405)):
            return CallError(f"{message}. Look at the key in {self._said.key_env}, the account and the addresses in the configuration")
        return ClipError(message) if ordering else Transient(message)

    def _headers(self, words: Mapping[str, Any]) -> dict[str, str]:
        known = {"secret": self._secret, **words}
        return {name: _fill(text, known) for name, text in self._said.headers.items() if "{idempotency_key}" not in text or words["idempotency_key"]}

    def _clean(self, text: str) -> str:
        """Without the key, wherever a service may have repeated it."""
        return text.replace(self._secret, "***") if self._secret else text


class _Elsewhere(Exception):
    """The answer was a redirect."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would carry the key's header to whatever host a redirect names."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        """None: the redirect is raised as an HTTPError."""
        return


def _words(order: Order) -> dict[str, Any]:
    picture = base64.b64encode(order.image).decode()
    words = {"template": order.template, "prompt": order.prompt, "seed": order.seed, "idempotency_key": order.key}
    return {**words, "image_base64": picture, "image_data_url": f"data:image/png;base64,{picture}"}


def _filled(value: Any, words: Mapping[str, Any]) -> Any:
    """JSON with its placeholders filled; a text that is one placeholder and no more becomes the value in its own type."""
    if isinstance(value, Mapping):
        return {name: _filled(each, words) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, words) for each in value]
    if not isinstance(value, str):
        return value
    return words[value[1:-1]] if value[:1] == "{" and value[-1:] == "}" and value[1:-1] in words else _fill(value, words)


def _fill(text: str, words: Mapping[str, Any]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: str(words.get(found[1], found[0])), text)


def _in_address(text: str, words: Mapping[str, Any]) -> str:
    return _fill(text, {name: quote(str(value), safe="") for name, value in words.items() if not name.startswith("image")})


def _at(answer: Any, path: str | None) -> Any:
    """What stands at `path`; None where nothing does."""
    if path is None:
        return None
    for step in path.split("."):
        if isinstance(answer, Mapping):
            answer = answer.get(step)
        elif isinstance(answer, list) and step.isdigit() and int(step) < len(answer):
            answer = answer[int(step)]
        else:
            return None
    return answer


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else json.dumps(value)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
