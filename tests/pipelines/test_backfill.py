"""Steps over an existing catalog: what is filled in later is what a build would have made at once."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines import backfill as filling
from pipelines.prepare import Request, in_process
from pipelines.prepare import build as run_build
from pipelines.recipe import LookStage, Recipe
from pipelines.recipes import recipe
from vapdata import cli
from vapdata.clip import Author, Caption, Look, Sample
from vapdata.encoders.t5 import T5
from vapdata.errors import CallError, ClipError, Transient
from vapdata.filters.aesthetic import Aesthetic
from vapdata.filters.brightness import Brightness
from vapdata.filters.clarity import Clarity
from vapdata.filters.embedding import Embedding
from vapdata.filters.extent import Extent
from vapdata.filters.motion import Motion
from vapdata.filters.temporal_consistency import TemporalConsistency
from vapdata.filters.text_match import TextMatch
from vapdata.sources.synthetic import Synthetic
from vapdata.step import Described, Judge, kind_of

pytestmark = pytest.mark.slow

Query = Callable[[Path, str], list[tuple]]
TINY = "tiny-cogvideox"


@dataclass(frozen=True, kw_only=True)
class Lightness:
    """A small describer: says how bright the frames are; clips whose id ends in one of `silent` get no answer."""

    name: ClassVar[str] = "lightness"
    reads: ClassVar[frozenset[str]] = frozenset({"frames"})
    prompt: str = "1"
    silent: tuple[str, ...] = ()
    batch: int = 3

    @property
    def look(self) -> Look:
        return Look(fps=2.0, least=2, most=4, long_side=64)

    def ready(self) -> None:
        pass

    def writes(self) -> Mapping[str, Author]:
        return {"short": Author(model_id="lightness", revision="1", prompt_version=self.prompt)}

    def weights(self) -> Sequence[object]:
        return ()

    def open(self, device: str | None = None) -> "OpenLightness":
        return OpenLightness(self)


class OpenLightness:
    def __init__(self, spec: Lightness) -> None:
        self.spec = spec

    def describe(self, samples: Sequence[Sample]) -> dict[str, Described]:
        return {sample.clip_id: self.one(sample) for sample in samples}

    def one(self, sample: Sample) -> Described:
        if sample.clip_id.endswith(self.spec.silent or "/"):
            return Described(failure=Transient(f"{sample.clip_id}: no answer"))
        text = f"A clip of lightness {sample.frames.mean():.0f}, shown in {len(sample.frames)} frames."
        return Described(captions=(Caption(text=text, captioner="lightness", role="short", author=self.spec.writes()["short"]),))

    def close(self) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _one_shard() -> Iterator[None]:
    """All videos in one shard: what is asked here does not depend on their number, and each costs a few files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.plan.FEWEST_SHARDS", 1)
        yield


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A linear aesthetic head for the tiny CLIP's 32 numbers."""
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    save_file({"weight": torch.linspace(-1, 1, 32)[None], "bias": torch.tensor([5.0])}, path)
    return str(path)


@pytest.fixture(scope="module")
def judges(head: str) -> tuple[Judge, ...]:
    return (Embedding(model=TINY), Aesthetic(model=TINY, head=head), TemporalConsistency(model=TINY), TextMatch(model=TINY))


@pytest.fixture(scope="module")
def bare() -> Recipe:
    """The tiny recipe without encoders and with one filter only."""
    return dataclasses.replace(recipe("tiny"), name="bare", encode=(), scan=(Brightness(),))


@pytest.fixture(scope="module")
def whole(bare: Recipe, judges: tuple[Judge, ...]) -> Recipe:
    """With every filter and judge from the start."""
    return dataclasses.replace(bare, scan=(Brightness(), Motion(), Clarity(), Extent()), score=(LookStage(name="score", steps=judges),))


@pytest.fixture(scope="module")
def make(videos: Path) -> Callable[..., object]:
    """make(catalog, recipe): a build in this process."""

    def run(catalog: Path, made: Recipe, **changes: object) -> object:
        request = Request(source=Synthetic(root=str(videos), count=8), catalog=str(catalog), recipe=made, **changes)
        return run_build(request, runner=in_process)

    return run


@pytest.fixture(scope="module")
def fill(videos: Path) -> Callable[..., filling.Summary]:
    """fill(catalog, recipe, *steps): a backfill in this process."""

    def run(catalog: Path, made: Recipe, *steps: object, **changes: object) -> filling.Summary:
        request = filling.Request(catalog=str(catalog), steps=steps, recipe=made, **{"roots": {"synthetic": str(videos)}, **changes})
        return filling.backfill(request, runner=in_process)

    return run


@pytest.fixture(scope="module")
def at_once(make: Callable, whole: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("at-once") / "catalog"
    make(catalog, whole)
    return catalog


@pytest.fixture(scope="module")
def started(make: Callable, bare: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog to fill. Copy it first."""
    catalog = tmp_path_factory.mktemp("started") / "catalog"
    make(catalog, bare)
    return catalog


@pytest.fixture
def begun(started: Path, tmp_path: Path) -> Path:
    return shutil.copytree(started, tmp_path / "catalog")


def test_a_judge_is_no_filter_and_a_describer_no_judge() -> None:
    steps = (Brightness(), Embedding(), Lightness(), T5(backbone=TINY), recipe("tiny").captions[0])
    assert [kind_of(step) for step in steps] == ["filter", "judge", "describer", "encoder", "captioner"]


def test_what_is_filled_in_later_equals_a_build_that_had_it_from_the_start(
    begun: Path, at_once: Path, bare: Recipe, whole: Recipe, judges: tuple[Judge, ...], fill: Callable, assert_equal_catalogs: Callable, query: Query
) -> None:
    summary = fill(begun, bare, Motion(), Clarity(), Extent(), *judges)
    assert set(summary.before.values()) == {9, 7}, "a clip without caption has no match"
    assert (set(summary.to_do.values()), set(summary.failed.values())) == ({0}, {0})
    assert_equal_catalogs(at_once, begun)
    assert query(begun, "select count(*) from scores where label is null and (value is null or not isfinite(value))") == [(0,)]
    assert query(begun, "select count(*) from features where product = 'embedding-tiny-cogvideox'") == [(9,)]
    assert verify(Catalog.open(str(begun))) == []
    again = fill(begun, bare, Motion(), *judges)
    assert set(again.before.values()) == {0}
    assert again.stage_seconds == {}


def test_a_build_with_more_judges_scores_what_is_there_before_it_selects(begun: Path, at_once: Path, whole: Recipe, make: Callable, query: Query) -> None:
    encode = (dataclasses.replace(recipe("tiny").encode[-1], encoders=(T5(backbone=TINY),)),)
    made = dataclasses.replace(whole, encode=encode, where="aesthetic > 0 and text_match is not null")
    summary = make(begun, made)
    assert summary.clips["kept"] == query(at_once, "select count(*) from clips_wide where aesthetic > 0 and text_match is not null and end_s - start_s > 0.5")[0][0] > 0
    assert sorted(query(begun, "select clip_id, aesthetic from clips_wide")) == sorted(query(at_once, "select clip_id, aesthetic from clips_wide"))


def test_the_sum_of_the_scores_columns_says_who_made_them_and_names_no_path(at_once: Path, head: str, query: Query) -> None:
    makers = {row[0] for row in query(at_once, "select distinct \"by\" from scores where filter = 'aesthetic'")}
    assert len(makers) == 1
    (maker,) = makers
    assert maker.startswith("Aesthetic(model='tiny-cogvideox', fps=2.0, most=9) with tiny-cogvideox@")
    assert str(Path(head).parent) not in maker


def test_other_settings_are_measured_anew_and_replace_the_row(begun: Path, bare: Recipe, fill: Callable, query: Query) -> None:
    assert fill(begun, bare, Brightness(fps=4.0)).done == {"brightness": 9}
    assert query(begun, "select distinct \"by\" from scores where filter = 'brightness'") == [("Brightness(fps=4.0)",)]
    assert query(begun, "select count(*) from scores where filter = 'brightness'") == [(9,)]


def test_where_chooses_the_clips_quantiles_included_and_the_run_says_what_they_were(begun: Path, bare: Recipe, fill: Callable, query: Query) -> None:
    where = "brightness > (select median(brightness) from clips_wide)"
    assert fill(begun, bare, Motion(), where=where).done == {"motion": 4}
    assert query(begun, "select count(motion), min(brightness) filter (motion is not null) > median(brightness) from clips_wide") == [(4, True)]
    (constants,) = query(begun, "select constants from runs where recipe like '%Motion%' and predicate is null")
    assert str(query(begun, "select median(brightness) from clips_wide")[0][0]) in constants[0]


def test_another_caption_makes_its_match_stale(begun: Path, bare: Recipe, fill: Callable, query: Query) -> None:
    match = TextMatch(model=TINY)
    told = query(begun, "select count(distinct clip_id) from captions where role = 'source'")[0][0]
    assert fill(begun, bare, match).done == {"text_match": told}
    catalog = Catalog.open(str(begun))
    row = catalog.read("captions").to_pylist()[0]
    caption = Caption(text="Something else altogether.", captioner=row["captioner"], role=row["role"])
    with catalog.lock("test"):
        catalog.append({"captions": [{**row, "text": caption.text, "text_sha256": caption.text_sha256}]})
    assert fill(begun, bare, match).done == {"text_match": 1}
    assert query(begun, "select count(*) from scores s join captions c using (clip_id, text_sha256) where filter = 'text_match' and c.role = 'source'") == [(told,)]


def test_texts_are_filled_in_and_an_unanswered_clip_is_asked_three_times(begun: Path, bare: Recipe, fill: Callable, query: Query) -> None:
    shy = Lightness(silent=("00002.mp4",))
    for attempt in (1, 2):
        summary = fill(begun, bare, shy)
        assert (summary.failed, summary.to_do) == ({"lightness": 0}, {"lightness": 1})
        assert query(begun, "select attempts, permanent from failures where step = 'lightness'") == [(attempt, False)]
    assert fill(begun, bare, shy).failed == {"lightness": 1}
    assert set(fill(begun, bare, shy).before.values()) == {0}
    assert query(begun, "select count(*) from captions where captioner = 'lightness'") == [(8,)]
    assert fill(begun, bare, dataclasses.replace(shy, prompt="2")).done == {"lightness": 8}
    assert query(begun, "select distinct prompt_version from captions where captioner = 'lightness'") == [("2",)]


def test_a_build_describes_the_selected_clips_and_encodes_the_text(started: Path, bare: Recipe, tmp_path: Path, make: Callable, query: Query) -> None:
    encode = (dataclasses.replace(recipe("tiny").encode[-1], encoders=(T5(backbone=TINY),)),)
    caption = (LookStage(name="caption", steps=(Lightness(),)),)
    told = dataclasses.replace(bare, caption=caption, use_captions=(("lightness", "short"),), encode=encode, where="brightness > 0 and frames > 1")
    fresh, grown = tmp_path / "fresh", shutil.copytree(started, tmp_path / "grown")
    for catalog in (fresh, grown):
        make(catalog, told)
        rows = query(catalog, "select t.clip_id, t.role, c.text from texts t join captions c on c.clip_id = t.clip_id and c.text_sha256 = t.text_sha256 order by 1")
        assert len(rows) == 9
        assert {row[1] for row in rows} == {"short"}
        assert all(row[2].startswith("A clip of lightness") for row in rows)


def test_a_dataset_that_is_elsewhere_is_asked_for_and_nothing_is_marked_as_failed(begun: Path, bare: Recipe, fill: Callable, tmp_path: Path, query: Query) -> None:
    with pytest.raises(CallError, match=r"no file of dataset 'synthetic' is there.*--root synthetic=PATH"):
        fill(begun, bare, Motion(), roots={"synthetic": str(tmp_path)})
    assert query(begun, "select count(*) from failures where step = 'motion'") == [(0,)]


def test_clips_whose_file_is_gone_are_left_out(begun: Path, bare: Recipe, fill: Callable, videos: Path, tmp_path: Path) -> None:
    some = shutil.copytree(videos, tmp_path / "some")
    next(some.rglob("*00003.mp4")).unlink()
    summary = fill(begun, bare, Motion(), roots={"synthetic": str(some)})
    assert (summary.absent, summary.done, summary.to_do) == (1, {"motion": 8}, {"motion": 1})
    assert "absent   1 videos have no file there; their clips were left out" in summary.lines()


@dataclass(frozen=True, kw_only=True)
class Nothing(Brightness):
    """A filter that fails."""

    name: ClassVar[str] = "nothing"

    def writes(self) -> Mapping[str, str]:
        return {"nothing": "value"}

    def open(self) -> Callable:
        return partial(NothingMeter)


class NothingMeter:
    def __init__(self, clip: object) -> None:
        pass

    def add(self, frame: np.ndarray, time_s: float) -> None:
        pass

    def finish(self) -> list:
        raise ClipError("nothing to see")


def test_a_filter_that_fails_writes_a_failure_and_no_number(begun: Path, bare: Recipe, fill: Callable, query: Query) -> None:
    assert fill(begun, bare, Nothing()).failed == {"nothing": 9}
    assert query(begun, "select count(*), bool_and(permanent) from failures where step = 'nothing'") == [(9, True)]
    assert query(begun, "select count(*) from scores where filter = 'nothing'") == [(0,)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["motio"], "'motio' is no filter, captioner or encoder, did you mean 'motion'"),
        (["cuts"], "cuts works while videos are scanned, and cannot be filled in afterwards"),
        (["source"], "source works while videos are scanned"),
        (["vae"], "vae needs to know for which backbone and at which grid: type --recipe NAME"),
        (["motion", "--set", "motion.speed=1"], "motion has no field 'speed'"),
        (["motion", "--where", "motoin > 1"], "no column is called 'motoin'"),
        (["aesthetic", "--set", "aesthetic.model=tiny-cogvideox", "--set", "aesthetic.head=/nowhere/head.pth"], "/nowhere: head.pth\n"),
    ],
)
def test_a_wrong_call_says_what_to_type(begun: Path, names: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["backfill", *names, "--catalog", str(begun)]) in (1, 2)
    assert said in capsys.readouterr().err
