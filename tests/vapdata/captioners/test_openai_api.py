"""A server that behaves badly loses no clip and mixes none up, and a key goes nowhere but into its header."""

import logging
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bad_chat import KEY, BadChat
from shown import sample

from vapdata.captioners.openai_api import OpenaiApi
from vapdata.clip import Sample
from vapdata.errors import BadAnswer, CallError, Transient
from vapdata.servers import TurnedAway
from vapdata.step import Described

QUICK: dict[str, Any] = {"requests_per_s": 10_000.0, "first_wait_s": 0.002, "longest_wait_s": 0.05}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadChat]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = BadChat()
    yield made
    made.close()


def _described(server: BadChat, samples: list[Sample], **settings: Any) -> dict[str, Described]:
    opened = OpenaiApi(url=server.url, **{**QUICK, **settings}).open()
    try:
        return dict(opened.describe(samples))
    finally:
        opened.close()


def test_two_hundred_clips_through_a_bad_server_none_lost_and_each_caption_on_its_own_clip(server: BadChat) -> None:
    server.trouble, server.slow_s = 0.35, 0.05
    samples = [sample(number, frames=2) for number in range(200)]
    said = _described(server, samples, parallel=16, attempts=20)
    firsts = np.stack([each.frames[0, ::4, ::4] for each in samples]).astype(np.float32)
    assert set(said) == {each.clip_id for each in samples}
    for place, each in enumerate(samples):
        (caption,) = said[each.clip_id].captions
        distances = ((firsts - server.shown(caption.text)[::4, ::4]) ** 2).mean(axis=(1, 2, 3))
        assert int(distances.argmin()) == place
        assert 10 * distances[place] < np.partition(distances, 1)[1], "the pictures are too much alike to tell"
    assert len({described.captions[0].text for described in said.values()}) == 200
    assert set(server.moods) == {"well", "429", "500", "broken", "shapeless", "drop", "half", "html"}
    assert server.order != sorted(server.order), "the server answered in order: nothing was shown"
    assert server.most_at_once > 4


def test_a_caption_says_what_it_took_and_cost(server: BadChat) -> None:
    (caption,) = _described(server, [sample(1)], price_in=0.15, price_out=0.6, model="m", revision="r2")["d/1"].captions
    assert (caption.captioner, caption.role, caption.frames_used) == ("openai_api", "long", 4)
    assert (caption.prompt_tokens, caption.tokens, caption.cost) == (1000, 20, pytest.approx((1000 * 0.15 + 20 * 0.6) / 1e6))
    assert (caption.author.model_id, caption.author.revision, caption.author.prompt_version) == ("m", "r2", "long-1")
    assert caption.seconds > 0


def test_without_prices_nothing_is_said_of_costs(server: BadChat) -> None:
    assert _described(server, [sample(1)])["d/1"].captions[0].cost is None


def test_what_was_used_is_said_at_the_end(server: BadChat, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _described(server, [sample(1), sample(2)], price_in=1.0, price_out=2.0)
    assert "openai_api: 2 requests, 2000 tokens asked, 40 answered, cost 0.0021" in caplog.messages


def test_the_request_is_a_chat_completion_with_times_and_jpegs(server: BadChat) -> None:
    _described(server, [sample(1)], model="m", max_tokens=77, temperature=0.5, detail="low")
    (body,) = server.bodies
    assert {name: body[name] for name in body if name != "messages"} == {"model": "m", "max_tokens": 77, "temperature": 0.5}
    (message,) = body["messages"]
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["text", "image_url"] * 4 + ["text"]
    assert [part["text"] for part in message["content"][:-1] if part["type"] == "text"] == ["<0.2 seconds>", "<0.8 seconds>", "<1.2 seconds>", "<1.8 seconds>"]
    assert message["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert message["content"][1]["image_url"]["detail"] == "low"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_server_may_call_the_limit_otherwise_and_take_no_temperature(server: BadChat) -> None:
    _described(server, [sample(1)], tokens_field="max_completion_tokens", temperature=None, max_tokens=9)
    assert set(server.bodies[0]) == {"model", "messages", "max_completion_tokens"}


def test_no_more_requests_than_allowed_are_under_way(server: BadChat) -> None:
    server.slow_s = 0.05
    _described(server, [sample(number, frames=2) for number in range(12)], parallel=3)
    assert server.most_at_once <= 3


@pytest.mark.parametrize(
    ("text", "finish", "told"),
    [
        ("I'm sorry, but I can't help with that.", "stop", "the model refused"),
        ("A dog runs and", "length", "the answer was cut off after 20 tokens. Raise --set openai_api.max_tokens"),
        ("A dog runs.", "content_filter", "the model's filter of contents stopped the answer"),
        ("run run run run run", "stop", "the answer goes round in a loop"),
        (" ", "stop", "got an empty answer"),
    ],
)
def test_an_answer_that_is_none_is_a_failure_that_may_pass(server: BadChat, text: str, finish: str, told: str) -> None:
    server.text, server.finish = text, finish
    described = _described(server, [sample(1)])["d/1"]
    assert described.captions == ()
    assert isinstance(described.failure, BadAnswer)
    assert str(described.failure).startswith("openai_api, clip d/1")
    assert told in str(described.failure)


@pytest.mark.parametrize(
    ("mood", "error", "requests"),
    [("500", Transient, 3), ("429", TurnedAway, 3), ("broken", Transient, 3), ("html", Transient, 3), ("drop", Transient, 3), ("400", Transient, 1)],
)
def test_a_server_that_goes_on_failing_is_each_clips_own_failure(server: BadChat, mood: str, error: type, requests: int) -> None:
    server.always = mood
    said = _described(server, [sample(1), sample(2)], attempts=3)
    assert {type(each.failure) for each in said.values()} == {error}
    assert not said["d/1"].failure.permanent
    assert sum(server.moods.values()) == 2 * requests
    assert KEY not in str(said["d/1"].failure)
    assert str(said["d/1"].failure).startswith(f"openai_api, clip d/1: {server.url}/chat/completions: ")


def test_an_answer_that_takes_too_long_is_left(server: BadChat) -> None:
    server.slow_s = 30.0
    server.random.seed(3)
    failure = _described(server, [sample(1)], timeout_s=0.05, attempts=1)["d/1"].failure
    assert type(failure) is Transient
    assert "ReadTimeout" in str(failure)


def test_a_server_that_is_not_there_is_a_failure_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    opened = OpenaiApi(url="http://127.0.0.1:9/v1", attempts=2, **QUICK).open()
    failure = opened.describe([sample(1)])["d/1"].failure
    opened.close()
    assert isinstance(failure, TurnedAway)


@pytest.mark.parametrize(
    ("mood", "told"),
    [
        ("401", r"401 Unauthorized: .*Incorrect API key provided: \*\*\*.*Look at the key in OPENAI_API_KEY"),
        ("307", "It redirects, and a key follows no redirect"),
    ],
)
def test_what_no_clip_can_mend_stops_everything(server: BadChat, mood: str, told: str) -> None:
    server.always = mood
    opened = OpenaiApi(url=server.url, parallel=2, **QUICK).open()
    with pytest.raises(CallError, match=told) as caught:
        opened.describe([sample(number, frames=2) for number in range(40)])
    assert KEY not in repr(caught.value)
    asked = sum(server.moods.values())
    assert asked <= 2, "only what was under way when the first answer came"
    with pytest.raises(CallError, match=told):
        opened.describe([sample(1)])
    assert sum(server.moods.values()) == asked, "the next clips are not asked about, and do not fail either"
    opened.close()


def test_the_key_stands_in_no_log_message_setting_or_pickle(server: BadChat, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.trouble = 0.7
    spec = OpenaiApi(url=server.url, **{**QUICK, "attempts": 4})
    opened = spec.open()
    said = opened.describe([sample(number, frames=2) for number in range(20)])
    opened.close()
    assert caplog.records
    assert any(each.failure for each in said.values())
    assert [record for record in caplog.records if KEY in f"{record.getMessage()} {record.args} {record.exc_text}"] == []
    assert KEY not in repr(said)
    assert KEY not in repr(spec)
    assert KEY.encode() not in pickle.dumps(spec)


def test_without_a_key_a_server_elsewhere_is_not_asked_and_one_here_is_asked_without(server: BadChat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(CallError, match=r"openai_api: the key is read from the environment variable OPENAI_API_KEY, which is not set\. Type export OPENAI_API_KEY=\.\.\., or"):
        OpenaiApi().open()
    assert _described(server, [sample(1)])["d/1"].captions
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"url": "http://example.com/v1"}, r"got 'http://example\.com/v1'; a key would travel in the open\. Wanted an https:// address"),
        ({"url": f"https://user:{KEY}@example.com/v1"}, r"got an address with a password or a query at example\.com; keys belong into the environment"),
        ({"url": f"https://example.com/v1?key={KEY}"}, r"got an address with a password or a query at example\.com; keys belong into the environment"),
        ({"parallel": 0}, r"openai_api: got parallel=0, .*; wanted numbers over 0"),
        ({"requests_per_s": float("nan")}, r"requests_per_s=nan"),
        ({"model": ""}, r"openai_api\.model: got none"),
    ],
)
def test_settings_that_would_leak_a_key_or_ask_nothing_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(CallError, match=told) as caught:
        OpenaiApi(**settings)
    assert KEY not in str(caught.value)
