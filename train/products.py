"""Which products of a catalog a run reads: the video latents of its backbone, and what lies beside them on the same grid.

Names are those that the encoders give (`vapdata explain vae` and its like); settings must agree with the video's.
Exercised by `pytest tests/train/test_index.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalogs.store import Catalog
from train.batch import Reads
from vapdata.backbones import BACKBONES, Backbone
from vapdata.encoders.blip2_words import words_product
from vapdata.encoders.image_tokens import GEOMETRY, PRODUCT
from vapdata.encoders.keywords import PARTS
from vapdata.encoders.llava_prompt import interleaved
from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class Wants:
    """One product that a run reads of every clip."""

    role: str
    """What it is to the run: `video`, or a field of `train.batch.Side`."""
    name: str
    table: str
    step: str
    """The encoder that makes it."""
    captioned: bool = False
    """Made of a caption, and not at all for a clip without one."""
    needs: str = ""
    """The setting of that encoder without which it is not made."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Pixels and rate of a product of video latents, from its settings."""

    frames: int
    height: int
    width: int
    fps: float
    short: str
    resize: str

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Grid":
        """The grid that `vae` wrote down."""
        named = {"frames": "pixel_frames", "height": "height", "width": "width", "fps": "fps", "short": "short", "resize": "resize"}
        return cls(**{name: settings[key] for name, key in named.items()})

    @property
    def size(self) -> str:
        """Height and width, as names of products have them."""
        return f"{self.height}x{self.width}"

    @property
    def least_seconds(self) -> float:
        """A clip as long as this, or shorter, gives no latent; negative when every clip gives one."""
        return (self.frames - 1) / self.fps - 1e-6 if self.short == "reject" else -1.0


def video_product(catalog: Catalog, facts: Backbone, counts: Mapping[str, int], product: str | None) -> str:
    """The product of video latents that a run trains on; `counts` are the rows of each that the catalog has.

    Raises CallError when there is none of this backbone (naming those that there are), or several and none was named.
    """
    mine = {name: count for name, count in counts.items() if is_video_of(name, facts)}
    if product is not None:
        if product in mine:
            return product
        raise CallError(f"--product {product}: {catalog.shown} has no such video latents of {facts.name}. It has {_listed(mine) or 'none of it'}")
    if len(mine) == 1:
        return next(iter(mine))
    if mine:
        raise CallError(f"{catalog.shown} has video latents of {facts.name} on several grids: {_listed(mine)}. Type --product NAME with one of them")
    others = sorted({name for name, each in BACKBONES.items() for product in counts if is_video_of(product, each)})
    if others:
        raise CallError(f"{catalog.shown} has no video latents of {facts.name}, only of {', '.join(others)}. Type --backbone {others[0]}, or {built(catalog, facts)}")
    raise CallError(f"{catalog.shown} has no video latents. Make them: {built(catalog, facts)}")


def is_video_of(product: str, facts: Backbone) -> bool:
    """Whether a product's name is one that `vae` gives with this backbone's VAE."""
    return re.match(rf"{re.escape(facts.vae.product)}-\d+x\d+x\d+-", product) is not None


def wanted_products(facts: Backbone, reads: Reads, video: str, grid: Grid) -> tuple[Wants, ...]:
    """The video latents and everything beside them that `reads` names, as the encoders call it."""
    found = [Wants(role="video", name=video, table="latents", step="vae")]
    if reads.first:
        found.append(Wants(role="first", name=_first(facts, reads.first, grid), table="latents", step="vae_first"))
    if reads.noised:
        found.append(Wants(role="noised", name=f"{_first(facts, 1, grid)}-noised{reads.noised}", table="latents", step="vae_first", needs=f"vae_first.noised={reads.noised}"))
    if reads.condition:
        found.append(Wants(role="condition", name=_condition(facts, grid), table="latents", step="vae_condition"))
    if reads.text:
        found.append(Wants(role="text", name=_text(facts, grid), table="texts", step={"cogvideox": "t5", "wan": "umt5", "hunyuan": "llava"}[facts.family]))
    if reads.pooled:
        found.append(Wants(role="pooled", name=f"{facts.vae.product.removesuffix('-vae')}-clip-l-pooled", table="texts", step="clip_text"))
    if reads.image_tokens:
        found.append(Wants(role="image_tokens", name=_image_tokens(facts, reads.image_tokens, grid), table="features", step="image_tokens"))
    if reads.words:
        found.append(Wants(role="words", name=words_product(facts.tiny), table="texts", step="blip2_words"))
    if reads.masks:
        found.append(Wants(role="masks", name=f"{facts.clip.product}-mask-{grid.size}", table="masks", step="clip_mask", captioned=True))
    if reads.picture:
        found.append(Wants(role="picture", name=f"first-{grid.size}", table="frames", step="first_frame"))
    if reads.keywords:
        found += [Wants(role=f"keyword_{part}", name=_keywords(facts, part, grid), table="features", step="keywords", captioned=True) for part in PARTS]
    return tuple(found)


def settings_of(catalog: Catalog, wants: Wants, grid: Grid, facts: Backbone, method: str) -> Mapping[str, Any]:
    """The settings a product was made with. Raises CallError when nothing made it, or not from the video's pictures."""
    settings = catalog.settings(wants.name)
    if settings is None:
        raise CallError(
            f"train.{method} on {facts.name} reads {wants.name} ({wants.role}), and {catalog.shown} has none. "
            f"Make it with a recipe that has {wants.step}{f' and {wants.needs}' if wants.needs else ''}: {built(catalog, facts)}"
        )
    if settings.get("resize", grid.resize) != grid.resize:
        raise CallError(
            f"{wants.name} in {catalog.shown} was made with resize={settings['resize']}, the video latents with {grid.resize}: they show different parts of a clip. "
            "Build into a new --catalog with one of them"
        )
    return settings


def built(catalog: Catalog, facts: Backbone) -> str:
    """The build command for a backbone, where no earlier one is known."""
    return f"vapdata build --source SOURCE --catalog {catalog.shown} --recipe {facts.name}"


def _first(facts: Backbone, first: int, grid: Grid) -> str:
    name = f"{facts.vae.product}-first{first}-{grid.size}"
    return name if first == 1 else f"{name}-{grid.fps:g}fps"


def _condition(facts: Backbone, grid: Grid) -> str:
    frames = grid.frames if facts.condition == "zero_frames" else 1
    return f"{facts.vae.product}-condition-{frames}x{grid.size}"


def _text(facts: Backbone, grid: Grid) -> str:
    if facts.family != "hunyuan":
        return facts.text.product
    return f"{facts.text.product}-{grid.size}-i{interleaved(facts, None)}"


def _image_tokens(facts: Backbone, tower: str, grid: Grid) -> str:
    if tower not in GEOMETRY:
        raise CallError(f"image_tokens: there is no tower {tower!r}. Name one of {', '.join(GEOMETRY)}")
    prefix = facts.clip.product if tower == "clip" else f"{'tiny-' if facts.tiny else ''}{PRODUCT[tower]}"
    return f"{prefix}-tokens-{GEOMETRY[tower]}-{grid.size}"


def _keywords(facts: Backbone, part: str, grid: Grid) -> str:
    """Maps of the whole frame, squeezed into CLIP's square: of a cut-out middle they would say nothing about the rest."""
    if facts.family not in ("wan", "hunyuan"):
        raise CallError(f"keywords: spans are of UMT5's or LLaVA's rows, {facts.name} reads another text encoder's. Name a wan or hunyuan backbone, e.g. --backbone tiny-wan")
    rows = f"-llava-i{interleaved(facts, None)}" if facts.family == "hunyuan" else ""
    return f"{'tiny-clip-xlm' if facts.tiny else 'clip-xlm-h14'}-keywords-{part}-stretch-{grid.size}{rows}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count} clips)" for name, count in sorted(counts.items()))
