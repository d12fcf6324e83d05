"""Steps fit together, and the plug-ins here are what the protocols ask for."""

from dataclasses import dataclass
from typing import ClassVar

from vapdata.filters.brightness import Brightness
from vapdata.filters.clarity import Clarity
from vapdata.filters.extent import Extent
from vapdata.filters.motion import Motion
from vapdata.step import Product, problems, step_name


@dataclass(frozen=True, kw_only=True)
class _Writer:
    """The smallest encoder: it only declares."""

    name: ClassVar[str] = "writer"
    reads: ClassVar[frozenset[str]] = frozenset()
    product: str = "p"
    variant: str = ""

    def products(self):
        return (Product(name=self.product, table="features", model_id="m", revision="r", dtype="f32"),)

    def weights(self):
        return ()

    def open(self, device=None):
        raise NotImplementedError


def test_the_filters_that_come_with_the_project_fit_together():
    assert problems([Motion(), Clarity(), Brightness(), Extent()], [_Writer(), _Writer(product="q", variant="2")]) == []


def test_two_filters_that_write_one_score_do_not():
    assert problems([Motion(), Motion(fps=4)], []) == ["filters motion and motion both write the score motion"]


def test_two_encoders_that_write_one_product_do_not():
    assert problems([], [_Writer(), _Writer(variant="2")]) == ["encoders writer and writer-2 both write the product p"]


def test_two_encoders_of_one_name_do_not():
    told = "2 encoders are called writer: give their class a property `variant`, or write a recipe for each"
    assert problems([], [_Writer(), _Writer(product="q")]) == [told]


def test_an_encoder_without_variant_is_called_by_its_name():
    assert (step_name(_Writer()), step_name(_Writer(variant="2"))) == ("writer", "writer-2")
