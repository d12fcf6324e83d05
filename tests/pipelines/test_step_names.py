"""Two encoders of one name in one recipe: told apart by `--set`, in `failures`, by `retry` and `status`."""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from catalogs.progress import status
from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.prepare import Request, build, in_process
from pipelines.recipes import RECIPES, EncodeStage, Recipe, recipe, with_settings
from pipelines.retry import retry
from vapdata import settings
from vapdata.clip import Sample, Sampling
from vapdata.encoders.image_tokens import ImageTokens
from vapdata.encoders.vae_first import VaeFirst
from vapdata.errors import CallError, MissingInput
from vapdata.sources.synthetic import Synthetic
from vapdata.step import Cell, Product, step_name


@dataclass(frozen=True, kw_only=True)
class Level:
    """Writes one channel's mean; refuses the clips whose id has `refuse` in it."""

    name: ClassVar[str] = "level"
    reads: ClassVar[frozenset[str]] = frozenset({"first"})
    channel: int
    refuse: str = "nothing"

    @property
    def variant(self) -> str:
        return f"c{self.channel}"

    def products(self) -> tuple[Product, ...]:
        return (Product(name=f"level-{self.channel}", table="features", model_id="mean", revision="1", dtype="f32"),)

    def weights(self) -> Sequence[object]:
        return ()

    def open(self, device: str | None = None) -> "Level":
        return self

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        if any(self.refuse in sample.clip_id for sample in samples):
            raise MissingInput("refused")
        means = [np.array([sample.first[..., self.channel].mean()], np.float32) for sample in samples]
        return [[Cell(product=f"level-{self.channel}", clip_id=one.clip_id, data=mean, shape=(1,))] for one, mean in zip(samples, means, strict=True)]

    def constants(self) -> list[Cell]:
        return []


def levels(refuse: str) -> Recipe:
    stage = EncodeStage(name="encode", encoders=(Level(channel=0), Level(channel=1, refuse=refuse)))
    return Recipe(name="levels", backbone="none", sampling=Sampling(frames=2, height=16, width=16, fps=8), encode=(stage,))


def asked(catalog: Path, sql: str) -> list[tuple]:
    with contextlib.closing(connect(Catalog.open(str(catalog)))) as con:
        return con.execute(sql).fetchall()


@pytest.mark.slow
def test_a_failure_says_which_of_two_encoders_failed_and_ends_with_that_ones_success(synthetic: Synthetic, tmp_path: Path) -> None:
    def built(refuse: str) -> None:
        build(Request(source=synthetic, catalog=str(tmp_path / "c"), recipe=levels(refuse)), runner=in_process)

    built("shapes-00003")
    clips, bad = asked(tmp_path / "c", "select count(*), count(*) filter (clip_id like '%shapes-00003%') from clips")[0]
    assert clips > bad > 0
    assert asked(tmp_path / "c", "select step, error, count(*) from failures group by all") == [("level-c1", "MissingInput", bad)]
    stages = {stage.name: stage for stage in status(Catalog.open(str(tmp_path / "c"))).stages}
    assert [(stages[name].done, stages[name].failed, stages[name].to_do) for name in ("level-0", "level-1")] == [(clips, 0, 0), (clips - bad, bad, 0)]
    built("nothing")
    assert asked(tmp_path / "c", "select count(*) from failures") == [(bad,)], "they failed for good"
    assert retry(Catalog.open(str(tmp_path / "c")), step="level-c0") == 0
    assert retry(Catalog.open(str(tmp_path / "c")), step="level") == bad
    built("nothing")
    assert asked(tmp_path / "c", "select count(*) from failures") == [(0,)]
    assert asked(tmp_path / "c", "select product, count(*) from features group by all order by all") == [("level-0", clips), ("level-1", clips)]


@pytest.mark.parametrize("name", RECIPES)
def test_no_two_encoders_of_a_recipe_have_one_step_name(name: str) -> None:
    names = [step_name(encoder) for encoder in recipe(name).encoders]
    assert sorted(set(names)) == sorted(names)
    assert {each.partition("-")[0] for each in names} == {encoder.name for encoder in recipe(name).encoders}


def test_an_encoder_is_called_the_same_in_every_recipe() -> None:
    (first,) = [encoder for encoder in recipe("fca-ssv2").encoders if isinstance(encoder, VaeFirst)]
    assert step_name(first) == "vae_first-2"
    assert [step_name(encoder) for encoder in recipe("tiny").encoders if isinstance(encoder, VaeFirst)] == ["vae_first-1", "vae_first-2"]
    assert [step_name(encoder) for encoder in recipe("tiny-wan").encoders if isinstance(encoder, ImageTokens)] == ["image_tokens-clip", "image_tokens-wan"]
    assert [step_name(encoder) for encoder in recipe("fg-12k").encoders if isinstance(encoder, ImageTokens)] == ["image_tokens-wan", "image_tokens-wan-stretch"]


@pytest.mark.parametrize(("step", "layers"), [("image_tokens-clip", [-3, None]), ("image_tokens-wan", [None, -3]), ("image_tokens", [-3, -3])])
def test_a_setting_reaches_one_encoder_by_its_full_name_and_both_by_the_short_one(step: str, layers: list[int | None]) -> None:
    made = recipe("tiny-wan")
    told = settings.typed(settings.parse(f"{step}.layer=-3"), made.steps())
    assert [encoder.layer for encoder in with_settings(made, [told]).encoders if isinstance(encoder, ImageTokens)] == layers


def test_a_setting_that_makes_two_encoders_one_is_refused_with_their_names() -> None:
    with pytest.raises(CallError, match="encoders image_tokens-wan and image_tokens-wan both write the product"):
        with_settings(recipe("tiny-wan"), [("image_tokens-clip", "tower", "wan"), ("image_tokens-wan", "geometry", "crop")])


def test_a_misspelt_variant_is_told_its_neighbour() -> None:
    with pytest.raises(CallError, match="did you mean 'image_tokens-clip'"):
        settings.typed(settings.parse("image_tokens-clpi.layer=-3"), recipe("tiny-wan").steps())


def test_two_encoders_that_cannot_be_told_apart_are_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Same(Level):
        variant: ClassVar[str] = ""

    made = levels("nothing")
    stage = dataclasses.replace(made.encode[0], encoders=(Same(channel=0), Same(channel=1)))
    with pytest.raises(CallError, match="2 encoders are called level: give their class a property `variant`"):
        dataclasses.replace(made, encode=(stage,))
