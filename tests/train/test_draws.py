"""What training steps draw of stored tensors: of a distribution what diffusers draws, of noised frames each alike often; never in evaluation."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from hand_made import Hand, hand_made
from test_data import TINY, loader, scaled, stored

from train.batch import Reads
from train.begin import shared_index
from train.draws import Draws, noised, posterior
from train.index import Index, build_index
from train.objective import normal
from train.recipes import recipe
from train.world import world
from vapdata.errors import CallError

HANDS = [Hand(name=name) for name in "abcd"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Four clips whose latents have log-variances, with three noised first frames each."""
    catalog = hand_made(tmp_path_factory.mktemp("draws") / "c", TINY, HANDS, logvar=True, noised=3)
    return build_index(catalog, TINY, Reads(first=1, noised=3), method="full")


def test_a_posterior_is_drawn_as_diffusers_draws_it() -> None:
    raw = torch.randn(1, 32, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    raw[0, 16:] *= 40  # beyond both ends of the log-variances that diffusers takes
    told = DiagonalGaussianDistribution(raw)
    expected = told.mean + told.std * normal(5, (16, 3, 4, 4), "posterior d/a")
    torch.testing.assert_close(posterior(raw[0], 5, "d/a"), expected[0], rtol=1e-12, atol=0)
    assert not torch.equal(posterior(raw[0], 5, "d/b"), posterior(raw[0], 5, "d/a"))


def test_each_noised_frame_comes_alike_often() -> None:
    raw = torch.arange(4.0).view(4, 1, 1, 1, 1)
    counts = torch.bincount(torch.tensor([int(noised(raw, seed, "a")) for seed in range(2000)]))
    assert counts.min() > 430 and counts.max() < 570, counts  # 500 +- 19.4: within 3.6 deviations


def test_a_training_step_draws_and_evaluation_does_not(index: Index) -> None:
    made = loader(index)
    batch = made.step(7).micro[0]
    for place, (clip, seed) in enumerate(zip(batch.target.clip_ids, batch.seeds, strict=True)):
        drawn = posterior(torch.from_numpy(stored(index, "video", clip)), seed, clip).numpy()
        torch.testing.assert_close(batch.target.video[place], scaled(drawn, TINY, 1.15258426), rtol=0, atol=0)
        chosen = noised(torch.from_numpy(stored(index, "noised", clip)), seed, clip).numpy()
        torch.testing.assert_close(batch.target.first[place], scaled(chosen, TINY, 1.15258426), rtol=0, atol=0)
    (still,) = (made.grid([0], torch.zeros(1), [seed]).target for seed in batch.seeds[:1])
    torch.testing.assert_close(still.video[0], scaled(stored(index, "video", "a"), TINY, 1.15258426), rtol=0, atol=0)
    torch.testing.assert_close(still.first[0], scaled(stored(index, "first", "a"), TINY, 1.15258426), rtol=0, atol=0)


def test_what_is_drawn_is_new_at_each_step_and_the_same_for_any_number_of_processes(index: Index) -> None:
    made = loader(index)
    one, again, next_step = (made.step(number).micro[0] for number in (3, 3, 4))
    assert torch.equal(one.target.video, again.target.video)
    by_clip = {clip: video for batch in (next_step,) for clip, video in zip(batch.target.clip_ids, batch.target.video, strict=True)}
    assert all(not torch.equal(video, by_clip[clip]) for clip, video in zip(one.target.clip_ids, one.target.video, strict=True))
    shared = [loader(index, rank=rank, ranks=2).step(3).micro[0].target for rank in (0, 1)]
    found = {clip: (video, first) for side in shared for clip, video, first in zip(side.clip_ids, side.video, side.first, strict=True)}
    for clip, video, first in zip(one.target.clip_ids, one.target.video, one.target.first, strict=True):
        assert torch.equal(found[clip][0], video) and torch.equal(found[clip][1], first)


def test_means_are_trained_on_when_that_is_asked_for(index: Index) -> None:
    target = loader(index, draws=Draws(posterior=False)).step(0).micro[0].target
    for clip, video in zip(target.clip_ids, target.video, strict=True):
        torch.testing.assert_close(video, scaled(stored(index, "video", clip), TINY, 1.15258426), rtol=0, atol=0)


def test_noised_frames_that_are_not_stored_or_not_read_are_refused_before_anything_is_loaded(tmp_path: Path, tiny_catalog: Path) -> None:
    run = recipe(None, "vap", "tiny-cogvideox").changed(["draws.noised_first=4"])
    text_to_video = replace(TINY, name="cogvideox-5b", image_to_video=False)
    missing = r"reads tiny-cogvideox-vae-first1-32x32-noised4 \(noised\), and .* has none\. Make it with a recipe that has vae_first and vae_first.noised=4: "
    with world("cpu") as here:
        with pytest.raises(CallError, match=missing):
            shared_index(run, TINY, str(tiny_catalog), tmp_path / "run", here, resume=False)
        with pytest.raises(CallError, match=r"draws\.noised_first=4: train\.vap on cogvideox-5b reads no first-frame latent"):
            shared_index(run, text_to_video, str(tiny_catalog), tmp_path / "run", here, resume=False)
    with pytest.raises(CallError, match="draws.noised_first=-1: wanted 0"):
        Draws(noised_first=-1)
