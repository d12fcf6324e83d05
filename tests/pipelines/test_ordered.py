"""Videos that a template service makes: ordered once, entered with lineage, licence and cost, built and paired as others are."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from catalogs.queries import connect
from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.prepare import in_process
from pipelines.synthesize import Request, Summary, synthesize
from vapdata.conditions.template import Template
from vapdata.errors import CallError
from vapdata.video_file import write

sys.path.insert(0, str(Path(__file__).parent.parent / "vapdata" / "conditions"))  # importlib mode: the bad service lies there
from bad_service import COST, KEY, BadService

Query = Callable[[Path, str], list[tuple]]

@pytest.fixture
def catalog(places: tuple[Path, Path, str], tmp_path: Path) -> Path:
    """A copy to order for."""
    return Path(shutil.copytree(places[0], tmp_path / "catalog"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadService]:
    """A service that makes real videos, and behaves badly two times in five."""
    monkeypatch.setenv("ACME_KEY", KEY)

    def film(key: str) -> bytes:
        path = tmp_path / f"{key}.mp4"
        if not path.exists():
            noise = np.random.default_rng(int(key[:8], 16)).integers(0, 256, (12, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            write(path, (np.roll(noise, 2 * step, axis=1) for step in range(24)), 8.0)
        return path.read_bytes()

    made = BadService(trouble=0.4, seed=1)
    made.video = film
    yield made
    made.close()


def _config(tmp_path: Path, server: BadService) -> str:
    said = {
        "service": "acme",
        "key_env": "ACME_KEY",
        "price": COST,
        "currency": "USD",
        "license": "Acme Terms",
        "terms": "https://acme.example/terms",
        "submit": {
            "url": f"{server.url}/jobs",
            "headers": {"Authorization": "Bearer {secret}", "Idempotency-Key": "{idempotency_key}"},
            "body": {"template": "{template}", "image": "{image_data_url}"},
        },
        "poll": {"url": f"{server.url}/jobs/{{job}}"},
        "answers": {"job": "id", "status": "status", "video": "outputs.0.url", "cost": "cost", "license": "license"},
        "states": {"done": ["succeeded"], "failed": ["failed"], "running": ["processing"]},
        "idempotency": {"hours": 24},
        "waits": {"attempts": 30, "first_wait_s": 0.001, "longest_wait_s": 0.02, "poll_s": 0.001},
        "conditions": [{"condition": "squish", "category": "concept", "template": "squish-it", "sentence": "A hand squishes it."}],
    }
    path = tmp_path / "acme.json"
    path.write_text(json.dumps(said))
    return str(path)


def _made(catalog: Path, places: tuple[Path, Path, str], config: str, **changes: object) -> Summary:
    provider = Template(**{"config": config, "budget": 10.0, "requests_per_s": 10_000.0, **changes})
    request = Request(catalog=str(catalog), providers=(provider,), roots={"synthetic": str(places[1])}, recipe=places[2])
    return synthesize(request, runner=in_process)


def _files(catalog: Path) -> set[str]:
    return {os.path.relpath(path, catalog / "media") for path in (catalog / "media" / "template").rglob("*") if path.is_file()}


def _videos(catalog: Path) -> list[dict]:
    with contextlib.closing(connect(Catalog.open(catalog))) as con:
        return con.sql("select videos.*, c.whole from videos join clips as c using (video_id) where provider = 'template' order by video_id").to_arrow_table().to_pylist()


@pytest.mark.slow
def test_ordered_videos_enter_with_lineage_licence_and_cost_and_pair(
    catalog: Path, places: tuple[Path, Path, str], tmp_path: Path, server: BadService, query: Query
) -> None:
    config = _config(tmp_path, server)
    summary = _made(catalog, places, config)
    assert str(summary.rendered["template"]) == "4 videos = 4 made + 0 failed + 0 to do"
    rows = _videos(catalog)
    assert len(rows) == len(server.jobs) == 4
    for row in rows:
        told = json.loads(row["parameters"])
        assert told["version"] == 1
        assert told["drawn"] == {"service": "acme", "template": "squish-it", "prompt": "", "fields": {}}
        order = told["order"]
        assert server.by_key[order["key"]] == order["job"]
        assert (order["cost"], order["currency"], order["license"], order["terms"]) == (COST, "USD", "Acme commercial", "https://acme.example/terms")
        assert row["license"] == "Acme commercial; of the picture: CC0-1.0"
        assert row["whole"] and row["caption"].endswith("A hand squishes it.")
        assert (catalog / "media" / row["uri"]).read_bytes() == server.video(order["key"])
        assert row["seconds"] == pytest.approx(3.0)
    assert _files(catalog) == {row["uri"] for row in rows}
    assert query(catalog, "select condition, category, score, provider, count(*) from pairs group by all") == [("squish", "concept", 70.0, "template", 12)]
    assert verify(Catalog.open(catalog)) == []
    kept = b"".join(path.read_bytes() for path in catalog.rglob("*") if path.is_file())
    assert KEY.encode() not in kept

    asked = server.seen.copy()
    again = _made(catalog, places, config)
    assert again.unchanged == ("template",)
    assert server.seen == asked, "nothing was asked again"


@pytest.mark.slow
def test_a_budget_that_is_spent_leaves_the_rest_to_do(catalog: Path, places: tuple[Path, Path, str], tmp_path: Path, server: BadService, caplog: pytest.LogCaptureFixture) -> None:
    config = _config(tmp_path, server)
    assert str(_made(catalog, places, config, budget=0.0).rendered["template"]) == "4 videos = 0 made + 0 failed + 4 to do"
    assert server.seen.total() == 0
    assert str(_made(catalog, places, config, budget=0.6).rendered["template"]) == "4 videos = 2 made + 0 failed + 2 to do"
    assert server.charged == 0.5
    assert "2 videos are not ordered, since the budget does not allow it. Type --set template.budget=1 for all" in caplog.text
    assert str(_made(catalog, places, config, budget=1.0).rendered["template"]) == "4 videos = 4 made + 0 failed + 0 to do"
    assert len(server.jobs) == 4


@pytest.mark.slow
def test_what_was_paid_for_and_not_entered_is_entered_by_the_next_run(catalog: Path, places: tuple[Path, Path, str], tmp_path: Path, server: BadService) -> None:
    config = _config(tmp_path, server)
    before = Path(shutil.copytree(catalog, tmp_path / "before"))
    _made(catalog, places, config)
    asked, rows = server.seen.copy(), _videos(catalog)
    shutil.copytree(catalog / "media", before / "media", dirs_exist_ok=True)  # files without rows: what a kill before the commit leaves
    _made(before, places, config)
    assert [(row["uri"], row["parameters"], row["content_sha256"]) for row in _videos(before)] == [(row["uri"], row["parameters"], row["content_sha256"]) for row in rows]
    assert _files(before) == {row["uri"] for row in rows}
    assert server.seen == asked
    assert verify(Catalog.open(before)) == []


@pytest.mark.slow
def test_a_wrong_key_is_the_users_to_mend_and_leaves_no_failures(
    catalog: Path, places: tuple[Path, Path, str], tmp_path: Path, server: BadService, monkeypatch: pytest.MonkeyPatch, query: Query
) -> None:
    config = _config(tmp_path, server)
    monkeypatch.setenv("ACME_KEY", "sk-wrong")
    server.trouble = 0.0
    with pytest.raises(CallError, match="Look at the key in ACME_KEY"):
        _made(catalog, places, config)
    assert query(catalog, "select * from failures") == []
    monkeypatch.setenv("ACME_KEY", KEY)
    assert str(_made(catalog, places, config).rendered["template"]) == "4 videos = 4 made + 0 failed + 0 to do"


@pytest.mark.slow
def test_what_the_service_refuses_or_spoils_is_a_row_of_failures(catalog: Path, places: tuple[Path, Path, str], tmp_path: Path, server: BadService, query: Query) -> None:
    config = _config(tmp_path, server)
    server.video = lambda key: b"no video at all"
    server.trouble = 0.0
    assert str(_made(catalog, places, config, only=("squish",)).rendered["template"]) == "4 videos = 0 made + 4 failed + 0 to do"
    assert query(catalog, "select step, error, permanent, count(*) from failures group by all") == [("render", "Unreadable", True, 4)]
    assert _files(catalog) == set()
    assert verify(Catalog.open(catalog)) == []
