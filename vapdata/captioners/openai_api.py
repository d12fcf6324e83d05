"""Captions by any server that speaks OpenAI's chat completions: OpenAI's own, vLLM's, llama.cpp's, Gemini's and others.

    OPENAI_API_KEY=... vapdata backfill openai_api --catalog catalog --set openai_api.model=gpt-4o-mini
    vapdata backfill openai_api --catalog catalog --set openai_api.url=http://localhost:8000/v1 --set openai_api.model=Qwen/Qwen2.5-VL-7B-Instruct

The key comes from the environment on the machine that asks. It stands in a header, and nowhere else: not in settings,
rows, messages or logs, and it follows no redirect. Exercised by `pytest tests/vapdata/captioners/test_openai_api.py`.
"""

import base64
import io
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import httpx2

from vapdata.captioners.asking import Answer, Answers, AskSettings, Question, times
from vapdata.errors import CallError, ClipError, Transient
from vapdata.servers import Asker, Patience, TurnedAway, amount, is_loopback, may_carry_a_key, retry_after_s

log = logging.getLogger(__name__)

ANSWER_BYTES = 8 << 20
NEVER = (400, 413, 415, 422)
"""A server that says so takes this request never, as it stands; the next run may ask another one."""
QUALITY = 90
"""JPEG quality of the frames that are sent."""


@dataclass(frozen=True, kw_only=True)
class OpenaiApi(AskSettings):
    """Captions by a server that speaks OpenAI's chat completions.

    What: sends a few frames of the clip as JPEG with their times to `<url>/chat/completions` and stores the answer. Several requests at
        once, at most so many a second; what may pass (429, 5xx, time-outs, broken answers) is asked again with growing waits.
    Reads: frames (`fps` a second, at most `frames`, spread over the clip); the key from the environment variable `key_env`.
    Writes: `captions` with captioner `openai_api`, one role per prompt; model_id, revision, prompt_version, frames_used, prompt_tokens,
        tokens, cost (with `price_in` and `price_out`), seconds.
    Default: gpt-4o-mini at api.openai.com, prompt long-1, 8 requests at once and 4 a second, per worker.
    Cost: what the server takes; a line in the log and `select sum(cost) from captions` say how much.
    Fails when: the key is missing or refused, the address or model unknown (CallError: nothing more is asked); a refusal, an empty, cut
        off or looping answer, or a server that fails `attempts` times: a row of `failures` that the next run tries again, three times in all.
    Source: OpenAI's API reference, chat completions with image input; what vLLM and others serve under the same address.
    """

    name: ClassVar[str] = "openai_api"

    url: str = "https://api.openai.com/v1"
    """Address that `/chat/completions` is appended to; https, or plain http to this machine."""
    model: str = "gpt-4o-mini"
    revision: str = "served"
    """What to call the version that the server runs, which no server tells: change it to describe everything anew."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable with the key; empty for a server that wants none."""
    parallel: int = 8
    """Requests at once."""
    requests_per_s: float = 4.0
    timeout_s: float = 120.0
    """For one answer, whole."""
    attempts: int = 6
    first_wait_s: float = 1.0
    """Before the second attempt; doubles from there."""
    longest_wait_s: float = 60.0
    temperature: float | None = 0.0
    """None leaves it to the server; some models take no other than their own."""
    tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls `max_tokens`; OpenAI's reasoning models want the other."""
    detail: Literal["low", "high", "auto"] | None = None
    """How closely OpenAI looks at a picture; None says nothing of it."""
    price_in: float | None = None
    """Of a million tokens that it is asked with."""
    price_out: float | None = None
    """Of a million tokens that it answers."""
    batch: int = 32
    """Clips that are handed over at once: several times `parallel`, so that few requests wait for the slowest of a batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.url)
        if parts.username or parts.password or parts.query:
            raise CallError(f"openai_api.url: got an address with a password or a query at {parts.hostname}; keys belong into the environment: openai_api.key_env")
        if not may_carry_a_key(self.url):
            raise CallError(f"openai_api.url: got {self.url!r}; a key would travel in the open. Wanted an https:// address, or http://localhost:PORT/v1")
        told = ("parallel", "attempts", "requests_per_s", "timeout_s", "first_wait_s", "longest_wait_s")
        if not all(getattr(self, name) > 0 for name in told):
            raise CallError(f"openai_api: got {', '.join(f'{name}={getattr(self, name)}' for name in told)}; wanted numbers over 0")
        if not self.model:
            raise CallError("openai_api.model: got none, wanted the name that the server knows the model by")

    def ready(self) -> None:
        """Raises CallError where the key is not set and the server is another machine's."""
        if self.key_env and not os.environ.get(self.key_env) and not is_loopback(self.url):
            raise CallError(
                f"openai_api: the key is read from the environment variable {self.key_env}, which is not set. Type export {self.key_env}=..., "
                "or --set openai_api.key_env= for a server that wants none"
            )

    def signature(self) -> tuple[str, str]:
        """The model's name, and what its version is called."""
        return self.model, self.revision

    def weights(self) -> Sequence[Any]:
        """None: the server has them."""
        return ()

    def engine(self, device: str | None = None) -> "ApiEngine":
        """Reads the key. Raises CallError where it is not set."""
        return ApiEngine(self)


class ApiEngine:
    """A server, asked from several threads."""

    def __init__(self, spec: OpenaiApi) -> None:
        spec.ready()
        self.spec = spec
        self._secret = os.environ.get(spec.key_env, "") if spec.key_env else ""
        self._asker = Asker(
            Patience(requests_per_s=spec.requests_per_s, attempts=spec.attempts, first_wait_s=spec.first_wait_s, longest_wait_s=spec.longest_wait_s)
        )
        self._address = f"{spec.url.rstrip('/')}/chat/completions"
        # To this machine itself nothing goes through a proxy: the key would travel to it in the open.
        self._client = httpx2.Client(timeout=spec.timeout_s, follow_redirects=False, trust_env=not is_loopback(spec.url))
        self._lock = threading.Lock()
        self._wrong: CallError | None = None
        """What no question can get past: raised again for those of the next shard, which are not to blame."""
        self.requests = 0
        self.tokens = {"prompt_tokens": 0, "completion_tokens": 0}
        """Over everything that was answered, failures included: this is what is paid."""

    def answer(self, questions: Sequence[Question]) -> Answers:
        """Answers as they arrive, each under the id of the question that its own request carried."""
        if self._wrong is not None:
            raise self._wrong
        said: dict[str, Answer | ClipError] = {}
        with ThreadPoolExecutor(self.spec.parallel, thread_name_prefix="openai_api") as pool:
            futures = {pool.submit(self._guarded, question): question.id for question in questions}
            try:
                for future in as_completed(futures):
                    said[futures[future]] = future.result()
            except BaseException:
                self._asker.stop.set()
                raise
        return said

    def close(self) -> None:
        """Says what was used, and closes the connections."""
        cost = self._cost(self.tokens["prompt_tokens"], self.tokens["completion_tokens"])
        told = "" if cost is None else f", cost {cost:.4f}"
        log.info("openai_api: %d requests, %d tokens asked, %d answered%s", self.requests, *self.tokens.values(), told)
        self._client.close()

    def _guarded(self, question: Question) -> Answer | ClipError:
        began = time.perf_counter()
        body = self.body(question)
        try:
            said = self._asker(lambda: self._ask(body))
        except CallError as error:  # known here first: whoever waits for the answers would hear of it some requests later
            self._wrong = error
            self._asker.stop.set()
            raise
        except ClipError as error:  # the same kind of error, with the clip at its head
            return type(error)(f"openai_api, {question.where}: {error}")
        if isinstance(said, Exception):
            return Transient(f"openai_api, {question.where}: {said}")
        return self._answer(said, time.perf_counter() - began)

    def body(self, question: Question) -> dict[str, Any]:
        """The request, as JSON."""
        content = [part for number, _ in enumerate(question.shown, 1) for part in self._pictures(question, number)]
        asked = {"model": self.spec.model, "messages": [{"role": "user", "content": [*content, {"type": "text", "text": question.text}]}]}
        temperature = {} if self.spec.temperature is None else {"temperature": self.spec.temperature}
        return {**asked, self.spec.tokens_field: self.spec.max_tokens, **temperature}

    def _pictures(self, question: Question, number: int) -> list[dict[str, Any]]:
        """One clip of the question: its frames, each with its time before it."""
        sample = question.shown[number - 1]
        shown = [] if len(question.shown) == 1 else [{"type": "text", "text": f"Clip {number}:"}]
        detail = {"detail": self.spec.detail} if self.spec.detail else {}
        for frame, time_s in zip(sample.frames, times(sample), strict=True):
            shown.append({"type": "text", "text": f"<{time_s:.1f} seconds>"})
            shown.append({"type": "image_url", "image_url": {"url": _data_url(frame), **detail}})
        return shown

    def _ask(self, body: Mapping[str, Any]) -> dict[str, Any] | Exception:
        """One request: a checked answer, or an error that asking again cannot mend. Raises those that it may, and CallError."""
        with self._lock:
            self.requests += 1
        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        deadline = time.monotonic() + self.spec.timeout_s
        try:
            with self._client.stream("POST", self._address, json=body, headers=headers) as response:
                data = self._read(response, deadline)
        except httpx2.HTTPError as error:
            kind = TurnedAway if isinstance(error, httpx2.ConnectError) else Transient
            raise kind(self._clean(f"{self._address}: {type(error).__name__}: {error}")) from None
        if response.status_code == 200:
            return self._checked(data)
        trouble = self._trouble(response, data)
        if response.status_code in NEVER:
            return trouble
        raise trouble

    def _read(self, response: Any, deadline: float) -> bytes:
        data = bytearray()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > ANSWER_BYTES:
                raise Transient(f"{self._address}: the answer has more than {ANSWER_BYTES} bytes")
            if time.monotonic() > deadline:
                raise Transient(f"{self._address}: the answer took more than {self.spec.timeout_s:g} s. Raise --set openai_api.timeout_s")
        return bytes(data)

    def _checked(self, data: bytes) -> dict[str, Any]:
        try:
            said = json.loads(data)
            if not isinstance(said["choices"][0]["message"], dict):
                raise TypeError("no message")
        except (ValueError, LookupError, TypeError) as error:
            raise Transient(self._clean(f"{self._address}: the answer is no chat completion ({type(error).__name__}): {data[:200]!r}")) from None
        return said

    def _trouble(self, response: Any, data: bytes) -> Exception:
        """What a status other than 200 means."""
        code = response.status_code
        message = self._clean(f"{self._address}: {code} {response.reason_phrase}: {' '.join(data[:2000].decode('utf-8', 'replace').split())[:300]}")
        if code == 429:
            return TurnedAway(message, retry_after_s(response.headers.get("Retry-After")))
        if code >= 500 or code in (408, 409, 425):
            return Transient(message)
        if 300 <= code < 400:
            return CallError(f"{message}. It redirects, and a key follows no redirect: put the right address into --set openai_api.url")
        if code in (401, 402, 403, 404, 405):
            return CallError(f"{message}. Look at the key in {self.spec.key_env or 'openai_api.key_env'}, openai_api.url and openai_api.model")
        return Transient(message)

    def _answer(self, said: Mapping[str, Any], seconds: float) -> Answer:
        choice, usage = said["choices"][0], said.get("usage") or {}
        asked, told = (amount(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        with self._lock:
            self.tokens["prompt_tokens"] += int(asked or 0)
            self.tokens["completion_tokens"] += int(told or 0)
        message, why = choice["message"], choice.get("finish_reason")
        text = message.get("content")
        refused = bool(message.get("refusal")) or why == "content_filter"
        return Answer(
            text=self._clean(text) if isinstance(text, str) else "",
            ended="refused" if refused else "length" if why == "length" else "end",
            tokens=None if told is None else int(told),
            prompt_tokens=None if asked is None else int(asked),
            cost=None if asked is None or told is None else self._cost(asked, told),
            seconds=seconds,
        )

    def _cost(self, asked: float, told: float) -> float | None:
        if self.spec.price_in is None or self.spec.price_out is None:
            return None
        return (asked * self.spec.price_in + told * self.spec.price_out) / 1e6

    def _clean(self, text: str) -> str:
        """Without the key, wherever a server may have repeated it."""
        return text.replace(self._secret, "***") if self._secret else text


def _data_url(frame: Any) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
