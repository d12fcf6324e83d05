"""From noise to latents: the backbone's own diffusers scheduler, guidance, and noise that a batch does not change.

Guidance on a method with references: the negative branch replaces the captions of target and references alike by the
negative prompt, and keeps the references (Video-As-Prompt, released pipelines). Without a method the result equals
diffusers' CogVideoXImageToVideoPipeline bit for bit. Exercised by `pytest tests/train/test_denoise.py`.

Shapes: B batch, C T H W latents, M text rows, E their width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import diffusers
import torch
from jaxtyping import Float
from torch import Tensor

from train.batch import Side
from train.method import Backbone, Guided, MethodModule
from train.objective import normal, seed_of
from vapdata.errors import CallError

SCHEDULERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler")
"""Classes of diffusers that `Stepper` knows how to ask for a step. None of them scales the first noise or what the model is given."""
STEP_STREAM = "step noise"
"""What tells the noise that a scheduler adds at every step from the initial noise."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How far the prediction is pushed away from what neither caption nor reference asks for."""

    scale: float
    """s in n + s (c - n), n being the prediction with the negative prompt; 1 or less: no negative branch, as in diffusers."""
    dynamic: bool = False
    """diffusers' `use_dynamic_cfg`, which the released demos use: 1 + s (1 - cos(pi ((N - t) / N)^5)) / 2 for N steps.

    It was made for a step number; diffusers puts in the timestep, 0 to 999, and so do we to give the same video.
    """
    reference: float | None = None
    """r in f + r (n - f) + s (c - n), f being the prediction with the negative prompt and without references
    (InstructPix2Pix, equation 3, with the reference for its image); None or 1 leave that branch out."""

    @property
    def has_negative(self) -> bool:
        """Whether the negative branch is computed."""
        return self.scale > 1.0 or self.has_free

    @property
    def has_free(self) -> bool:
        """Whether the branch without references is computed."""
        return self.reference is not None and self.reference != 1.0

    def at(self, timestep: float, steps: int) -> float:
        """The scale at this timestep of `steps`."""
        if not self.dynamic:
            return self.scale
        return 1 + self.scale * ((1 - math.cos(math.pi * ((steps - timestep) / steps) ** 5.0)) / 2)


def scheduler_from(config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler of this config, as its `_class_name` says. Raises CallError for one that is not known here."""
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        raise CallError(f"scheduler {name!r} of the backbone's scheduler_config.json: wanted one of {', '.join(SCHEDULERS)}. Put another scheduler/ into the weights' folder.")
    return getattr(diffusers, name).from_config(dict(config))


class Stepper:
    """A scheduler at work on one batch. All of them are asked alike: timesteps once, then a step each."""

    def __init__(self, scheduler: Any, steps: int, device: torch.device, seeds: Sequence[int]) -> None:
        """Raises CallError for more steps than the scheduler was trained with."""
        most = scheduler.config.num_train_timesteps
        if not 1 <= steps <= most:
            raise CallError(f"--steps {steps}: this backbone's scheduler takes 1 to {most}. Type --steps 50")
        if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
            # As HunyuanVideo's pipeline asks; left to itself it would apply its shift to the last of them twice.
            scheduler.set_timesteps(sigmas=[1 - step / steps for step in range(steps)], device=device)
        else:
            scheduler.set_timesteps(steps, device=device)
        self.scheduler = scheduler
        self.timesteps: Tensor = scheduler.timesteps[scheduler.timesteps >= 0]
        """Descending. Trailing spacing gives one below 0 too many where 1000 / steps rounds down, e.g. for 3."""
        self._multistep = type(scheduler).__name__ == "CogVideoXDPMScheduler"
        self._generators = [step_generator(seed) for seed in seeds] if self._multistep else []
        self._before: Tensor | None = None
        self._number = 0

    def step(self, prediction: Float[Tensor, "B C T H W"], latents: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
        """The latents one step further, float32."""
        timestep = self.timesteps[self._number]
        made = self._dpm(prediction, timestep, latents) if self._multistep else self.scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        self._number += 1
        return made

    def _dpm(self, prediction: Tensor, timestep: Tensor, latents: Tensor) -> Tensor:
        """CogVideoX's DPM solver, which looks one step back and adds noise: drawn per sample, in the pipeline's layout (frames before channels)."""
        back = self.timesteps[self._number - 1] if self._number else None
        made, self._before = self.scheduler.step(
            prediction.transpose(1, 2), self._before, timestep, back, latents.transpose(1, 2), generator=self._generators, return_dict=False
        )
        return made.transpose(1, 2)


def denoise(
    module: MethodModule | None,
    backbone: Backbone,
    target: Side,
    references: tuple[Side, ...],
    *,
    steps: int,
    guidance: float,
    dynamic: bool = False,
    seeds: Sequence[int],
    negative: Mapping[str, Tensor] | None,
    scheduler: Any,
    reference_guidance: float | None = None,
) -> Float[Tensor, "B C T H W"]:
    """Clean latents for `target`, scaled, float32; of `target.video` only shape and device are looked at.

    `module` None samples the frozen backbone. `negative` is the negative prompt as the fields of a `Side` that speak of the caption
    (`Loader.prompt`), None without guidance. The noise of a sample follows from its seed alone. Numbers are kept in float32 between steps, whatever the
    backbone computes in. Raises CallError when something that guidance needs is not there.
    """
    wish = Guidance(scale=guidance, dynamic=dynamic, reference=reference_guidance)
    _check(wish, references, negative, len(seeds), len(target.clip_ids))
    stepper = Stepper(scheduler, steps, target.video.device, seeds)
    branches = _Branches(module, backbone, target, references, negative, wish)
    with torch.inference_mode():
        latents = initial(seeds, target.video)
        for timestep in stepper.timesteps:
            latents = stepper.step(branches.prediction(latents, timestep.float(), wish.at(float(timestep), steps)), latents)
    return backbone.finished(latents, target).clone()  # outside, so that it is an ordinary tensor


def initial(seeds: Sequence[int], like: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:
    """Standard normal noise, one draw per seed, float32, on `like`'s device."""
    return torch.stack([normal(seed, tuple(like.shape[1:])) for seed in seeds]).to(like.device)


def step_generator(seed: int) -> torch.Generator:
    """What a scheduler draws a sample's noise from after the first: a CPU generator of its own."""
    return torch.Generator().manual_seed(seed_of(seed, 0, 0, STEP_STREAM))


class _Branches:
    """What is asked of the model at every step: the prediction, and those that guidance pushes it away from."""

    def __init__(
        self, module: MethodModule | None, backbone: Backbone, target: Side, references: tuple[Side, ...], negative: Mapping[str, Tensor] | None, wish: Guidance
    ) -> None:
        self.module, self.backbone, self.wish = module, backbone, wish
        self.target, self.references, self.free = target, references, target
        if wish.has_negative and negative is not None:
            self.free, positive = replace(target.without_keywords(), **negative), target
            if isinstance(module, Guided):
                self.free, positive = module.branches(self.free, positive)
            # Negative first, as diffusers stacks them: together they take one pass.
            self.target = _stacked(self.free, positive)
            self.references = tuple(_stacked(replace(side.without_keywords(), **negative), side) for side in references)

    def prediction(self, noisy: Tensor, timestep: Tensor, scale: float) -> Tensor:
        """The guided prediction, float32."""
        if not self.wish.has_negative:
            return self._predict(noisy, timestep, self.target, self.references)
        negative, positive = self._predict(torch.cat([noisy, noisy]), timestep, self.target, self.references).chunk(2)
        pushed = negative + scale * (positive - negative)
        if not self.wish.has_free or self.wish.reference is None:
            return pushed
        free = self._predict(noisy, timestep, self.free, ())
        return pushed + (self.wish.reference - 1.0) * (negative - free)

    def _predict(self, noisy: Tensor, timestep: Tensor, target: Side, references: tuple[Side, ...]) -> Tensor:
        times = timestep.expand(len(noisy))
        if self.module is None:
            return self.backbone.forward(noisy, times, target).float()
        return self.module.predict(noisy, times, target, references).float()


def _stacked(first: Side, second: Side) -> Side:
    """Both, one after the other along the batch."""
    stacked = {each.name: torch.cat([value, getattr(second, each.name)]) for each in fields(first) if isinstance(value := getattr(first, each.name), Tensor)}
    return replace(first, clip_ids=first.clip_ids + second.clip_ids, **stacked)


def _check(wish: Guidance, references: tuple[Side, ...], negative: object, seeds: int, samples: int) -> None:
    if seeds != samples:
        raise CallError(f"sampling: got {seeds} seeds for {samples} samples; wanted one for each. Pass as many seeds as clips.")
    if wish.has_negative and negative is None:
        raise CallError(f"--guidance {wish.scale:g}: guidance needs the negative prompt's embedding, and none is there. Type --guidance 1")
    if wish.has_free and not references:
        raise CallError(f"--reference-guidance {wish.reference:g}: this method was given no reference to be guided by. Leave it out.")
