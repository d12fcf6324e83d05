"""Seeing where CLIP looks: a picture of stored masks, and of the visual prompt that SSG-DiT makes of them.

    python -m train.masks --catalog C --out masks.png [--clips 6] [--where SQL]

A row a clip: its first frame, the three grids laid over it, and the visual prompt. Reads what the recipe stored, encodes nothing. Exit
status: 0 done, 1 it could not be finished, 2 the call was wrong. Exercised by `pytest tests/train/test_masks.py`.
"""

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from jaxtyping import Float, UInt8

from catalogs.newest import literal
from catalogs.queries import answer
from catalogs.store import Catalog
from train.batch import Reads
from train.cells import CellReader
from train.index import build_index
from train.launch import only_backbone
from train.samples import Index
from train.sheet import Row, picked, sheet
from train.sides import Pick, Sides
from vapdata import backbones
from vapdata.encoders.clip_mask import GRIDS
from vapdata.encoders.visual_prompt import upsample, visual_prompt
from vapdata.errors import CallError, RunError, VapdataError

BLUR_PX = 3.0
"""Deviation of the visual prompt's blur on a picture of 96 pixels, in proportion on others: the paper's share, 2 %, is hard to see."""


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.option("--catalog", default="catalog", show_default=True, help="The catalog that holds masks and first frames.")
@click.option("--backbone", help="Backbone whose recipe made them; left out: the only one the catalog has latents of.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("masks.png"), show_default=True, help="The picture.")
@click.option("--clips", type=click.IntRange(1), default=6, show_default=True, help="How many clips are shown, evenly picked.")
@click.option("--where", default="true", help="Which clips: SQL over clips_wide.")
def command(catalog: str, backbone: str | None, out: Path, clips: int, where: str) -> None:
    """Draws the CLIP masks of a catalog's clips over their first frames."""
    try:
        click.echo(draw(catalog, backbone or only_backbone(catalog, "masks"), out, clips, where))
    except VapdataError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, CallError) else 1)


def draw(catalog: str, backbone: str, out: Path, clips: int, where: str = "true") -> Path:
    """Writes the picture of so many clips; its path."""
    facts = backbones.backbone(backbone)
    index = build_index(Catalog.open(catalog), facts, Reads(text=False, masks=True, picture=True), where=where, method="masks")
    reader = CellReader(Catalog.open(index.catalog))
    rows = [_row(index, Sides(index, facts, reader), reader, index.samples[number].target) for number in picked(len(index.samples), clips)]
    words = _captions(catalog, [row.label for row in rows])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sheet(("first frame", *GRIDS, "prompt"), [Row(label=row.label, text=words.get(row.label, ""), videos=row.videos) for row in rows], frames=1).save(out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror}). Give an --out that can") from error
    return out


def overlaid(frame: UInt8[np.ndarray, "h w 3"], mask: Float[np.ndarray, "gh gw"]) -> UInt8[np.ndarray, "h w 3"]:
    """The frame, darker where the mask is low."""
    weight = upsample(torch.from_numpy(np.array(mask, np.float32)), *frame.shape[:2], "clamp").numpy()[..., None]
    return (frame * (0.15 + 0.85 * weight) + 0.5).astype(np.uint8)


def _row(index: Index, sides: Sides, reader: CellReader, clip: str) -> Row:
    number = index.number(clip)
    side: Any = sides.side([Pick(clip=number, text=number)])
    frame, masks = side.picture[0].permute(1, 2, 0).numpy(), side.masks[0].numpy()
    prompt = visual_prompt(frame, masks[0], blur_sigma=BLUR_PX * min(frame.shape[:2]) / 96)
    return Row(label=clip, text="", videos=tuple(each[None] for each in (frame, *(overlaid(frame, mask) for mask in masks), prompt)))


def _captions(catalog: str, clips: list[str]) -> dict[str, str]:
    """The source captions of these clips."""
    named = ", ".join(literal(clip) for clip in clips)
    found = answer(Catalog.open(catalog), f"select clip_id, text from captions where role = 'source' and clip_id in ({named})")
    return {row["clip_id"]: row["text"] for row in found.to_pylist()}


if __name__ == "__main__":
    command(prog_name="python -m train.masks")
