"""What travels from the loader to a method."""

import torch

from train.batch import Batch, Reads, Side


def side(**more: torch.Tensor) -> Side:
    return Side(clip_ids=("a", "b"), video=torch.ones(2, 1, 1, 2, 2), **more)


def test_two_that_read_different_things_read_both() -> None:
    both = Reads(text=False, first=1, references=2) | Reads(text=True, masks=True, image_tokens="wan")
    assert both == Reads(text=True, first=1, references=2, masks=True, image_tokens="wan")
    assert Reads(text=False) | Reads(text=False) == Reads(text=False)


def test_a_side_goes_to_a_device_with_all_that_it_has_and_nothing_else() -> None:
    moved = side(text=torch.ones(2, 3, 4), text_mask=torch.ones(2, 3, dtype=torch.bool)).to(torch.device("meta"))
    assert moved.video.is_meta and moved.text is not None and moved.text.is_meta and moved.text_mask is not None and moved.text_mask.is_meta
    assert moved.first is None and moved.clip_ids == ("a", "b")


def test_a_change_reaches_every_tensor_of_a_batch() -> None:
    batch = Batch(
        step=3, target=side(), references=(side(), side()), weights=torch.ones(2), seeds=(1, 2), timesteps=torch.ones(2), noise=torch.ones(2, 1, 1, 2, 2)
    )  # fmt: skip
    doubled = batch.map(lambda tensor: tensor * 2)
    tensors = [doubled.target.video, *(each.video for each in doubled.references), doubled.weights, doubled.timesteps, doubled.noise]
    assert all(bool((tensor == 2).all()) for tensor in tensors)
    assert (doubled.step, doubled.seeds) == (3, (1, 2))
    assert batch.to(torch.device("meta")).references[1].video.is_meta
