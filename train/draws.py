"""What a stored tensor leaves to chance: a point of a latent's distribution, one of a first frame's noised latents.

Drawn anew at every training step, from the sample's seed; evaluation and samples take the mean and the clean frame.
Exercised by `pytest tests/train/test_draws.py`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from train.objective import normal, uniform
from vapdata.errors import CallError

LOG_VARIANCES = (-30.0, 20.0)
"""Where diffusers' DiagonalGaussianDistribution cuts them off."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What is drawn while training."""

    posterior: bool = True
    """Video latents are sampled where the catalog holds log-variances (`vae.logvar=true`); False: their means are trained on, as without."""
    noised_first: int = 0
    """Stored latents of noised first frames (`vae_first.noised=K` names K) of which each step takes one instead of the clean frame's; 0: the clean one."""

    def __post_init__(self) -> None:
        if self.noised_first < 0:
            raise CallError(f"draws.noised_first={self.noised_first}: wanted 0, or the K of the encoder's vae_first.noised=K. Type --set draws.noised_first=0")


DEFAULT = Draws()


def posterior(raw: Shaped[Tensor, "C2 T H W"], seed: int, clip_id: str) -> Float64[Tensor, "C T H W"]:
    """mean + exp(logvar / 2) * noise, not yet scaled; `raw` has the log-variances behind the means. Diffusers' `DiagonalGaussianDistribution.sample`."""
    mean, log_variance = raw.double().chunk(2)
    noise: Float[Tensor, "C T H W"] = normal(seed, mean.shape, f"posterior {clip_id}")
    return mean + torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCES)) * noise


def noised(raw: Shaped[Tensor, "K C t H W"], seed: int, clip_id: str) -> Shaped[Tensor, "C t H W"]:
    """One of the K, each as likely as another."""
    return raw[int(uniform(seed, f"noised {clip_id}") * len(raw))]
