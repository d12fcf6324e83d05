"""FirstFrame: the first sampled frame, byte for byte."""

from collections.abc import Callable

import numpy as np
import pytest

from vapdata.clip import Sample, Sampling
from vapdata.encoders import ENCODERS
from vapdata.encoders.first_frame import FirstFrame


def test_the_first_frame_is_stored_as_it_was_sampled(sampling: Sampling, sample: Callable[..., Sample]) -> None:
    spec = FirstFrame(sampling=sampling)
    opened, (product,) = spec.open(), spec.products()
    ((cell,),) = opened.encode([sample()])
    np.testing.assert_array_equal(cell.data, sample().frames[0])
    assert cell.data.dtype == np.uint8
    assert cell.shape == cell.data.shape == (96, 160, 3)
    assert cell.product == product.name == "first-96x160"
    assert cell.columns == {"resize": "stretch", "pixel_height": 96, "pixel_width": 160}
    assert (product.table, product.dtype, product.reads_caption) == ("frames", "u8", False)
    assert opened.constants() == []
    assert spec.weights() == ()


def test_it_keeps_no_other_frame_alive(sampling: Sampling, sample: Callable[..., Sample]) -> None:
    ((cell,),) = FirstFrame(sampling=sampling).open().encode([sample()])
    assert cell.data.base is None


def test_a_frame_of_another_size_is_refused(sampling: Sampling) -> None:
    with pytest.raises(ValueError, match=r"wanted \(96, 160, 3\)"):
        FirstFrame(sampling=sampling).open().encode([Sample(clip_id="a", frames=np.zeros((1, 10, 10, 3), np.uint8))])


def test_every_registered_encoder_is_where_the_registry_says(sampling: Sampling) -> None:
    from importlib import import_module

    for name, place in ENCODERS.items():
        module, attribute = place.split(":")
        assert getattr(import_module(module), attribute).name == name
