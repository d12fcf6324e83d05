"""Videos that an image-to-video model with LoRAs makes: entered with lineage, built and paired as others are, taken up where a run stopped."""

import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalogs.queries import connect
from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.prepare import in_process
from pipelines.record import Record
from pipelines.synthesize import Request, Summary, synthesize
from vapdata.conditions.lora import Lora
from vapdata.errors import CallError

sys.path.insert(0, str(Path(__file__).parent.parent / "vapdata" / "conditions"))  # importlib mode: tiny_lora.py lies there
from tiny_lora import lora_file, pipeline_folder

Query = Callable[[Path, str], list[tuple]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of two LoRAs for a tiny CogVideoX-I2V: small videos in one step."""
    folder = tmp_path_factory.mktemp("loras")
    pipeline_folder("tiny-cogvideox", folder / "model")
    for seed, name in enumerate(("squish", "melt")):
        lora_file("tiny-cogvideox", folder / name, seed=seed)
    said = {"category": "concept", "model": "model", "license": "Apache-2.0", "steps": 1, "frames": 9, "height": 32, "width": 48}
    conditions = [{**said, "condition": name, "lora": name, "trigger": name.upper(), "sentence": f"It does {name}."} for name in ("squish", "melt")]
    path = folder / "loras.yaml"
    path.write_text(yaml.safe_dump({"conditions": conditions}))
    return path


def _made(catalog: Path, places: tuple[Path, Path, str], listed: Path, runner: Any = in_process, **changes: object) -> Summary:
    provider = Lora(**{"config": str(listed), "device": "cpu", **changes})
    return synthesize(Request(catalog=str(catalog), providers=(provider,), roots={"synthetic": str(places[1])}, recipe=places[2]), runner=runner)


@pytest.fixture(scope="module")
def made(places: tuple[Path, Path, str], listed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The catalog with two conditions of four videos each, and what was logged about models and LoRAs. Copy it before changing it."""
    catalog = Path(shutil.copytree(places[0], tmp_path_factory.mktemp("generated") / "catalog"))
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("vapdata.conditions.lora_pipeline")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        _made(catalog, places, listed)
    finally:
        log.removeHandler(handler)
    return catalog, said


def _videos(catalog: Path) -> list[dict]:
    with contextlib.closing(connect(Catalog.open(catalog))) as con:
        return con.sql("select videos.*, c.whole from videos join clips as c using (video_id) where provider = 'lora' order by video_id").to_arrow_table().to_pylist()


def _files(catalog: Path) -> dict[str, int]:
    return {os.path.relpath(path, catalog / "media"): path.stat().st_mtime_ns for path in (catalog / "media/lora").rglob("*") if path.is_file()}


def test_generated_videos_enter_with_lineage_and_pair(made: tuple[Path, list[str]], listed: Path, query: Query) -> None:
    catalog, said = made
    programs = Lora(config=str(listed)).programs()
    parents = dict(query(catalog, "select clip_id, text from captions where role = 'source'"))
    rows = _videos(catalog)
    assert len(rows) == 8 and len({row["content_sha256"] for row in rows}) == 8
    for row in rows:
        program, told = programs[row["condition"]], json.loads(row["parameters"])
        assert told["version"] == program.version and told["drawn"] == program.draw(row["seed"])
        assert len(told["drawn"]["lora_sha256"]) == 64 and len(told["drawn"]["model_sha256"]) == 16
        assert told["made"] == {"prompt": f"{program.trigger} {parents[row['parent_clip_id']]}", "pipeline": "CogVideoXImageToVideoPipeline", "offload": "none"}
        assert row["license"] == "Apache-2.0; of the picture: CC0-1.0"
        assert row["whole"] and row["dataset"] == "vap" and row["caption"].endswith(program.sentence)
        assert row["seconds"] == 9 / 16
    assert _files(catalog).keys() == {row["uri"] for row in rows}
    assert said == ["model is loaded", *(f"{name}/pytorch_lora_weights.safetensors is in model" for name in _order(programs))], "one load, one switch per LoRA"
    found = query(catalog, "select condition, category, score, provider, count(*) from pairs group by all order by all")
    assert found == [("melt", "concept", 70.0, "lora", 12), ("squish", "concept", 70.0, "lora", 12)]
    assert verify(Catalog.open(catalog)) == []


def _order(programs: Any) -> list[str]:
    return [each.name for each in sorted(programs.values(), key=lambda each: each.lora.sha256)]


def test_again_nothing_is_made(made: tuple[Path, list[str]], places: tuple[Path, Path, str], listed: Path, tmp_path: Path) -> None:
    catalog = Path(shutil.copytree(made[0], tmp_path / "catalog"))
    before = _files(catalog)
    summary = _made(catalog, places, listed)
    assert summary.unchanged == ("lora",) and str(summary.rendered["lora"]) == "8 videos = 8 made + 0 failed + 0 to do"
    assert _files(catalog) == before


def test_a_run_that_was_killed_goes_on_with_the_next_video(
    made: tuple[Path, list[str]], places: tuple[Path, Path, str], listed: Path, tmp_path: Path
) -> None:
    """Stopped within a shard: its finished videos are kept though no row names them, and half-written ones are not."""
    catalog = Path(shutil.copytree(places[0], tmp_path / "catalog"))

    def killed(works: Sequence[Any], stages: Sequence[Any], **_: object) -> Iterator[Record]:
        done: list[str] = []

        def tick(*now: object) -> None:
            done.append("video")
            if len(done) == 2:
                raise KeyboardInterrupt

        with contextlib.closing(stages[0].open()) as opened:
            yield opened(Record(work=works[0]), tick)

    with pytest.raises(KeyboardInterrupt):
        _made(catalog, places, listed, runner=killed)
    left = _files(catalog)
    assert len(left) == 2 and _videos(catalog) == []
    first = next(iter(left))
    (catalog / "media" / first).with_suffix(".77.partial.mp4").write_bytes(b"half")
    _made(catalog, places, listed)
    after = _files(catalog)
    assert len(after) == 8 and {path: after[path] for path in left} == left
    ours, theirs = ({row["video_id"]: row["content_sha256"] for row in _videos(each)} for each in (catalog, made[0]))
    assert ours == theirs
    offload = sorted(json.loads(row["parameters"])["made"]["offload"] for row in _videos(catalog))
    assert offload == ["none"] * 6 + ["unknown"] * 2
    assert verify(Catalog.open(catalog)) == []


def test_several_seeds_per_picture_are_several_videos_that_never_pair_with_each_other(
    places: tuple[Path, Path, str], listed: Path, tmp_path: Path, query: Query
) -> None:
    catalog = Path(shutil.copytree(places[0], tmp_path / "catalog"))
    said = yaml.safe_load(listed.read_text())
    said["conditions"] = [{**said["conditions"][0], "seeds": 2}]
    path = listed.with_name("twice.yaml")
    path.write_text(yaml.safe_dump(said))
    _made(catalog, places, path)
    rows = _videos(catalog)
    assert len(rows) == 8 and len({row["parent_clip_id"] for row in rows}) == 4 and len({row["seed"] for row in rows}) == len({row["content_sha256"] for row in rows}) == 8
    same = "select count(*) from pairs join clips t on t.clip_id = target_clip_id join clips r on r.clip_id = reference_clip_id join videos tv on tv.video_id = t.video_id "
    assert query(catalog, f"{same} join videos rv on rv.video_id = r.video_id where tv.parent_clip_id = rv.parent_clip_id") == [(0,)]
    assert query(catalog, "select count(*) > 0 from pairs") == [(True,)]


def test_a_lora_of_another_model_stops_the_run_with_a_sentence(places: tuple[Path, Path, str], listed: Path, tmp_path: Path, query: Query) -> None:
    catalog = Path(shutil.copytree(places[0], tmp_path / "catalog"))
    lora_file("tiny-wan", listed.parent / "wan", seed=1)
    said = yaml.safe_load(listed.read_text())
    said["conditions"] = [{**said["conditions"][0], "lora": "wan"}]
    path = listed.with_name("wrong.yaml")
    path.write_text(yaml.safe_dump(said))
    with pytest.raises(CallError, match="condition squish: wan/pytorch_lora_weights.safetensors"):
        _made(catalog, places, path)
    assert query(catalog, "select count(*) from failures") == [(0,)]
