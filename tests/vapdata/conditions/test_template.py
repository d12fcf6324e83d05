"""A template service that behaves badly: nothing is lost, nothing is paid twice, no more is spent than allowed."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vapdata.conditions.template as template_module
from vapdata.condition import GUESSED, Facts, Provider
from vapdata.conditions.ledger import Ledger
from vapdata.conditions.ordering import Delivered, Manners, Ordering, Outcome
from vapdata.conditions.rest import Rest
from vapdata.conditions.service import Order, Service
from vapdata.conditions.template import Template
from vapdata.errors import CallError, CatalogDamaged, CatalogLocked, ClipError, Transient

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode: bad_service.py lies beside the tests
from bad_service import COST, KEY, BadService, video_of

WAITS = {"attempts": 30, "first_wait_s": 0.001, "longest_wait_s": 0.02, "poll_s": 0.001, "patience_s": 60, "timeout_s": 10}

CHILD = """
import json, sys
from vapdata.conditions.service import Order
from vapdata.conditions.template import Template
config, folder, orders, parallel = sys.argv[1:]
made = Template(config=config, budget=100, requests_per_s=1000, parallel=int(parallel)).ordering(folder)
orders = [Order(**{**each, "image": each["image"].encode()}) for each in json.loads(orders)]
sys.exit(sum(outcome is None or isinstance(outcome, Exception) for outcome in made.fulfil(orders)))
"""


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key, in the environment only."""
    monkeypatch.setenv("ACME_KEY", KEY)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def _server(**settings: object) -> Iterator[BadService]:
    server = BadService(**settings)
    try:
        yield server
    finally:
        server.close()


def _said(server: BadService, **changes: object) -> dict:
    said = {
        "service": "acme",
        "key_env": "ACME_KEY",
        "price": COST,
        "license": "Acme Terms",
        "terms": "https://acme.example/terms",
        "submit": {
            "url": f"{server.url}/jobs",
            "headers": {"Authorization": "Bearer {secret}", "Idempotency-Key": "{idempotency_key}"},
            "body": {"template": "{template}", "prompt": "{prompt}", "seed": "{seed}", "image": "{image_data_url}"},
        },
        "poll": {"url": f"{server.url}/jobs/{{job}}"},
        "answers": {"job": "id", "status": "status", "video": "outputs.0.url", "cost": "cost", "license": "license", "terms": "terms", "message": "error.message"},
        "states": {"done": ["succeeded"], "failed": ["failed"], "running": ["processing"]},
        "idempotency": {"hours": 24},
        "waits": WAITS,
        "conditions": [{"condition": "squish", "category": "concept", "template": "squish-it", "sentence": "A hand squishes it."}],
    }
    return {name: value for name, value in {**said, **changes}.items() if value is not None}


def _config(tmp_path: Path, server: BadService, **changes: object) -> str:
    path = tmp_path / "acme.json"
    path.write_text(json.dumps(_said(server, **changes)))
    return str(path)


def _orders(count: int, template: str = "squish-it") -> list[Order]:
    common = {"service": "acme", "condition": "squish", "version": 1, "template": template, "prompt": "Squish it", "seed": 7}
    return [Order(**common, image=b"png", image_sha256=f"{template}{number:04d}") for number in range(count)]


def _run(config: str, folder: Path, orders: list[Order], **settings: object) -> tuple[list[Outcome], float]:
    """The outcomes, and what the ledger says was spent."""
    ordering = Template(**{"config": config, "budget": 100.0, "requests_per_s": 10_000.0, **settings}).ordering(str(folder))
    try:
        return list(ordering.fulfil(orders)), ordering.ledger.spent
    finally:
        ordering.ledger.close()


def _check(outcomes: list[Outcome], orders: list[Order]) -> None:
    for order, outcome in zip(orders, outcomes, strict=True):
        assert isinstance(outcome, Delivered), outcome
        assert Path(outcome.path).read_bytes() == video_of(order.key)


def test_a_well_behaved_service_delivers_each_video_once_with_its_terms(tmp_path: Path) -> None:
    with _server() as server:
        outcomes, spent = _run(_config(tmp_path, server), tmp_path / "orders", _orders(6))
        _check(outcomes, _orders(6))
        assert (len(server.jobs), spent) == (6, 6 * COST)
        assert {(each.entry.license, each.entry.terms, each.entry.cost) for each in outcomes} == {("Acme commercial", None, COST)}
        assert server.keys_elsewhere == 0, "the videos lie on another host, which gets no key"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow
def test_a_service_that_behaves_badly_loses_nothing_and_is_paid_once(tmp_path: Path, seed: int) -> None:
    with _server(trouble=0.6, seed=seed) as server:
        orders = _orders(25)
        outcomes, spent = _run(_config(tmp_path, server), tmp_path / "orders", orders, parallel=8)
        _check(outcomes, orders)
        assert len(server.jobs) == 25, "one job per key"
        assert spent == pytest.approx(server.charged)
        assert max(server.submits.values()) > 1, "some orders were sent more than once"
        assert server.keys_elsewhere == 0
        assert not list((tmp_path / "orders").glob("*.partial"))


def test_what_is_here_is_not_asked_for_again(tmp_path: Path) -> None:
    with _server() as server:
        config = _config(tmp_path, server)
        _run(config, tmp_path / "orders", _orders(3))
        before = server.seen.copy()
        _check(_run(config, tmp_path / "orders", _orders(3))[0], _orders(3))
        assert server.seen == before


def test_equal_orders_are_placed_once(tmp_path: Path) -> None:
    with _server() as server:
        orders = _orders(2) * 3
        _check(_run(_config(tmp_path, server), tmp_path / "orders", orders)[0], orders)
        assert len(server.jobs) == sum(server.submits.values()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "knows_keys"), [(0, True), (1, True), (2, False)])
def test_killed_at_any_request_it_goes_on_without_paying_again(tmp_path: Path, seed: int, knows_keys: bool) -> None:
    orders = _orders(10)
    text = json.dumps([{**vars(order), "image": "png", "fields": {}} for order in orders])
    with _server(trouble=0.2 if knows_keys else 0.0, seed=seed, knows_keys=knows_keys) as server:
        config, chance = _config(tmp_path, server, **({} if knows_keys else {"idempotency": None})), random.Random(seed)
        parallel = 4 if knows_keys else 1  # without keys a kill costs what is in flight: one at a time leaves some for later lives
        kills: list[str] = []
        for life in range(40):
            left = [chance.randrange(1, 16) if life else 1]  # the first life ends before its first order is answered
            child = subprocess.Popen([sys.executable, "-c", CHILD, config, str(tmp_path / "orders"), text, str(parallel)])

            def strike(step: str, left: list[int] = left, child: subprocess.Popen = child) -> None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(child.pid, signal.SIGKILL)
                    kills.append(step)

            server.on_answer = strike
            code = child.wait()
            if code != -signal.SIGKILL:
                break
        server.on_answer = lambda step: None
        assert len(kills) >= 3
        outcomes, spent = _run(config, tmp_path / "orders", orders)
        assert len({job["key"] for job in server.jobs.values()}) == len(server.jobs), "at most one job for each order"
        if knows_keys:
            _check(outcomes, orders)
            assert spent == server.charged == 10 * COST
        else:  # what a kill left unanswered is told, not sent again; the rest is here
            untold = [outcome for outcome in outcomes if not isinstance(outcome, Delivered)]
            assert 0 < len(untold) < 10
            assert spent == 10 * COST >= server.charged
            assert all("is not sent again" in str(outcome) for outcome in untold)


def test_the_budget_is_never_exceeded_whatever_the_run(tmp_path: Path) -> None:
    with _server(trouble=0.4, seed=5) as server:
        config = _config(tmp_path, server)
        for budget, videos in ((0.0, 0), (0.24, 0), (1.0, 4), (1.1, 4), (1.75, 7)):
            outcomes, spent = _run(config, tmp_path / "orders", _orders(12), budget=budget, parallel=8)
            assert [outcome is None for outcome in outcomes].count(False) == videos == len(server.jobs)
            assert spent == pytest.approx(server.charged)
            assert server.charged <= budget


def test_an_order_that_nobody_answered_is_not_repeated_where_keys_mean_nothing(tmp_path: Path) -> None:
    with _server(knows_keys=False) as server:
        config = _config(tmp_path, server, idempotency=None)
        server.always["submit"] = "drop after"
        first, spent = _run(config, tmp_path / "orders", _orders(3))
        assert [type(each) for each in first] == [ClipError] * 3
        assert spent == 3 * COST, "it may have been taken, so it counts"
        server.always.clear()
        second, spent = _run(config, tmp_path / "orders", _orders(3))
        assert all("is not sent again; raise the condition's `version`" in str(each) for each in second)
        assert (len(server.jobs), spent) == (3, 3 * COST)


def test_an_order_that_was_certainly_not_taken_is_repeated_and_gives_its_money_back(tmp_path: Path) -> None:
    with _server(knows_keys=False) as server:
        config = _config(tmp_path, server, idempotency=None, waits={**WAITS, "attempts": 3})
        server.always["submit"] = "429"
        outcomes, spent = _run(config, tmp_path / "orders", _orders(2))
        assert [isinstance(each, Transient) for each in outcomes] == [True, True]
        assert (spent, server.seen["submit 429"]) == (0.0, 6)
        server.always.clear()
        _check(_run(config, tmp_path / "orders", _orders(2))[0], _orders(2))
        assert len(server.jobs) == 2


def test_a_picture_that_is_refused_costs_nothing_and_one_that_fails_what_is_stated(tmp_path: Path) -> None:
    with _server() as server:
        server.rejects, server.fails = {"face"}, {"fog"}
        refused, failed, made = [*_orders(1, "face"), *_orders(1, "fog"), *_orders(1)]
        outcomes, spent = _run(_config(tmp_path, server), tmp_path / "orders", [refused, failed, made])
        assert "no faces please" in str(outcomes[0])
        assert "sorry, ***" in str(outcomes[1])
        assert all(type(each) is ClipError for each in outcomes[:2])
        assert isinstance(outcomes[2], Delivered)
        assert spent == 2 * COST
        again, _ = _run(_config(tmp_path, server), tmp_path / "orders", [failed])
        assert "It is not ordered again" in str(again[0])
        assert len(server.jobs) == 2


def test_an_order_that_was_taken_in_silence_is_collected_by_the_next_run(tmp_path: Path) -> None:
    with _server() as server:
        server.always["submit"] = "silent after"
        outcomes, spent = _run(_config(tmp_path, server, waits={**WAITS, "attempts": 2, "timeout_s": 0.2}), tmp_path / "orders", _orders(2))
        assert [type(each) for each in outcomes] == [Transient, Transient]
        assert spent == 2 * COST
        server.always.clear()
        outcomes, spent = _run(_config(tmp_path, server), tmp_path / "orders", _orders(2))
        _check(outcomes, _orders(2))
        assert (len(server.jobs), spent) == (2, 2 * COST)


def test_an_address_that_is_no_web_address_is_not_opened(tmp_path: Path) -> None:
    secret = tmp_path / "own.txt"
    secret.write_text("mine")
    with _server() as server:
        server.film_url = secret.as_uri()
        outcomes, _ = _run(_config(tmp_path, server), tmp_path / "orders", _orders(1))
    assert "neither http nor https" in str(outcomes[0])
    assert not list((tmp_path / "orders").glob("*.mp4"))


def test_the_key_does_not_follow_a_redirect(tmp_path: Path) -> None:
    with _server() as server:
        server.always["submit"] = "moved"
        with pytest.raises(CallError, match=r"redirects to https://elsewhere\.example/jobs\. Put that address in the configuration"):
            _run(_config(tmp_path, server), tmp_path / "orders", _orders(1))


def test_a_job_that_does_not_end_is_asked_about_on_the_next_run(tmp_path: Path) -> None:
    with _server() as server:
        server.always["poll"] = "never"
        outcomes, _ = _run(_config(tmp_path, server, waits={**WAITS, "patience_s": 0.01}), tmp_path / "orders", _orders(1))
        assert isinstance(outcomes[0], Transient)
        server.always.clear()
        _check(_run(_config(tmp_path, server), tmp_path / "orders", _orders(1))[0], _orders(1))
        assert sum(server.submits.values()) == 1


def test_a_service_that_asks_for_too_long_a_rest_is_left_alone(tmp_path: Path) -> None:
    with _server() as server:
        server.always["submit"] = "429"
        outcomes, _ = _run(_config(tmp_path, server, waits={**WAITS, "longest_wait_s": -1}), tmp_path / "orders", _orders(1))
        assert isinstance(outcomes[0], Transient)
        assert server.seen["submit 429"] == 1


def test_a_service_that_charges_more_than_the_file_says_is_stopped(tmp_path: Path) -> None:
    with _server(cost=0.5) as server, pytest.raises(CallError, match=r"cost 0\.5, and the configuration says that none costs more than 0\.25.*Set price: 0\.5"):
        _run(_config(tmp_path, server), tmp_path / "orders", _orders(12), parallel=1)
    assert len(server.jobs) < 12


def test_a_wrong_key_stops_everything_and_is_told_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("ACME_KEY", "sk-wrong-0815")
    with _server() as server, pytest.raises(CallError, match=r"401 Unauthorized.*bad key Bearer \*\*\*.*Look at the key in ACME_KEY") as caught:
        _run(_config(tmp_path, server), tmp_path / "orders", _orders(8))
    assert len(server.jobs) == 0
    kept = "".join(path.read_text() for path in (tmp_path / "orders").iterdir())
    assert "sk-wrong" not in f"{caught.value} {caplog.text} {kept}"


def test_the_key_stands_in_no_file_and_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with _server(trouble=0.5, seed=3) as server:
        server.fails = {"fog"}
        template = Template(config=_config(tmp_path, server, waits={**WAITS, "attempts": 2}), budget=9)
        outcomes, _ = _run(template.config, tmp_path / "orders", [*_orders(12), *_orders(3, "fog")])
        kept = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
        assert KEY not in f"{kept} {caplog.text} {template!r} {template.configuration()!r} {[str(each) for each in outcomes]}"


def test_a_missing_key_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_KEY")
    with _server() as server, pytest.raises(CallError, match=r"environment variable ACME_KEY, which is not set\. Type export ACME_KEY="):
        _run(_config(tmp_path, server), tmp_path / "orders", _orders(1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"waits": {"polls": 1}}, "waits: got 'polls', wanted attempts"),
        ({"pric": 1}, "got 'pric', wanted service, version"),
        ({"price": None}, "'price' is missing"),
        ({"price": -1}, "wanted the most that one video costs"),
        ({"price": "cheap"}, "a value is of the wrong kind"),
        ({"service": "../acme"}, "wanted lower-case words with _ between"),
        ({"poll": {"url": "https://acme.example/jobs"}}, "without {job}"),
        ({"poll": {"url": "http://acme.example/jobs/{job}"}}, "wanted an https:// address"),
        ({"submit": {"url": "https://acme.example/?key={secret}", "body": {}}}, "put {secret} in a header"),
        ({"submit": {"url": "https://acme.example/", "body": {"key": "{secret}"}}}, "Put it in a header"),
        ({"submit": {"url": "https://acme.example/", "body": {}}}, "nothing sends {idempotency_key}"),
        ({"conditions": [{"condition": "a", "category": "mood", "template": "t", "sentence": "s"}]}, "got category 'mood', wanted one of concept"),
        ({"conditions": [{"condition": "a", "category": "style", "template": "t", "sentence": "s"}] * 2}, "a is there twice"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, changes: dict, words: str) -> None:
    with _server() as server:
        config = _config(tmp_path, server, **changes)
    with pytest.raises(CallError) as caught:
        Template(config=config).configuration()
    assert words in str(caught.value)
    assert config in str(caught.value)


def test_the_file_in_the_docstring_is_one(tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text((template_module.__doc__ or "").split("```")[1].removeprefix("yaml\n"))
    said = Template(config=str(path)).configuration()
    assert (said.service, said.price, said.endpoints.repeat_within_s) == ("acme", 0.25, 86400)
    assert [(each.name, each.category, each.version) for each in said.templates] == [("squish", "concept", 1)]


def test_a_half_written_line_is_forgotten_and_a_broken_one_is_reported(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), "acme", 1.0)
    assert ledger.reserve("k1", "squish", 0.6)
    assert not ledger.reserve("k2", "squish", 0.6)
    with pytest.raises(CatalogLocked, match="another process is ordering"):
        Ledger(str(tmp_path), "acme", 1.0)
    ledger.close()
    path = Path(ledger.path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    with contextlib.closing(Ledger(str(tmp_path), "acme", 1.0)) as again:
        assert again.spent == 0.6
        again.note("k1", state="accepted", job="j")
    with contextlib.closing(Ledger(str(tmp_path), "acme", 1.0)) as again:
        assert again.entry("k1").job == "j", "what follows a half line is whole"
    path.write_bytes(whole + b"{\n" + whole)
    with pytest.raises(CatalogDamaged, match="line 2 is no order"):
        Ledger(str(tmp_path), "acme", 1.0)


def test_the_same_order_has_the_same_key_and_another_picture_or_version_another() -> None:
    order = _orders(1)[0]
    assert order.key == _orders(1)[0].key
    others = [{"image_sha256": "x"}, {"version": 2}, {"condition": "melt"}, {"service": "other"}]
    assert len({order.key, *(Order(**{**vars(order), **other}).key for other in others)}) == 5


def test_members_are_what_todays_versions_made(tmp_path: Path) -> None:
    with _server() as server:
        provider = Template(config=_config(tmp_path, server))
    facts = {"source": "made", "condition": "squish"}
    clips = [Facts(clip_id="a", provider="template", version=1, **facts), Facts(clip_id="b", provider="template", version=2, **facts)]
    clips += [Facts(clip_id="c", provider="procedural", version=1, **facts), Facts(clip_id="d", source="folder")]
    assert [(each.clip_id, each.condition, each.category, each.score) for each in provider.members(clips)] == [("a", "squish", "concept", GUESSED)]
    assert isinstance(provider, Provider)


def test_the_rest_client_is_a_service(tmp_path: Path) -> None:
    with _server() as server:
        said = Template(config=_config(tmp_path, server)).configuration()
    service = Rest(said.service, said.endpoints)
    assert isinstance(service, Service)
    ordering = Ordering(service, Ledger(str(tmp_path), "acme", 1.0), Manners(price=1.0, attempts=2, first_wait_s=0.001, requests_per_s=1000.0))
    outcomes = list(ordering.fulfil(_orders(2)[:1]))
    assert isinstance(outcomes[0], Transient), "nobody listens any more"
    assert ordering.ledger.spent == 0
    ordering.ledger.close()
