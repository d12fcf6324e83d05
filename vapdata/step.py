"""The shape of a step: what every plug-in declares, and what opening it gives.

A plug-in is a frozen dataclass in a file of its own. Its fields are its settings; `open()` loads weights on the
worker and returns the thing that works. Protocols, not base classes. `problems` checks that a list of steps
fits together before anything starts. Exercised by `pytest tests/vapdata/test_step.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Author, BadRow, Caption, Clip, Look, Role, Sample, Score, Video
from vapdata.errors import ClipError

Table = Literal["frames", "masks", "latents", "texts", "features"]
DType = Literal["bf16", "f16", "f32", "u8", "webp"]


@runtime_checkable
class Source(Protocol):
    """A dataset on disk. Listing it opens no video."""

    name: ClassVar[str]
    root: str
    """Folder that the dataset lies in."""
    dataset: str
    """First part of every id; the source's name unless `--name` says otherwise."""

    def list(self) -> Iterator[Video | BadRow]:
        """Every video that the dataset names, present or not, and every row that could not be read.

        The order does not matter: planning sorts by video_id. Raises CallError when `root` is not such a dataset.
        """
        ...

    def present(self) -> Mapping[str, int]:
        """`Video.uri` -> bytes of every file that is there, by one walk over the tree."""
        ...

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """Names of the dataset's own scores, so that a predicate may speak of them before the first build."""
        ...


@runtime_checkable
class Meter(Protocol):
    """One filter at work on one clip."""

    def add(self, frame: UInt8[np.ndarray, "h w 3"], time_s: float) -> None:
        """Takes the next sampled frame, RGB at the scan size, and its time in the clip."""
        ...

    def finish(self) -> list[Score]:
        """The scores. Raises ClipError when the clip cannot be scored."""
        ...


@runtime_checkable
class Filter(Protocol):
    """A number or label about a clip. Never drops anything.

    One that looks at more than pictures has `needs: ClassVar[frozenset[str]]`, some of `pixels`, `detail` and `vectors`
    (what `vapdata.video.Fit` can bring), and a meter with `add_frame`; without it, pictures are all that it gets.
    """

    name: ClassVar[str]
    fps: float
    """Sampling rate that `add` is called at, from the clip's first frame on."""

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """Names in `scores.filter`, and whether each is a number or a label."""
        ...

    def open(self) -> Callable[[Clip], Meter]:
        """Loads what it needs; the result starts one meter per clip."""
        ...


@runtime_checkable
class Captioner(Protocol):
    """Texts about clips."""

    name: ClassVar[str]

    def open(self) -> Callable[[Video, Clip], list[Caption]]:
        """Loads what it needs; the result gives the captions of one clip."""
        ...


@dataclass(frozen=True, kw_only=True)
class Described:
    """What came of describing one clip: the captions that were written, and why another was not."""

    captions: tuple[Caption, ...] = ()
    failure: ClipError | None = None


@runtime_checkable
class OpenDescriber(Protocol):
    """A describer with its model loaded or its server known."""

    def describe(self, samples: Sequence[Sample]) -> Mapping[str, Described]:
        """By `clip_id`, what came of each sample; none is missing. Samples have `frames` and `times_s`.

        One clip's trouble is its own `failure`. Raises CallError where no clip can succeed (a wrong key, a wrong address).
        """
        ...

    def close(self) -> None:
        """Lets go of connections and models."""
        ...


@runtime_checkable
class Describer(Protocol):
    """Texts about clips from a few frames of each, by a model. Stands in CAPTIONERS beside those that read the dataset's text."""

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]]
    """`frames`: this is what tells a Describer from a Captioner."""
    batch: int
    """Clips that `describe` is best given at once."""

    @property
    def look(self) -> Look:
        """Which frames it is shown."""
        ...

    def ready(self) -> None:
        """Raises CallError where it could not be opened on this machine: a key that is not set, a package that is not installed."""
        ...

    def writes(self) -> Mapping[Role, Author]:
        """The roles it writes, and as whose. Cheap: loads no weights. A clip whose row has another author is described anew."""
        ...

    def weights(self) -> Sequence[Any]:
        """The weight files it needs (see vapdata/weights.py)."""
        ...

    def open(self, device: str | None = None) -> OpenDescriber:
        """Loads the model; `device` None picks the GPU when there is one."""
        ...


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What came of judging one clip: scores and tensors, or why there are none."""

    scores: tuple[Score, ...] = ()
    cells: "tuple[Cell, ...]" = ()
    failure: ClipError | None = None


@runtime_checkable
class OpenJudge(Protocol):
    """A judge with its model loaded."""

    def judge(self, samples: Sequence[Sample]) -> Mapping[str, Judged]:
        """By `clip_id`, what came of each sample; none is missing. Samples have `frames`, `times_s` and, where read, `caption`."""
        ...

    def close(self) -> None:
        """Lets go of what it holds."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Scores of clips by a model that is shown a few frames of each. Stands in FILTERS beside those that watch the scan."""

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]]
    """`frames`, and `caption` where the clip's text goes in: a clip without one then gets no row. Tells a Judge from a Filter."""
    batch: int
    """Clips that `judge` is best given at once."""

    @property
    def look(self) -> Look:
        """Which frames it is shown. Steps with equal looks are shown the very same arrays."""
        ...

    def writes(self) -> Mapping[str, Literal["value", "label"]]:
        """Names in `scores.filter`, and whether each is a number or a label."""
        ...

    def products(self) -> "tuple[Product, ...]":
        """The tensors it writes beside scores, if any. Cheap: loads no weights."""
        ...

    def weights(self) -> Sequence[Any]:
        """The weight files it needs (see vapdata/weights.py)."""
        ...

    def open(self, device: str | None = None) -> OpenJudge:
        """Loads the model; `device` None picks the GPU when there is one."""
        ...


@dataclass(frozen=True, kw_only=True)
class Product:
    """What one encoder output is called, which table lists it, and the settings that decide its bytes."""

    name: str
    table: Table
    model_id: str
    revision: str
    dtype: DType
    settings: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able; stands once in `tensors/<name>/settings.json`, and a run with others is refused."""
    reads_caption: bool = False
    """True when the text goes into the bytes: such a row is stale when the caption changes."""
    without_caption: Literal["empty", "none"] = "none"
    """For a clip without caption: encode the text '' (`texts`), or write no row (`masks`)."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One tensor of one product: a row of a tensor file and of the product's table."""

    product: str
    clip_id: str | None
    """None for rows that belong to no clip: the empty and the negative prompt."""
    data: np.ndarray | bytes
    """float32 (or float16) array for bf16/f16/f32, uint8 array for u8, encoded bytes for webp."""
    shape: tuple[int, ...]
    caption: Caption | None = None
    """The text that went in, if any."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the product's table, e.g. `length`, `pixel_frames`, `geometry`."""


@runtime_checkable
class OpenEncoder(Protocol):
    """An encoder with its weights loaded."""

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """The cells of each sample, in the samples' order. Raises ClipError only when every sample fails alike."""
        ...

    def constants(self) -> list[Cell]:
        """Cells that belong to no clip."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Clips to tensors. One encoder may write several products.

    Where a recipe may have several of one name, a property `variant` (str) tells them apart: see `step_name`.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]]
    """Some of `frames`, `first` and `caption`."""

    def products(self) -> tuple[Product, ...]:
        """What it writes. Cheap: loads no weights."""
        ...

    def weights(self) -> Sequence[Any]:
        """The weight files it needs (see vapdata/weights.py)."""
        ...

    def open(self, device: str | None = None) -> OpenEncoder:
        """Loads the weights; `device` None picks the GPU when there is one."""
        ...


def kind_of(step: Any) -> Literal["filter", "judge", "captioner", "describer", "encoder"]:
    """Which of the protocols a step answers to; protocols that ask for less would take others in as well."""
    if hasattr(step, "look"):
        return "judge" if hasattr(step, "products") else "describer"
    if hasattr(step, "reads"):
        return "encoder"
    return "filter" if hasattr(step, "writes") else "captioner"


def step_name(step: Filter | Judge | Captioner | Describer | Encoder) -> str:
    """What a step is called in `failures`, by `--set` and `--step`: its name, and its variant if it has one (`vae_first-2`).

    A function of the step alone, so that every recipe calls it the same.
    """
    variant = getattr(step, "variant", "")
    return f"{step.name}-{variant}" if variant else step.name


def problems(filters: Sequence[Filter | Judge], encoders: Sequence[Encoder]) -> list[str]:
    """Why these steps do not fit together, a sentence each: two that write one score or one product, or have one name."""
    found = []
    seen: dict[str, str] = {}
    for step in filters:
        for score in step.writes():
            if score in seen:
                found.append(f"filters {seen[score]} and {step.name} both write the score {score}")
            seen.setdefault(score, step.name)
    made: dict[str, str] = {}
    for encoder in encoders:
        for product in encoder.products():
            if product.name in made:
                found.append(f"encoders {made[product.name]} and {step_name(encoder)} both write the product {product.name}")
            made.setdefault(product.name, step_name(encoder))
    names = Counter(step_name(encoder) for encoder in encoders)
    found += [f"{count} encoders are called {name}: give their class a property `variant`, or write a recipe for each" for name, count in names.items() if count > 1]
    return found
