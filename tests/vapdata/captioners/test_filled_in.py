"""Captions by model over a real catalog: on their own clips, tried again when they failed, without the key anywhere."""

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bad_chat import KEY, BadChat

from catalogs.queries import connect
from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines import backfill as filling
from pipelines.prepare import Request, build, in_process
from pipelines.recipe import EncodeStage, preferring, with_describer
from pipelines.recipes import recipe
from vapdata import cli
from vapdata.captioners.openai_api import OpenaiApi
from vapdata.captioners.qwen_vl import QwenVl
from vapdata.clip import path_under
from vapdata.decoder import Decoder
from vapdata.encoders.t5 import T5
from vapdata.errors import CallError
from vapdata.filters.brightness import Brightness
from vapdata.filters.embedding import Embedding
from vapdata.sources.synthetic import Synthetic

QUICK = {"requests_per_s": 10_000.0, "first_wait_s": 0.002, "longest_wait_s": 0.05}
BARE = dataclasses.replace(recipe("tiny"), name="bare", encode=(), scan=(Brightness(),))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic")
    list(Synthetic(root=str(root), count=10, seconds=1.5).list())
    return root


@pytest.fixture(scope="module")
def scanned(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("scanned") / "catalog"
    build(Request(source=Synthetic(root=str(videos), count=10, seconds=1.5), catalog=str(catalog), recipe=BARE), runner=in_process)
    return catalog


@pytest.fixture
def catalog(scanned: Path, tmp_path: Path) -> Path:
    return shutil.copytree(scanned, tmp_path / "catalog")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadChat]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = BadChat()
    yield made
    made.close()


def _fill(catalog: Path, videos: Path, step: object) -> filling.Summary:
    return filling.backfill(filling.Request(catalog=str(catalog), steps=(step,), recipe=BARE, roots={"synthetic": str(videos)}), runner=in_process)


@pytest.fixture
def fill(videos: Path) -> Callable[[Path, object], filling.Summary]:
    """fill(catalog, step): a backfill in this process."""
    return lambda catalog, step: _fill(catalog, videos, step)


def _asked(catalog: Path, sql: str) -> list[tuple]:
    with contextlib.closing(connect(Catalog.open(str(catalog)))) as con:
        return con.execute(sql).fetchall()


def _first_frames(catalog: Path, videos: Path, step: OpenaiApi) -> dict[str, np.ndarray]:
    """The first frame that a describer is shown of each clip, read anew from the video files."""
    rows = _asked(catalog, "select clip_id, uri, clips.start_s, clips.end_s from clips join videos using (video_id)")
    with contextlib.closing(Decoder()) as decoder:
        return {clip: decoder.look(path_under(str(videos), uri), start, end, [step.look])[0][0].astype(np.float32) for clip, uri, start, end in rows}


@pytest.mark.slow
def test_two_hundred_clips_of_a_catalog_none_lost_and_every_caption_on_the_clip_whose_frames_were_sent(tmp_path: Path, server: BadChat) -> None:
    source = Synthetic(root=str(tmp_path / "videos"), count=200, seconds=0.5)
    catalog = tmp_path / "catalog"
    build(Request(source=source, catalog=str(catalog), recipe=BARE), runner=in_process)
    server.trouble, server.slow_s = 0.4, 0.03
    step = OpenaiApi(url=server.url, attempts=3, long_side=64, parallel=16, **QUICK)
    first, second = (_fill(catalog, tmp_path / "videos", each) for each in (step, dataclasses.replace(step, attempts=20)))
    assert first.to_do["openai_api"] > 0, "nothing failed: the server behaved too well"
    assert (second.to_do["openai_api"], second.failed["openai_api"]) == (0, 0)
    frames = _first_frames(catalog, tmp_path / "videos", step)
    captions = dict(_asked(catalog, "select clip_id, text from captions where captioner = 'openai_api' and role = 'long'"))
    assert captions.keys() == frames.keys()
    assert len(captions) >= 200
    clips, every = list(frames), np.stack(list(frames.values()))
    for clip, text in captions.items():
        distances = ((every - server.shown(text).astype(np.float32)) ** 2).mean(axis=(1, 2, 3))
        assert clips[int(distances.argmin())] == clip
    assert server.order != sorted(server.order)
    assert verify(Catalog.open(str(catalog)), ["keys", "references", "stale", "counts"]) == []


@pytest.mark.slow
def test_a_clip_that_fails_is_tried_three_times_in_all(catalog: Path, server: BadChat, fill: Callable) -> None:
    server.text = "I'm sorry, but I can't describe this."
    step = OpenaiApi(url=server.url, **QUICK)
    clips = len(_asked(catalog, "select clip_id from clips"))
    left = [sum(fill(catalog, step).to_do.values()) for _ in range(4)]
    assert left == [clips, clips, 0, 0]
    assert len(server.bodies) == 3 * clips
    failures = _asked(catalog, "select distinct error, attempts, permanent from failures where step = 'openai_api'")
    assert failures == [("BadAnswer", 3, False)]
    assert _asked(catalog, "select count(*) from captions where captioner = 'openai_api'") == [(0,)]


@pytest.mark.slow
def test_a_caption_is_made_once_and_anew_for_another_prompt_or_revision(catalog: Path, server: BadChat, fill: Callable) -> None:
    clips = len(_asked(catalog, "select clip_id from clips"))
    step = OpenaiApi(url=server.url, price_in=1.0, price_out=1.0, **QUICK)
    asked = []
    for each in (step, step, dataclasses.replace(step, revision="newer"), dataclasses.replace(step, prompts=("long-1", "short-1"), revision="newer")):
        fill(catalog, each)
        asked.append(len(server.bodies))
    assert asked == [clips, clips, 2 * clips, 4 * clips]
    rows = _asked(catalog, "select role, any_value(revision), count(*), sum(cost), min(frames_used) from captions where captioner = 'openai_api' group by 1 order by 1")
    assert [(role, revision, count) for role, revision, count, _, _ in rows] == [("long", "newer", clips), ("short", "newer", clips)]
    assert all(cost == pytest.approx(clips * 1020 / 1e6) and frames >= 2 for *_, cost, frames in rows)


@pytest.mark.slow
def test_the_key_gets_into_no_file_of_the_catalog_and_no_log(catalog: Path, server: BadChat, fill: Callable, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.trouble = 0.6
    fill(catalog, OpenaiApi(url=server.url, attempts=2, **QUICK))
    assert _asked(catalog, "select count(*) > 0 from failures where step = 'openai_api'") == [(True,)]
    assert any("openai_api" in recipe_ for (recipe_,) in _asked(catalog, "select recipe from runs"))
    written = [path for path in catalog.rglob("*") if path.is_file()]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    texts = _asked(catalog, "select message from failures union all select recipe from runs union all select command from runs union all select text from captions")
    assert [text for (text,) in texts if KEY in text] == []
    assert KEY not in caplog.text


@pytest.mark.slow
def test_a_qwen_model_captions_a_catalog(catalog: Path, videos: Path, fill: Callable) -> None:
    step = QwenVl(model="tiny-qwen2.5-vl", prompts=("short-1",), frames=4, long_side=64, batch=4)
    summary = fill(catalog, step)
    rows = _asked(catalog, "select clip_id, text, model_id, prompt_version, frames_used, tokens from captions where captioner = 'qwen_vl'")
    assert len(rows) == summary.before["qwen_vl"] - summary.failed["qwen_vl"] - summary.to_do["qwen_vl"] >= 8
    assert {(model, prompt) for _, _, model, prompt, _, _ in rows} == {("tiny-qwen2.5-vl", "short-1")}
    assert all(2 <= frames <= 4 and tokens > 5 for *_, frames, tokens in rows)
    assert len({text for _, text, *_ in rows}) > 0.8 * len(rows)
    assert sum(fill(catalog, step).before.values()) == summary.to_do["qwen_vl"]


@pytest.mark.slow
def test_the_command_line_fills_captions_in(catalog: Path, videos: Path, server: BadChat, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import prepare

    monkeypatch.setattr(prepare, "at_address", in_process)
    monkeypatch.setattr(filling, "at_address", in_process)
    settings = [f"--set=openai_api.url={server.url}", "--set=openai_api.model=m", "--set=openai_api.prompts=vap-1,instruction-1", "--set=openai_api.requests_per_s=1e4"]
    assert cli.run(["backfill", "openai_api", "--catalog", str(catalog), "--root", f"synthetic={videos}", *settings]) == 0
    assert "done + 0 failed + 0 to do again" in capsys.readouterr().out
    assert {role for (role,) in _asked(catalog, "select role from captions where captioner = 'openai_api'")} == {"vap", "instruction"}
    assert cli.run(["backfill", "openai_api", "--catalog", str(catalog), "--set", f"openai_api.key={KEY}"]) == 2
    told = capsys.readouterr().err
    assert "openai_api has no field 'key', did you mean 'key_env'" in told
    monkeypatch.delenv("OPENAI_API_KEY")
    assert cli.run(["backfill", "openai_api", "--catalog", str(catalog), "--root", f"synthetic={videos}"]) == 2
    assert "the key is read from the environment variable OPENAI_API_KEY, which is not set" in capsys.readouterr().err


@pytest.mark.slow
def test_a_build_describes_what_it_encodes_and_encodes_those_texts(videos: Path, tmp_path: Path) -> None:
    step = QwenVl(model="tiny-qwen3-vl", prompts=("vap-1", "short-1"), frames=2, long_side=64)
    made = dataclasses.replace(recipe("tiny"), name="told", encode=(EncodeStage(name="encode", encoders=(T5(backbone="tiny-cogvideox"),)),), scan=(Brightness(),))
    made = preferring(with_describer(made, step), "qwen_vl")
    assert made.use_captions == (("qwen_vl", "vap"), ("qwen_vl", "short"), ("source", "source"))
    source = Synthetic(root=str(videos), count=10, seconds=1.5)
    build(Request(source=source, catalog=str(tmp_path / "catalog"), recipe=made, limit=4), runner=in_process)
    told = "from texts join captions using (clip_id, captioner, role) where captioner = 'qwen_vl'"
    rows = _asked(tmp_path / "catalog", f"select texts.role, texts.text_sha256 = captions.text_sha256 {told}")
    assert len(rows) >= 4
    assert set(rows) <= {("vap", True), ("short", True)}
    asked_for = with_describer(made, OpenaiApi(key_env="NOBODYS_KEY"))
    with pytest.raises(CallError, match="the key is read from the environment variable NOBODYS_KEY, which is not set"):
        build(Request(source=source, catalog=str(tmp_path / "catalog"), recipe=asked_for), runner=in_process)


def test_a_captioner_that_looks_at_no_frames_is_not_asked_for_by_name(capsys: pytest.CaptureFixture) -> None:
    assert cli.run(["build", "--source", "synthetic", "--captioner", "made"]) == 2
    assert "--captioner made: it reads what the dataset says, which every build does. Those that look at frames are openai_api, qwen_vl, vllm." in capsys.readouterr().err
    assert cli.run(["build", "--source", "synthetic", "--captioner", "qwen"]) == 2
    assert "'qwen' is no captioner, did you mean 'qwen_vl'" in capsys.readouterr().err


@pytest.mark.slow
def test_verify_compares_captions_with_clips_where_the_model_is_here(catalog: Path, fill: Callable, capsys: pytest.CaptureFixture) -> None:
    fill(catalog, Embedding(model="tiny-cogvideox"))
    assert cli.run(["verify", "--catalog", str(catalog)]) == 0
    assert "note     captions were not compared with clips: the numbers of tiny-cogvideox mean nothing" in capsys.readouterr().out
    status = cli.run(["verify", "--catalog", str(catalog), "--clip", "tiny-cogvideox"])
    told = capsys.readouterr().out
    assert "note" not in told
    assert told.count("a caption fits another clip better: got cosine") == (0 if status == 0 else told.count("\n") - 1)
    assert cli.run(["verify", "--catalog", str(catalog), "--clip", "laion/CLIP-of-nobody"]) == 0
    told = capsys.readouterr().out
    assert "note     captions were not compared with clips: laion/CLIP-of-nobody: " in told
    assert "or name its folder: vapdata verify --clip FOLDER" in told


def test_explain_prints_what_a_captioner_is(capsys: pytest.CaptureFixture) -> None:
    for name in ("qwen_vl", "vllm", "openai_api"):
        assert cli.run(["explain", name]) == 0
        told = capsys.readouterr().out
        assert [head for head in ("What:", "Reads:", "Writes:", "Default:", "Cost:", "Fails when:", "Source:") if head not in told] == []
        assert "prompts = ('long-1',)" in told
