"""What a backbone predicts, read from its scheduler's config, and the random numbers of one sample.

The objective is a property of the frozen weights, not of a method. CogVideoX is v-prediction with a DDPM schedule, Wan
and HunyuanVideo are rectified flow. Every random number of a sample follows from one seed that knows neither rank nor
worker. Exercised by `pytest tests/train/test_objective.py`.

Shapes: B micro-batch, C channels, T latent frames, H W latent rows and columns, N timesteps of the schedule.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from train.method import Objective
from vapdata.errors import CallError

FLOW_STEPS = 1000.0
"""What a flow's transformer takes is 1000 * sigma, in Wan and in HunyuanVideo."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VPrediction:
    """x_t = a x0 + s eps and v = a eps - s x0, with a = sqrt(abar_t) and s = sqrt(1 - abar_t); t is uniform over 0..N-1.

    Official trainers turn the prediction into x0 and weight its error by 1 / (1 - abar_t). That is the same number as the
    plain error of v, which needs no division by 1 - abar_0 = 0.0009: so this is what is computed.
    """

    alphas_cumprod: Float[Tensor, " N"]
    """abar_t of the scheduler itself, its rescaling to zero terminal SNR and its SNR shift included."""

    def timesteps(self, seeds: Sequence[int]) -> Float[Tensor, " B"]:
        """Uniform over the integers 0..N-1, one per seed."""
        count = len(self.alphas_cumprod)
        return torch.tensor([math.floor(uniform(seed, "timestep") * count) for seed in seeds], dtype=torch.float32)

    def grid(self, count: int) -> Float[Tensor, " count"]:
        """Integers at the mid-points of `count` equal parts of 0..N-1."""
        return torch.floor((torch.arange(count) + 0.5) * len(self.alphas_cumprod) / count)

    def noisy(self, clean: Float[Tensor, "B C T H W"], noise: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"]) -> Float[Tensor, "B C T H W"]:
        """sqrt(abar) x0 + sqrt(1 - abar) eps, in float32 (float64 when given that)."""
        clean, noise = _wide(clean), _wide(noise)
        signal, sigma = self._scales(timesteps, clean)
        return signal * clean + sigma * noise

    def losses(
        self, prediction: Float[Tensor, "B C T H W"], clean: Float[Tensor, "B C T H W"], noise: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Mean of (prediction - (sqrt(abar) eps - sqrt(1 - abar) x0))^2, in float32 (float64 when given that)."""
        clean, noise = _wide(clean), _wide(noise)
        signal, sigma = self._scales(timesteps, clean)
        return _mean_square(prediction, signal * noise - sigma * clean)

    def _scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), shaped to multiply latents. The roots are taken in the schedule's float64."""
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps.long()]
        return tuple(root.to(like.dtype).view(-1, 1, 1, 1, 1) for root in (abar.sqrt(), (1 - abar).sqrt()))  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """x_sigma = (1 - sigma) x0 + sigma eps with target eps - x0; the transformer takes 1000 sigma.

    This is diffusers' direction of time; the papers of flow matching run it the other way round.
    """

    density: Literal["uniform", "logit_normal"] = "logit_normal"
    """How sigma is drawn. VAP's released Wan trainer draws logit-normal with mean 0 and deviation 1."""
    shift: float = 1.0
    """sigma' = s sigma / (1 + (s - 1) sigma) after drawing. A scheduler's own shift is for sampling and is not taken over."""

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise CallError(f"objective flow: shift is above 0; got {self.shift:g}. Use 1 for none.")

    def timesteps(self, seeds: Sequence[int]) -> Float[Tensor, " B"]:
        """1000 sigma, one per seed."""
        return torch.tensor([FLOW_STEPS * self._shifted(self._drawn(seed)) for seed in seeds], dtype=torch.float32)

    def grid(self, count: int) -> Float[Tensor, " count"]:
        """The mid-points of `count` equal parts of 0..1000, not shifted: an evaluation weighs all noise levels alike."""
        return FLOW_STEPS * (torch.arange(count) + 0.5) / count

    def noisy(self, clean: Float[Tensor, "B C T H W"], noise: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"]) -> Float[Tensor, "B C T H W"]:
        """(1 - sigma) x0 + sigma eps, in float32 (float64 when given that)."""
        clean, noise = _wide(clean), _wide(noise)
        sigma = (timesteps.to(clean.dtype) / FLOW_STEPS).view(-1, 1, 1, 1, 1)
        return (1 - sigma) * clean + sigma * noise

    def losses(
        self, prediction: Float[Tensor, "B C T H W"], clean: Float[Tensor, "B C T H W"], noise: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"]
    ) -> Float[Tensor, " B"]:
        """Mean of (prediction - (eps - x0))^2, in float32 (float64 when given that)."""
        return _mean_square(prediction, _wide(noise) - _wide(clean))

    def _drawn(self, seed: int) -> float:
        if self.density == "uniform":
            return uniform(seed, "timestep")
        return float(torch.sigmoid(normal(seed, (1,), "timestep"))[0])

    def _shifted(self, sigma: float) -> float:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)


def objective_from(scheduler_config: Mapping[str, Any]) -> Objective:
    """The objective that weights with this scheduler were trained for. Raises CallError for one that is neither v nor flow."""
    name, predicts = scheduler_config.get("_class_name", "?"), scheduler_config.get("prediction_type")
    if name.startswith("FlowMatch") or predicts == "flow_prediction":
        return Flow()
    if predicts != "v_prediction":
        raise CallError(
            f"scheduler_config.json: {name} with prediction_type {predicts!r}; wanted v_prediction, flow_prediction or a FlowMatch scheduler. "
            "Name a backbone that predicts v or flow."
        )
    import diffusers

    scheduler = getattr(diffusers, name, None)
    if scheduler is None:
        raise CallError(f"scheduler_config.json: diffusers {diffusers.__version__} has no class {name}. Type: pip install -U diffusers")
    return VPrediction(alphas_cumprod=scheduler.from_config(dict(scheduler_config)).alphas_cumprod.double())


def seed_of(seed: int, step: int, slot: int, clip_id: str) -> int:
    """The seed (63 bits) of one sample: of the run's, the optimiser step, its slot in the global batch, and its clip."""
    return _bits(f"{seed}\0{step}\0{slot}\0{clip_id}")


def normal(seed: int, shape: Sequence[int], stream: str = "") -> Float[Tensor, "..."]:
    """Standard normal float32 on the CPU, from a generator of its own. `stream` names an independent draw of the same sample."""
    generator = torch.Generator().manual_seed(_bits(f"{seed}\0{stream}"))
    return torch.randn(tuple(shape), generator=generator)


def uniform(seed: int, stream: str = "") -> float:
    """One number in [0, 1) with 53 random bits, taken from the hash itself: the same on every machine and torch version."""
    return (_bits(f"uniform\0{seed}\0{stream}") >> 10) * 2.0**-53


def _bits(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _wide(latents: Tensor) -> Tensor:
    """At least float32."""
    return latents if latents.dtype == torch.float64 else latents.float()


def _mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    return (_wide(prediction) - target).square().flatten(1).mean(dim=1)
