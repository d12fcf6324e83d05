"""Recipes: named runs, checked settings, files of one's own."""

import dataclasses
import hashlib
import json
from pathlib import Path

import duckdb
import pytest

from catalogs.queries import check_predicate, wide_columns
from pipelines.dataset_recipes import FG_CLIPS, SSG_CLIPS
from pipelines.recipes import RECIPES, EncodeStage, Recipe, recipe, with_settings
from vapdata.backbones import backbone
from vapdata.clip import Sampling
from vapdata.encoders.first_frame import FirstFrame
from vapdata.encoders.vae_first import VaeFirst
from vapdata.errors import CallError
from vapdata.filters.motion import Motion


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_fits_together_and_describes_itself(name: str) -> None:
    made = recipe(name)
    assert {product.table for product in made.products()} >= {"frames", "latents", "texts"}
    assert made.name == ("tiny-cogvideox" if name == "tiny" else name)
    assert json.dumps(made.describe(), default=str)
    assert len({product.name for product in made.products()}) == len(made.products())
    assert set(made.score_kinds()) >= {"motion", "clarity", "brightness", "duration_s", "short_side"}


def test_the_papers_pixel_grids_are_the_recipes() -> None:
    assert recipe("cogvideox-5b-i2v").sampling == Sampling(frames=49, height=480, width=720, fps=16)
    assert recipe("cogvideox-2b").sampling == Sampling(frames=16, height=480, width=720, fps=8)
    assert recipe("tiny") == recipe("tiny-cogvideox")


def test_image_to_video_recipes_have_the_condition_of_their_pipeline() -> None:
    for name in RECIPES:
        made = recipe(name)
        kinds = {product.settings["kind"] for product in made.products() if product.table == "latents"}
        wanted = {None: set(), "zero_latents": {"first"}}.get(backbone(made.backbone).condition, {"condition"})
        assert kinds >= {"video"} | wanted, name


def test_the_papers_datasets_are_read_as_the_papers_say() -> None:
    for name, frames in (("fca-ssv2", 2), ("fca-bridge", 1), ("fca-epic", 1)):
        made = recipe(name)
        assert (made.sampling.frames, made.sampling.height, made.sampling.width) == (16, 480, 720)
        assert [encoder.first for encoder in made.encoders if isinstance(encoder, VaeFirst)] == [frames]
    assert (recipe("vap-cogvideox").sampling.label(), recipe("vap-wan").sampling.label()) == ("49x480x720-16fps", "49x480x832-16fps")


def test_the_papers_counts_are_chosen_from_all_eligible_clips() -> None:
    """A small catalog with the count lowered: the best by score, the lowest by digest, ties and short clips as said."""
    clips = [(f"c{number:02d}", number % 10 != 3, 1080 if number % 4 else 720, 4.0 + number % 3, 5.0 + number / 100) for number in range(40)]
    eligible = [clip for clip in clips if clip[1] and clip[2] >= 1080 and clip[3] > 5]
    best = {clip[0] for clip in sorted(eligible, key=lambda clip: clip[4])[-7:]}
    drawn = [clip[0] for clip in clips if clip[1] and clip[2] >= 480 and clip[3] > 5]
    lowest = set(sorted(drawn, key=lambda name: hashlib.md5(name.encode()).hexdigest())[:7])
    with duckdb.connect() as con:
        con.execute("create table clips_wide (clip_id text, whole bool, short_side double, duration_s double, openvid_aesthetic double)")
        con.executemany("insert into clips_wide values (?, ?, ?, ?, ?)", clips)
        for name, count, wanted in (("ssg-openvidhd-33k", SSG_CLIPS, best), ("fg-12k", FG_CLIPS, lowest)):
            where = recipe(name).where
            assert check_predicate(where, wide_columns(["short_side", "duration_s", "openvid_aesthetic"], [])).catalog_wide
            few = where.replace(f"limit {count}", "limit 7")
            assert {row[0] for row in con.execute(f"select clip_id from clips_wide where {few}").fetchall()} == wanted


def test_an_unknown_recipe_is_told_its_neighbour() -> None:
    with pytest.raises(CallError, match="did you mean 'tiny'"):
        recipe("tinny")


def test_a_setting_reaches_its_step_and_every_encoder_shares_the_sampling() -> None:
    made = with_settings(recipe("tiny"), [("motion", "fps", 4.0), ("sampling", "frames", 17)])
    assert next(step for step in made.scan if isinstance(step, Motion)).fps == 4.0
    assert made.sampling.frames == 17
    assert {encoder.sampling.frames for encoder in made.encoders if hasattr(encoder, "sampling")} == {17}


@pytest.mark.parametrize(("step", "field", "said"), [("motoin", "fps", "'motion'"), ("motion", "fsp", "'fps'")])
def test_a_misspelt_setting_is_told_its_neighbour(step: str, field: str, said: str) -> None:
    with pytest.raises(CallError, match=f"did you mean {said}"):
        with_settings(recipe("tiny"), [(step, field, 1)])


def test_two_steps_that_write_one_product_are_refused() -> None:
    made = recipe("tiny")
    twice = EncodeStage(name="twice", encoders=(FirstFrame(sampling=made.sampling),))
    with pytest.raises(CallError, match="both write the product first-96x160"):
        dataclasses.replace(made, encode=(*made.encode, twice))


def test_a_recipe_from_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses\nfrom pipelines.recipes import recipe\n"
        "def bright():\n    return dataclasses.replace(recipe('tiny'), where='brightness > 50')\ndef wrong():\n    return 3\n"
    )
    made = recipe(f"{file}:bright")
    assert isinstance(made, Recipe)
    assert made.where == "brightness > 50"
    for wrong, said in ((f"{file}:night", "no function 'night'"), (f"{file}:wrong", "returned int"), (f"{tmp_path}/none.py:a", "is not there")):
        with pytest.raises(CallError, match=said):
            recipe(wrong)
