"""Recipes: named runs, checked settings, files of one's own."""

import dataclasses
from pathlib import Path

import pytest

from pipelines.recipes import RECIPES, EncodeStage, Recipe, recipe, with_settings
from vapdata.clip import Sampling
from vapdata.encoders.first_frame import FirstFrame
from vapdata.errors import CallError
from vapdata.filters.motion import Motion


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_fits_together_and_describes_itself(name: str) -> None:
    made = recipe(name)
    assert {product.table for product in made.products()} >= {"frames", "masks", "latents", "texts"}
    assert len({product.name for product in made.products()}) == len(made.products())
    assert set(made.score_kinds()) >= {"motion", "clarity", "brightness", "duration_s", "short_side"}


def test_the_papers_pixel_grids_are_the_recipes() -> None:
    assert recipe("cogvideox-5b-i2v").sampling == Sampling(frames=49, height=480, width=720, fps=16)
    assert recipe("cogvideox-2b").sampling == Sampling(frames=16, height=480, width=720, fps=8)
    assert recipe("tiny") == recipe("tiny-cogvideox")


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
