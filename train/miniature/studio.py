"""A catalog of the miniature world, a backbone, and clips made of it: where the rows of the benchmark come from.

Catalogs and runs are made by the project's own commands, in processes of their own. Exercised by
`pytest tests/train/miniature/test_bench.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8

from catalogs.store import Catalog
from train.backbones import load_backbone
from train.data import Loader
from train.decode_latents import Decoder
from train.denoise import denoise, scheduler_from
from train.index import build_index
from train.method import Backbone, Method, MethodModule
from train.miniature.commands import run
from train.miniature.scoring import Seen, orders, seen
from train.objective import seed_of
from train.samples import Index
from vapdata import backbones
from vapdata.scenes import CONDITIONS, Made, draw_made

RECIPES = {"tiny-cogvideox": "miniature", "tiny-wan": "miniature-wan"}
"""Backbone -> the recipe of its catalog: what the backbone itself and Video-As-Prompt read. With `-methods` behind it, what the others read too."""
LARGE_SIDE = 64
"""Height and width of the recipe `miniature-large`."""
AT_ONCE = {"cpu": 26, "cuda": 260}
"""Clips that are denoised together."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A catalog of miniature clips and what decides them."""

    folder: Path
    backbone: str
    clips: int
    seed: int
    pairs: bool = False
    """Two objects in every scene."""
    turn: float = 0.0
    """Degrees that slides and tints may be off."""
    events: Literal[1, 2] = 1
    """Conditions that a clip shows one after the other."""
    where: str = "true"
    """Which clips are encoded."""
    large: bool = False
    """Four times as many tokens, where tiny-cogvideox has been trained on them first."""
    on_ray: bool = True
    """Whether its catalog is built on Ray, or in one process."""

    @property
    def catalog(self) -> str:
        """Where it lies."""
        return str(self.folder / "catalog")

    def building(self, captions: Literal["full", "neutral"], *, methods: bool = False) -> list[str]:
        """What is typed to make the catalog, or to encode other captions anew in one that is there. `methods`: with what FCA, SSG and FG read."""
        own = {"count": self.clips, "seed": self.seed, "captions": captions, "pairs": str(self.pairs).lower(), "turn": f"{self.turn:g}", "events": self.events}
        own |= dict.fromkeys(("height", "width"), LARGE_SIDE) if self.large else {}
        recipe = RECIPES[self.backbone] + "-methods" * methods + "-large" * self.large
        named = "miniature-two" if self.pairs else "miniature"  # a catalog takes other videos under another name
        places = ("--root", str(self.folder / "videos"), "--name", named, "--catalog", self.catalog)
        settings = (word for name, value in own.items() for word in ("--set", f"miniature.{name}={value}"))
        engine = () if self.on_ray else ("--address", "here")
        return ["-m", "vapdata.cli", "build", "--source", "miniature", *places, "--recipe", recipe, "--where", self.where, *engine, *settings]

    def build(self, captions: Literal["full", "neutral"], *, methods: bool = False) -> None:
        """Does it."""
        run(self.building(captions, methods=methods), self.folder)

    def pair(self, held_out: Sequence[str]) -> None:
        """Pairs clips that show the same condition; those of `held_out` are for testing alone."""
        run(["-m", "vapdata.cli", "pairs", "--catalog", self.catalog, "--provider", "mined", "--set", f"pairs.held_out_conditions={','.join(held_out)}"], self.folder)

    def made(self, clip_id: str) -> Made:
        """What a clip shows, told by the number in its name."""
        found = re.search(r"-(\d+)\.mp4", clip_id)
        assert found, clip_id
        return draw_made(self.seed, int(found[1]), conditions=tuple(CONDITIONS), two=self.pairs, turn=self.turn, events=self.events)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One made clip."""

    target: str
    frames: UInt8[np.ndarray, "t h w 3"]
    references: tuple[str, ...]


class Studio:
    """A backbone and what a method reads of a world's catalog, ready to make clips."""

    def __init__(self, world: World, method: Method, *, seed: int, steps: int, device: torch.device) -> None:
        facts = backbones.backbone(world.backbone)
        self.world, self.seed, self.steps, self.device = world, seed, steps, device
        self.backbone: Backbone = load_backbone(facts, dtype=torch.float32, device=device)
        reads = method.reads(facts) | self.backbone.reads()
        self.index: Index = build_index(Catalog.open(world.catalog), facts, reads, where=world.where, method=method.name)
        self.loader = Loader(self.index, facts, self.backbone.objective, seed=seed, global_batch=1, micro_batch=1)
        self.decoder = Decoder(facts, device)

    def samples(self, split: str, count: int) -> list[int]:
        """Numbers of `count` samples of held-out subjects in this split, evenly over conditions."""
        numbers = [number for number, sample in enumerate(self.index.samples) if sample.split == split and self.world.made(sample.target).scene.subject.held_out]
        by_condition: dict[str, list[int]] = {}
        for number in numbers:
            by_condition.setdefault(self.world.made(self.index.samples[number].target).condition.name.partition(">")[0], []).append(number)
        turns = [members[place] for place in range(max(map(len, by_condition.values()), default=0)) for members in by_condition.values() if place < len(members)]
        return turns[:count]

    def clips(
        self,
        samples: Sequence[int],
        module: MethodModule | None,
        *,
        guidance: float = 1.0,
        reference_guidance: float | None = None,
        references: Literal["right", "shuffled", "none"] = "right",
        exchanged: Sequence[str] = (),
    ) -> list[Clip]:
        """One clip for each sample: the noise follows from seed and target, so rows differ in nothing but what they say.

        `exchanged`: fields of a target's side that it is given of another clip, of another condition.
        """
        made = []
        for some in self._parts(samples):
            batch = self.loader.grid(some, torch.zeros(len(some)), [0] * len(some), shuffled=references == "shuffled").to(self.device)
            batch = replace(batch, target=replace(batch.target, **{name: getattr(batch.target, name).roll(1, 0) for name in exchanged}))
            sides = () if references == "none" else batch.references
            latents = denoise(
                module,
                self.backbone,
                batch.target,
                sides,
                steps=self.steps,
                guidance=guidance,
                reference_guidance=reference_guidance,
                seeds=[seed_of(self.seed, 0, 0, clip) for clip in batch.target.clip_ids],
                negative=self.loader.prompt("negative", batch.target),
                scheduler=scheduler_from(self.backbone.scheduler_config),
            )
            shown = self.decoder.frames(latents)
            told = [tuple(side.clip_ids[place] for side in sides) for place in range(len(some))]
            made += [Clip(target=clip, frames=frames, references=named) for clip, frames, named in zip(batch.target.clip_ids, shown, told, strict=True)]
        return made

    def targets(self, samples: Sequence[int]) -> list[Clip]:
        """The true clips, through the VAE and back."""
        made = []
        for some in self._parts(samples):
            side = self.loader.grid(some, torch.zeros(len(some)), [0] * len(some)).target.to(self.device)
            made += [Clip(target=clip, frames=frames, references=()) for clip, frames in zip(side.clip_ids, self.decoder.frames(side.video), strict=True)]
        return made

    def _parts(self, samples: Sequence[int]) -> list[Sequence[int]]:
        """Samples that are denoised together."""
        step = AT_ONCE[self.device.type]
        return [samples[start : start + step] for start in range(0, len(samples), step)]

    def seen(self, made: Sequence[Clip], *, of: Literal["target", "reference"] = "target") -> list[Seen]:
        """What the clips show of their own scenes, measured against the target's condition or the reference's; of two events, their order."""
        wanted = [self.world.made(clip.target if of == "target" else clip.references[0]).condition.name for clip in made]
        among = [orders(name) if self.world.events > 1 else CONDITIONS for name in wanted]
        return [seen(self.world.made(clip.target).scene, name, clip.frames, each) for clip, name, each in zip(made, wanted, among, strict=True)]
