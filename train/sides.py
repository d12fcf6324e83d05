"""Clips of an index as a method is given them: read, scaled by the backbone's rule, padded, checked for NaN.

Latents are stored raw. They become (z - mean) / std * factor, computed in float64 a channel at a time and rounded
once to float32, straight from the mapped file into the batch. Exercised by `pytest tests/train/test_data.py tests/train/test_sides.py`.

Shapes: B clips, C channels, T latent frames, H W latent rows and columns, M text rows, E their width, G keywords.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from train.batch import Side
from train.cells import CellReader, Place, remedy
from train.draws import DEFAULT, Draws, noised, posterior
from train.samples import Index
from vapdata.backbones import Backbone, VaeFacts
from vapdata.errors import CallError, CatalogDamaged

TEXTS = ("text", "pooled", "words")
"""Roles of which dropout takes the empty prompt's, and guidance the negative one's."""
MASKED = ("text", "words")
"""Those padded with rows that are no tokens: a field `ROLE_mask` says which are."""
KEYWORDS = ("keyword_maps", "keyword_anchors", "keyword_spans")
"""Roles about the words of a clip's own caption: of as many rows as it has keywords, of none when it is given another text."""
NOISED = "noised"
"""The role of noised first frames: another source of `first`."""
SCRATCH = 1 << 18
"""Numbers of a latent that are scaled together: 2 MB in float64."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One clip to be read."""

    clip: int
    """Its number in the index."""
    text: int
    """The number of the clip, or of the constant, whose text it is given."""
    draw: int | None = None
    """The seed of what is drawn of its tensors (see `train.draws`); None: means, and the clean first frame."""


class Sides:
    """Makes sides of clips by number."""

    def __init__(self, index: Index, facts: Backbone, reader: CellReader, *, draws: Draws = DEFAULT, pin: bool = False) -> None:
        """`draws`: what is drawn for picks that have a seed; `pin`: batches lie in page-locked memory, from which a GPU copies without waiting."""
        self.index, self.facts, self.reader, self.draws, self.pin = index, facts, reader, draws, pin
        self._fill: Mapping[str, Callable[[list[Tensor], list[Place]], Tensor]] = {
            "video": self._video,
            "first": self._image,
            "condition": self._image,
            "text": lambda raw, places: self._rows("text", raw, places),
            "words": lambda raw, places: self._rows("words", raw, places),
            "pooled": self._plain,
            "image_tokens": self._plain,
            "masks": self._plain,
            "picture": self._picture,
        }

    def places(self, pick: Pick) -> Iterator[Place]:
        """Everything that is read for one clip."""
        roles = (each.role for each in self.index.products if each.role != NOISED)
        return (self._place(role, pick) for role in roles if role not in KEYWORDS or pick.text == pick.clip)

    def side(self, picks: Sequence[Pick], *, check: bool = False) -> Side:
        """These clips as one side. `check` verifies page checksums. Raises CatalogDamaged that names clip and file."""
        found: dict[str, Any] = {each.role: self._made(each.role, picks, check) for each in self.index.products if each.role not in (*KEYWORDS, NOISED)}
        found |= self._masks(found, picks)
        if self.index.reads.empty:
            found["empty"] = self.prompt("empty", len(picks))["text"]
        if self.index.reads.keywords:
            found |= self._keywords(picks, check)
        return Side(clip_ids=tuple(self.index.clip_ids[pick.clip] for pick in picks), **found)

    def prompt(self, which: str, count: int) -> dict[str, Tensor]:
        """The empty or the negative prompt, `count` times, as the fields of a `Side` that speak of the caption."""
        if not self.index.reads.text:
            raise CallError(f"train.{self.index.method} reads no captions, so its index holds no {which} prompt")
        number = self.index.constant(which)
        picks = [Pick(clip=number, text=number)]
        found = {each.role: self._made(each.role, picks, False) for each in self.index.products if each.role in TEXTS}
        return {name: value.expand(count, *value.shape[1:]) for name, value in (found | self._masks(found, picks)).items()}

    def _masks(self, found: Mapping[str, Tensor], picks: Sequence[Pick]) -> dict[str, Tensor]:
        """Which rows of the padded texts in `found` are true tokens."""
        lengths = {role: torch.tensor([self.index.length(role, pick.text) for pick in picks]) for role in MASKED if role in found}
        return {f"{role}_mask": text_mask(length, found[role].shape[1]) for role, length in lengths.items()}

    def _keywords(self, picks: Sequence[Pick], check: bool) -> dict[str, Tensor]:
        """Maps, anchors, spans and mask of the keywords, zeros below a clip's own."""
        own = [place for place, pick in enumerate(picks) if pick.text == pick.clip]
        places = {role: [self._place(role, picks[place]) for place in own] for role in KEYWORDS}
        self._check_keywords(places)
        counts = torch.zeros(len(picks), dtype=torch.long)
        for clip, place in zip(own, places[KEYWORDS[0]], strict=True):
            counts[clip] = place.shape[0]
        most = int(counts.max())
        made = {role: self._ragged(role, own, places[role], (len(picks), most), check) for role in KEYWORDS}
        made["keyword_spans"] = made["keyword_spans"][..., 2:].long()
        self._check_spans(made["keyword_spans"], own, places["keyword_spans"])
        return {**made, "keyword_mask": text_mask(counts, most)}

    def _check_keywords(self, places: Mapping[str, Sequence[Place]]) -> None:
        """Raises CatalogDamaged when maps, anchors and spans of a clip are of different numbers of keywords."""
        for maps, *others in zip(*places.values(), strict=True):
            for other in others:
                if other.shape[0] != maps.shape[0]:
                    counts = f"{other.product} has {other.shape[0]} keywords, {maps.product} {maps.shape[0]}"
                    raise CatalogDamaged(f"{other} in {self.index.catalog}: {counts}. {remedy(self.reader.catalog)}")

    def _check_spans(self, spans: Int64[Tensor, "B G 2"], own: Sequence[int], places: Sequence[Place]) -> None:
        """Raises CatalogDamaged when a keyword ends behind the last row that a text may have."""
        most = self.index.of("text").rows or 0
        for clip, place in zip(own, places, strict=True):
            last = int(spans[clip].max()) if spans[clip].numel() else 0
            if last > most:
                raise CatalogDamaged(f"{place} of {place.product} in {self.index.catalog}: a keyword ends at row {last}, texts have {most}. {remedy(self.reader.catalog)}")

    def _ragged(self, role: str, own: Sequence[int], places: list[Place], size: tuple[int, int], check: bool) -> Tensor:
        """A clip's rows, in float32, and zeros below; those of clips that are not among `own` are all zeros."""
        inner = self.index.inner(role)
        made = self._empty((*size, *inner), torch.float32).zero_()
        for clip, stored, place in zip(own, self.reader.read(places, check=check), places, strict=True):
            made[clip, : len(stored)].copy_(stored)
            self._check(made[clip], place)
        return made

    def _place(self, role: str, pick: Pick) -> Place:
        stored = NOISED if role == "first" and pick.draw is not None and self.index.reads.noised else role
        return self.index.place(stored, pick.text if role in TEXTS else pick.clip)

    def _made(self, role: str, picks: Sequence[Pick], check: bool) -> Tensor:
        places = [self._place(role, pick) for pick in picks]
        raw = self.reader.read(places, check=check)
        if role in ("video", "first"):
            raw = [self._drawn(role, each, pick) for each, pick in zip(raw, picks, strict=True)]
        return self._fill[role](raw, places)

    def _drawn(self, role: str, raw: Tensor, pick: Pick) -> Tensor:
        """What this pick is given of a stored tensor: the mean of a posterior, or what is drawn."""
        clip_id = self.index.clip_ids[pick.clip]
        if role == "first":
            return noised(raw, pick.draw, clip_id) if pick.draw is not None and self.index.reads.noised else raw
        if pick.draw is None or not self.draws.posterior or len(raw) == self.index.channels:
            return raw[: self.index.channels]
        return posterior(raw, pick.draw, clip_id)

    def _video(self, raw: list[Tensor], places: list[Place]) -> Tensor:
        return self._latents(raw, places, self.facts.vae.scaling_factor)

    def _image(self, raw: list[Tensor], places: list[Place]) -> Tensor:
        return self._latents(raw, places, self.facts.vae.image_scaling_factor)

    def _latents(self, raw: list[Tensor], places: list[Place], factor: float) -> Tensor:
        """Latents, scaled; of image latents the means."""
        channels = self.index.channels
        made = self._empty((len(raw), channels, *raw[0].shape[1:]), torch.float32)
        for out, latent, place in zip(made, raw, places, strict=True):
            scale_into(out, latent[:channels], self.facts.vae, factor)
            self._check(out, place)
        return made

    def _rows(self, role: str, raw: list[Tensor], places: list[Place]) -> Tensor:
        """Rows of each text, zeros below."""
        count = self.index.of(role).rows or 0
        made = self._empty((len(raw), count, raw[0].shape[1]), torch.float32)
        for out, rows, place in zip(made, raw, places, strict=True):
            if len(rows) > count:
                raise CatalogDamaged(f"{place} in {self.index.catalog}: a text of {len(rows)} rows, {self.facts.name} takes {count}. {remedy(self.reader.catalog)}")
            out[: len(rows)].copy_(rows)
            out[len(rows) :].zero_()
            self._check(out, place)
        return made

    def _plain(self, raw: list[Tensor], places: list[Place]) -> Tensor:
        """As stored, in float32."""
        made = self._empty((len(raw), *raw[0].shape), torch.float32)
        for out, stored, place in zip(made, raw, places, strict=True):
            out.copy_(stored)
            self._check(out, place)
        return made

    def _picture(self, raw: list[Tensor], places: list[Place]) -> Tensor:
        """Colours first."""
        height, width, colours = raw[0].shape
        made = self._empty((len(raw), colours, height, width), torch.uint8)
        for out, stored in zip(made, raw, strict=True):
            out.copy_(stored.permute(2, 0, 1))
        return made

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self.pin)

    def _check(self, tensor: Tensor, place: Place) -> None:
        """Raises CatalogDamaged unless every number is finite."""
        if torch.isfinite(tensor.sum()):  # a sum is finite only if its terms are, and costs a fifteenth of asking each
            return
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            apart = f'Leave the clip out: --where "clip_id <> \'{place.clip_id}\'". ' if place.clip_id else ""
            raise CatalogDamaged(f"{place} of {place.product} in {self.index.catalog}: {bad} of {tensor.numel()} numbers are NaN or infinite. {apart}{remedy(self.reader.catalog)}")


def scale_into(out: Float[Tensor, "C T H W"], raw: Shaped[Tensor, "C T H W"], vae: VaeFacts, factor: float) -> None:
    """Writes (raw - mean) / std * factor into `out`: float64, rounded once. As many channels at a time as stay in the cache."""
    moments = [torch.tensor(each, dtype=torch.float64)[:, None, None, None] if each else None for each in (vae.mean, vae.std)]
    step = max(1, SCRATCH // raw[0].numel())
    for first in range(0, len(raw), step):
        some = slice(first, first + step)
        scratch = raw[some].double()
        if moments[0] is not None:
            scratch.sub_(moments[0][some])
        if moments[1] is not None:
            scratch.div_(moments[1][some])
        if factor != 1:
            scratch.mul_(factor)
        out[some].copy_(scratch)


def text_mask(lengths: Shaped[Tensor, " B"], rows: int) -> Bool[Tensor, "B M"]:
    """True for as many rows of each text as it has tokens."""
    return torch.arange(rows) < lengths[:, None]
