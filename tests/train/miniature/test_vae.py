"""The tiny VAEs' training: scaling that changes latents and no picture, and figures that mean what they say."""

import numpy as np
import pytest
import torch

from train.miniature import clips, vae
from vapdata.backbones import backbone

REACHED = {"tiny-cogvideox": 26.0, "tiny-wan": 23.5}
"""dB that what ships must not fall below: under one less than its card says."""
NAMES = tuple(REACHED)


@pytest.mark.parametrize("name", NAMES)
def test_scaling_gives_latents_the_moments_of_the_facts_and_leaves_pictures_alone(name: str) -> None:
    facts = backbone(name).vae
    model = vae.new(name).eval()
    shown = vae.pixels(clips.batch(np.random.default_rng(0), 8))
    with torch.no_grad():
        before = model.encode(shown).latent_dist
        picture = model.decode(before.mean).sample
        vae.rescale(model, facts, shown)
        after = model.encode(shown).latent_dist
        again = model.decode(after.mean).sample
    torch.testing.assert_close(again, picture, atol=1e-4, rtol=1e-3)
    deviation, mean = torch.std_mean(after.mean, dim=(0, 2, 3, 4))
    torch.testing.assert_close(deviation, torch.tensor(facts.std) if facts.std else torch.full((16,), 1 / facts.scaling_factor), atol=1e-3, rtol=1e-3)
    if facts.mean:
        torch.testing.assert_close(mean, torch.tensor(facts.mean), atol=2e-3, rtol=1e-3)
    # A posterior's own deviation grows with its channel.
    gain = deviation / before.mean.std(dim=(0, 2, 3, 4))
    torch.testing.assert_close(after.std / before.std, gain.view(1, -1, 1, 1, 1).expand_as(after.std), atol=1e-3, rtol=1e-3)


def test_the_signal_to_noise_ratio_of_a_constant_error_is_that_of_the_formula() -> None:
    class Off:
        """Gives back every pixel 25.5 of 255 too dark."""

        training = False

        def encode(self, wanted: torch.Tensor) -> object:
            self.wanted = wanted
            return type("Encoded", (), {"latent_dist": type("Posterior", (), {"mean": wanted})})

        def decode(self, mean: torch.Tensor) -> object:
            return type("Decoded", (), {"sample": mean - 0.2})

        def eval(self) -> None:
            """Stays as it is."""

        def train(self, mode: bool) -> None:
            """Stays as it is."""

    frames = np.full((3, 9, 8, 8, 3), 128, np.uint8)
    assert vae.psnr(Off(), frames) == pytest.approx(20.0, abs=1e-3)


def test_a_step_is_drawn_from_seed_and_step_alone_early_ones_of_still_frames() -> None:
    drawn = vae.Drawn(vae.VaeRun(backbone="tiny-wan", steps=16, batch=2))
    assert torch.equal(drawn[9], drawn[9]) and not torch.equal(drawn[9], drawn[10])
    assert [tuple(drawn[step].shape[:2]) for step in (0, 3, 9, 15)] == [(4, 1), (2, 9), (2, 9), (4, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_vae_that_ships_gives_held_out_clips_back(name: str) -> None:
    import diffusers

    from vapdata import tiny

    model = getattr(diffusers, type(vae.new(name)).__name__).from_pretrained(tiny.folder(name) / "vae", local_files_only=True).eval()
    reached = vae.psnr(model, clips.held_out(7, 52))
    print(name, reached)
    assert reached > REACHED[name]
