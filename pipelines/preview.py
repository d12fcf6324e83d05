"""A contact sheet of a condition's members side by side, each over its clip's name.

A filmed clip is shown by its thumbnail. A made one, whose file lies in the catalog, by its first, middle and last frame:
many conditions begin with the picture that they are made from.

    vapdata conditions --catalog catalog --preview pan_left

Exercised by `pytest tests/pipelines/test_synthesize.py tests/pipelines/test_render.py`.
"""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from catalogs.conditions import members
from catalogs.store import Catalog
from vapdata.clip import path_under
from vapdata.decoder import Decoder
from vapdata.errors import RunError

MOST = 24
COLUMNS = 6
CELL = (256, 192)
"""Width and height of a picture's place; a picture is made to fit."""
TEXT = 18
"""Height of a line of text, pixels."""
GROUND, INK = (24, 24, 24), (220, 220, 220)


def preview(catalog: Catalog, name: str, output: str) -> int:
    """Writes a PNG with up to 24 members of condition `name`, whole or not at all. Returns how many it shows.

    Raises CallError when no clip shows it, RunError when the file cannot be written.
    """
    rows = members(catalog, name, MOST)
    with Decoder() as decoder:
        pictures = [_pictures(catalog, decoder, row) for row in rows]
    sheet = _sheet(pictures, [f"{row['provider']} {row['score']:.0f}  {row['clip_id']}" for row in rows], f"{name}: {len(rows)} members")
    unfinished = f"{output}.{os.getpid()}.part"
    try:
        sheet.save(unfinished, format="PNG")
        os.replace(unfinished, output)
    except OSError as error:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise RunError(f"--output {output}: {error.strerror or error}; name a file that can be written") from error
    return len(rows)


def _pictures(catalog: Catalog, decoder: Decoder, row: Mapping[str, Any]) -> list[Image.Image]:
    path = path_under(catalog.files.address("media"), row["made_uri"]) if row["made_uri"] and catalog.files.local else ""
    if os.path.isfile(path):
        images = [frame.image for frame in decoder.frames(path)]
        return [Image.fromarray(images[at]) for at in (0, len(images) // 2, -1)]
    return [Image.open(io.BytesIO(catalog.read_tensor(row).tobytes())).convert("RGB")]


def _sheet(members: Sequence[Sequence[Image.Image]], texts: Sequence[str], title: str) -> Image.Image:
    most = max(map(len, members))
    columns = min(COLUMNS // most, len(members))
    lines = -(-len(members) // columns)
    width, height = CELL[0] * most, CELL[1]
    sheet = Image.new("RGB", (columns * width, 2 * TEXT + lines * (height + TEXT)), GROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    draw.text((6, TEXT // 2), title, fill=INK, font=font)
    for place, (pictures, text) in enumerate(zip(members, texts, strict=True)):
        left, top = place % columns * width, 2 * TEXT + place // columns * (height + TEXT)
        for number, picture in enumerate(pictures):
            scale = min((CELL[0] - 4) / picture.width, (height - 4) / picture.height)
            shown = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)
            sheet.paste(shown, (left + number * CELL[0] + (CELL[0] - shown.width) // 2, top + (height - shown.height) // 2))
        draw.text((left + 4, top + height + 2), _fitted(text, width - 8, font), fill=INK, font=font)
    return sheet


def _fitted(text: str, width: int, font: "ImageFont.ImageFont | ImageFont.FreeTypeFont") -> str:
    """`text`, its middle left out where it is too long: an id's end tells more than its middle. ASCII only, as the font is."""
    plain = text.encode("ascii", "replace").decode()
    kept = len(plain)
    while kept > 8 and font.getlength(plain) > width:
        kept -= 2
        plain = f"{text[: kept // 2]}...{text[len(text) - kept // 2 :]}".encode("ascii", "replace").decode()
    return plain
