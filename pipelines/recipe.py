"""What a recipe is: which filters and models score, which predicate selects, whose captions count, which encoders run at which grid.

Named recipes and those of one's own are looked up in `pipelines/recipes.py`. Exercised by
`pytest tests/pipelines/test_recipes.py`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vapdata.captioners.source import SourceCaption
from vapdata.clip import Sampling
from vapdata.errors import CallError
from vapdata.filters.brightness import Brightness
from vapdata.filters.clarity import Clarity
from vapdata.filters.cuts import Cuts
from vapdata.filters.extent import Extent
from vapdata.filters.motion import Motion
from vapdata.registry import did_you_mean
from vapdata.step import Captioner, Describer, Encoder, Filter, Judge, Product, kind_of, problems, step_name


@dataclass(frozen=True, kw_only=True)
class EncodeStage:
    """Encoders that share one decode and one pool of workers."""

    name: str
    encoders: tuple[Encoder, ...]
    cpus: float = 1.0
    """CPUs per worker; scaled down on a machine with fewer CPUs than stages."""
    gpus: float = 0.0
    """GPUs per worker where the cluster has any."""
    batch: int = 1
    """Clips per forward pass; part of the recipe, so that a repeated build repeats its bytes."""
    threads: int = 1
    """Threads of one worker's arithmetic."""

    @property
    def reads_frames(self) -> bool:
        """Whether the stage decodes video at all."""
        return any(encoder.reads & {"frames", "first"} for encoder in self.encoders)


@dataclass(frozen=True, kw_only=True)
class LookStage:
    """Steps that are shown a few frames of each clip: they share one decode and one pool of workers."""

    name: str
    steps: tuple[Judge | Describer, ...]
    cpus: float = 1.0
    """CPUs per worker; scaled down on a machine with fewer CPUs than stages."""
    gpus: float = 0.0
    """GPUs per worker where the cluster has any."""
    threads: int = 1
    """Threads of one worker's arithmetic."""

    @property
    def batch(self) -> int:
        """Clips that are held at once."""
        return max(step.batch for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One complete run over a source."""

    name: str
    backbone: str
    sampling: Sampling
    """Pixel grid of every product of this run."""
    cuts: Cuts = Cuts()
    scan: tuple[Filter, ...] = (Motion(), Clarity(), Brightness(), Extent())
    captions: tuple[Captioner, ...] = (SourceCaption(),)
    score: tuple[LookStage, ...] = ()
    """Models that score every clip, before the predicate is asked."""
    use_captions: tuple[tuple[str, str], ...] = (("source", "source"),)
    """(captioner, role) in order of preference; the first that a clip has is the text that is encoded."""
    where: str = "true"
    """Which clips are encoded: SQL over `clips_wide`."""
    caption: tuple[LookStage, ...] = ()
    """Models that describe the clips that are selected, before these are encoded."""
    encode: tuple[EncodeStage, ...] = ()

    def __post_init__(self) -> None:
        found = problems((*self.scan, *self.judges), self.encoders)
        if found:
            raise CallError(f"recipe {self.name} does not fit together: {'; '.join(found)}")

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """Every encoder, in order."""
        return tuple(encoder for stage in self.encode for encoder in stage.encoders)

    @property
    def lookers(self) -> tuple[Judge | Describer, ...]:
        """Every step that is shown a few frames, in order."""
        return tuple(step for stage in (*self.score, *self.caption) for step in stage.steps)

    @property
    def judges(self) -> tuple[Judge, ...]:
        """Those of them that score."""
        return tuple(step for step in self.lookers if kind_of(step) == "judge")

    @property
    def describers(self) -> tuple[Describer, ...]:
        """Those of them that describe."""
        return tuple(step for step in self.lookers if kind_of(step) == "describer")

    def weights(self) -> list[Any]:
        """The weight files that its steps need."""
        return [weight for step in (*self.lookers, *self.encoders) for weight in step.weights()]

    def products(self) -> tuple[Product, ...]:
        """What its encoders write."""
        return tuple(product for encoder in self.encoders for product in encoder.products())

    def score_kinds(self) -> dict[str, str]:
        """Names of the scores that its steps write: `value` or `label`."""
        return {name: kind for step in (*self.scan, *self.judges) for name, kind in step.writes().items()}

    def steps(self) -> dict[str, Any]:
        """The steps that `--set step.field=value` may speak of, by name; a name without variant is of every encoder that has it."""
        named = {step.name: step for step in (*self.scan, *self.captions, *self.lookers, *self.encoders)}
        return {"cuts": self.cuts, "sampling": self.sampling, "recipe": self, **named, **{step_name(each): each for each in (*self.lookers, *self.encoders)}}

    def describe(self) -> dict[str, Any]:
        """The recipe as JSON-able data, for the `runs` table."""
        return dataclasses.asdict(self)


def with_describer(made: Recipe, describer: Describer) -> Recipe:
    """`made` with one more stage, in which `describer` describes the selected clips; on a GPU of its own where it has weights."""
    stage = LookStage(name=step_name(describer), steps=(describer,), gpus=1.0 if describer.weights() else 0.0)
    return dataclasses.replace(made, caption=(*made.caption, stage))


def preferring(made: Recipe, captioner: str) -> Recipe:
    """`made`, encoding the texts of `captioner`, one of its describers, before all others; its roles in the order of its prompts."""
    own = [(step.name, role) for step in made.describers if step.name == captioner for role in step.writes()]
    return dataclasses.replace(made, use_captions=(*own, *(each for each in made.use_captions if each not in own)))


def with_settings(made: Recipe, settings: Sequence[tuple[str, str, Any]]) -> Recipe:
    """`made` with (step, field, value) replaced, each checked against the step's dataclass. Raises CallError."""
    for step, field, value in settings:
        made = _with_setting(made, step, field, value)
    return made


def _with_setting(made: Recipe, step: str, field: str, value: Any) -> Recipe:
    steps = made.steps()
    if step not in steps:
        raise CallError(f"--set {step}.{field}: recipe {made.name} has no step {step!r}{did_you_mean(step, steps)}. It has {', '.join(steps)}")
    fields = [each.name for each in dataclasses.fields(steps[step])]
    if field not in fields:
        raise CallError(f"--set {step}.{field}: {step} has no field {field!r}{did_you_mean(field, fields)}. It has {', '.join(fields)}")
    if step == "recipe":
        return dataclasses.replace(made, **{field: value})
    if step == "sampling":
        sampling = dataclasses.replace(made.sampling, **{field: value})
        return dataclasses.replace(made, sampling=sampling, encode=_swap_in_stages(made.encode, lambda each: _with_sampling(each, sampling)))

    def changed(each: Any) -> Any:
        return dataclasses.replace(each, **{field: value}) if step in (each.name, step_name(each)) else each

    return dataclasses.replace(
        made,
        cuts=dataclasses.replace(made.cuts, **{field: value}) if step == "cuts" else made.cuts,
        scan=tuple(changed(each) for each in made.scan),
        captions=tuple(changed(each) for each in made.captions),
        score=tuple(dataclasses.replace(stage, steps=tuple(changed(each) for each in stage.steps)) for stage in made.score),
        caption=tuple(dataclasses.replace(stage, steps=tuple(changed(each) for each in stage.steps)) for stage in made.caption),
        encode=_swap_in_stages(made.encode, changed),
    )


def _swap_in_stages(stages: tuple[EncodeStage, ...], swap: Callable[[Any], Any]) -> tuple[EncodeStage, ...]:
    return tuple(dataclasses.replace(stage, encoders=tuple(swap(each) for each in stage.encoders)) for stage in stages)


def _with_sampling(encoder: Any, sampling: Sampling) -> Any:
    return dataclasses.replace(encoder, sampling=sampling) if hasattr(encoder, "sampling") else encoder
