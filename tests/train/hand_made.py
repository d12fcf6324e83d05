"""Catalogs written by hand: any backbone, any shapes, random numbers, no models."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catalogs.store import Catalog
from catalogs.tensors import pack
from vapdata.backbones import Backbone

GRID = {"pixel_frames": 9, "height": 32, "width": 32, "resize": "stretch", "revision": "r"}


@dataclass(frozen=True, kw_only=True)
class Hand:
    """One clip."""

    name: str
    split: str = "train"
    shape: tuple[int, ...] = (16, 3, 4, 4)
    tokens: int = 5
    seconds: float = 2.0
    caption: str | None = "a red circle"
    keywords: int = 0
    """Row k of the caption's embedding is its k-th keyword."""


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """One product: table, name, settings, and an array for each clip (None for the constants)."""

    table: str
    name: str
    settings: dict[str, Any]
    dtype: str
    arrays: Sequence[tuple[Hand | str, np.ndarray]]
    columns: dict[str, Any]


def hand_made(
    path: Path | str,
    facts: Backbone,
    hands: Sequence[Hand],
    *,
    pairs: Sequence[tuple[str, str, str]] = (),
    logvar: bool = False,
    noised: int = 0,
    grid: str = "9x32x32",
    wide: bool = False,
) -> Catalog:
    """A catalog of these clips, with latents, first and condition latents, texts. `pairs`: (condition, reference, target).

    `wide`: texts and image tokens are as wide as the tiny backbone reads them, so that it can be trained on this.
    """
    catalog = Catalog.open(path, create=True)
    random = np.random.default_rng(len(hands))

    def drawn(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    channels = 32 if logvar else 16
    vae = facts.vae.product
    law = {"pixel_frames": 9, "latent_frames": 3, "temporal_stride": 4, "first_alone": True, "has_logvar": logvar}

    def latents(name: str, kind: str, frames: int | None = None, **more: Any) -> Tensors:
        arrays = [(hand, drawn(channels, frames or hand.shape[1], *hand.shape[2:])) for hand in hands]
        return Tensors(table="latents", name=f"{vae}-{name}", settings={**GRID, "kind": kind, **more}, dtype="bf16", arrays=arrays, columns={**law, "kind": kind})

    def texts(name: str, shape: Callable[[Hand | str], tuple[int, ...]], **settings: Any) -> Tensors:
        arrays = [(hand, drawn(*shape(hand))) for hand in (*hands, "empty", "negative")]
        return Tensors(table="texts", name=name, settings=settings, dtype="bf16", arrays=arrays, columns={})

    def length(hand: Hand | str) -> int:
        return facts.text.rows if facts.family == "cogvideox" else hand.tokens if isinstance(hand, Hand) else 1

    hunyuan = facts.family == "hunyuan"
    text, pooled = (facts.text.width, 32) if wide else (8, 8)
    tokens = [(hand, drawn(257, 64) if wide else drawn(7, 6)) for hand in hands]
    anchor = (48 if hunyuan else 64) if wide else 6
    made = [
        latents(f"{grid}-8fps", "video", fps=8.0, short="reject"),
        latents("first1-32x32", "first", 1),
        latents(f"condition-{9 if facts.condition == 'zero_frames' else 1}x32x32", "condition"),
        texts(f"{facts.text.product}-32x32-i4" if hunyuan else facts.text.product, lambda hand: (length(hand), text), **({"image_rows": 144} if hunyuan else {})),
        texts(f"{vae.removesuffix('-vae')}-clip-l-pooled", lambda hand: (pooled,)),
        Tensors(table="features", name="tiny-clip-h14-tokens-crop-32x32", settings={**GRID, "tower": "wan"}, dtype="bf16", arrays=tokens, columns={}),
    ]
    if noised:
        copies = [(hand, drawn(noised, 16, 1, *hand.shape[2:])) for hand in hands]
        name, kind = f"{vae}-first1-32x32-noised{noised}", {"kind": "noised"}
        made.append(Tensors(table="latents", name=name, settings={**GRID, **kind}, dtype="bf16", arrays=copies, columns={**law, **kind}))
    if facts.family != "cogvideox":
        made += keywords(hands, drawn, anchor, f"{'tiny-clip-xlm' if facts.tiny else 'clip-xlm-h14'}-keywords", "-llava-i4" if hunyuan else "")
    with catalog.lock("hand"):
        rows: dict[str, list[dict[str, Any]]] = {"videos": [_video(hand) for hand in hands], "clips": [_clip(hand) for hand in hands]}
        rows |= {"captions": [_caption(hand) for hand in hands if hand.caption], "pairs": [_pair(hands, *pair) for pair in pairs]}
        for each in made:
            rows.setdefault(each.table, []).extend(write(catalog, each))
        catalog.append(rows)
    return catalog


def keywords(hands: Sequence[Hand], drawn: Callable[..., np.ndarray], anchor: int, name: str, rows: str) -> list[Tensors]:
    """Maps, anchors and spans of each clip with a caption."""
    told = [hand for hand in hands if hand.caption]

    def product(part: str, dtype: str, arrays: Sequence[np.ndarray]) -> Tensors:
        each = list(zip(told, arrays, strict=True))
        return Tensors(table="features", name=f"{name}-{part}-stretch-32x32{rows}", settings={**GRID, "part": part}, dtype=dtype, arrays=each, columns={})

    spans = [np.array([[0, 1, row, row + 1] for row in range(hand.keywords)], np.float32).reshape(-1, 4) for hand in told]
    return [
        product("maps", "f16", [drawn(hand.keywords, 16, 16).clip(-1, 1) for hand in told]),
        product("anchors", "bf16", [drawn(hand.keywords, anchor) for hand in told]),
        product("spans", "f32", spans),
    ]


def write(catalog: Catalog, made: Tensors, part: int = 0) -> list[dict[str, Any]]:
    """Writes a tensor file; its rows."""
    digest = catalog.claim(made.name, made.settings, step="hand")
    names = [hand.name if isinstance(hand, Hand) else None for hand, _ in made.arrays]
    file = catalog.write_tensors(made.name, "hand", part, [(name, pack(array, made.dtype)) for name, (_, array) in zip(names, made.arrays, strict=True)])
    shared = {"shard": "hand", "product": made.name, "model_id": "m", "revision": "r", "settings_sha256": digest, "dtype": made.dtype, "file": file, **made.columns}
    return [
        {**shared, "clip_id": names[group], "shape": list(array.shape), "row_group": group, **_told(made, hand)}
        for group, (hand, array) in enumerate(made.arrays)
    ]


def _told(made: Tensors, hand: Hand | str) -> dict[str, Any]:
    if "-keywords-" in made.name and isinstance(hand, Hand):
        return {"captioner": "source", "role": "source", "text_sha256": _sha(hand.caption or "")}
    if made.table != "texts":
        return {}
    if isinstance(hand, str):
        return {"captioner": "constant", "role": hand, "text_sha256": _sha(""), "length": 1}
    return {"captioner": "source", "role": "source", "text_sha256": _sha(hand.caption or ""), "length": hand.tokens}


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _video(hand: Hand) -> dict[str, Any]:
    return {"video_id": hand.name, "dataset": "d", "source": "folder", "name": hand.name, "uri": hand.name, "shard": "hand", "split": hand.split, "split_group": hand.name}


def _clip(hand: Hand) -> dict[str, Any]:
    row = {"clip_id": hand.name, "video_id": hand.name, "source": "d", "shard": "hand", "split": hand.split, "start_s": 0.0, "end_s": hand.seconds}
    return {**row, "frames": 48, "fps": 24.0, "width": 160, "height": 96, "codec": "h264", "whole": True, "truncated": False}


def _caption(hand: Hand) -> dict[str, Any]:
    return {"clip_id": hand.name, "shard": "hand", "captioner": "source", "role": "source", "text": hand.caption, "text_sha256": _sha(hand.caption or "")}


def _pair(hands: Sequence[Hand], condition: str, reference: str, target: str) -> dict[str, Any]:
    split = next(hand.split for hand in hands if hand.name == target)
    row = {"pair_id": f"{condition}:{reference}>{target}", "condition": condition, "category": "motion", "reference_clip_id": reference, "target_clip_id": target}
    return {**row, "split": split, "provider": "hand", "generation": "g1"}
