"""Named complete runs, as functions: a recipe is a list that a film editor could read.

    vapdata build --recipe tiny            the embedded default: small models, CPU, no network
    vapdata build --recipe mine.py:night   a function in a file of your own that returns a Recipe

A recipe says which filters score, which predicate selects, whose captions count and which encoders run at which
pixel grid. Thresholds are SQL (`where`), so moving one touches no video. Exercised by
`pytest tests/pipelines/test_recipes.py`.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vapdata.clip import Sampling
from vapdata.captioners.source import SourceCaption
from vapdata.encoders.clip_mask import ClipMask
from vapdata.encoders.first_frame import FirstFrame
from vapdata.encoders.t5 import T5
from vapdata.encoders.vae import Vae
from vapdata.encoders.vae_first import VaeFirst
from vapdata.errors import CallError
from vapdata.filters.brightness import Brightness
from vapdata.filters.clarity import Clarity
from vapdata.filters.cuts import Cuts
from vapdata.filters.extent import Extent
from vapdata.filters.motion import Motion
from vapdata.registry import did_you_mean
from vapdata.step import Captioner, Encoder, Filter, Product, problems


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
class Recipe:
    """One complete run over a source."""

    name: str
    backbone: str
    sampling: Sampling
    """Pixel grid of every product of this run."""
    cuts: Cuts = Cuts()
    scan: tuple[Filter, ...] = (Motion(), Clarity(), Brightness(), Extent())
    captions: tuple[Captioner, ...] = (SourceCaption(),)
    use_captions: tuple[tuple[str, str], ...] = (("source", "source"),)
    """(captioner, role) in order of preference; the first that a clip has is the text that is encoded."""
    where: str = "true"
    """Which clips are encoded: SQL over `clips_wide`."""
    encode: tuple[EncodeStage, ...] = ()

    def __post_init__(self) -> None:
        found = problems(self.scan, self.encoders)
        if found:
            raise CallError(f"recipe {self.name} does not fit together: {'; '.join(found)}")

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """Every encoder, in order."""
        return tuple(encoder for stage in self.encode for encoder in stage.encoders)

    def products(self) -> tuple[Product, ...]:
        """Everything this recipe writes besides tables and thumbnails."""
        return tuple(product for encoder in self.encoders for product in encoder.products())

    def score_kinds(self) -> dict[str, str]:
        """Names of the scores that the scan writes: `value` or `label`."""
        return {name: kind for step in self.scan for name, kind in step.writes().items()}

    def steps(self) -> dict[str, Any]:
        """The steps that `--set step.field=value` may speak of, by name."""
        named = {step.name: step for step in (*self.scan, *self.captions, *self.encoders)}
        return {"cuts": self.cuts, "sampling": self.sampling, "recipe": self, **named}

    def describe(self) -> dict[str, Any]:
        """The recipe as JSON-able data, for the `runs` table."""
        return dataclasses.asdict(self)


def tiny() -> Recipe:
    """Small clips for the embedded CogVideoX-class models: 9 frames of 96 x 160, CPU, no network."""
    return _cogvideox("tiny-cogvideox", Sampling(frames=9, height=96, width=160, fps=16))


def cogvideox_2b() -> Recipe:
    """Clips for CogVideoX-2B as Frame-wise Conditioning Adaptation reads them: 16 frames of 480 x 720 at 8 fps."""
    return _cogvideox("cogvideox-2b", Sampling(frames=16, height=480, width=720, fps=8), gpus=1.0)


def cogvideox_5b_i2v() -> Recipe:
    """Clips for CogVideoX-5B-I2V as Video-As-Prompt reads them: 49 frames of 480 x 720 at 16 fps."""
    return _cogvideox("cogvideox-5b-i2v", Sampling(frames=49, height=480, width=720, fps=16), gpus=1.0)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "tiny-cogvideox": tiny,
    "cogvideox-2b": cogvideox_2b,
    "cogvideox-5b-i2v": cogvideox_5b_i2v,
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`, or the one that `file.py:function` returns. Raises CallError."""
    if name in RECIPES:
        return RECIPES[name]()
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), function)
    raise CallError(f"{name!r} is no recipe{did_you_mean(name, RECIPES)}. Known: {', '.join(RECIPES)}; or give one of your own as file.py:function.")


def with_settings(made: Recipe, settings: Sequence[tuple[str, str, Any]]) -> Recipe:
    """`made` with (step, field, value) replaced, each checked against the step's dataclass. Raises CallError."""
    for step, field, value in settings:
        made = _with_setting(made, step, field, value)
    return made


def own_modules() -> tuple[ModuleType, ...]:
    """Modules that `file.py:function` recipes were loaded from: workers cannot import these by name."""
    return tuple(_OWN_MODULES.values())


_OWN_MODULES: dict[str, ModuleType] = {}


def _cogvideox(backbone: str, sampling: Sampling, *, gpus: float = 0.0) -> Recipe:
    pixels: Mapping[str, Any] = {"backbone": backbone, "sampling": sampling}
    picture = (FirstFrame(sampling=sampling), ClipMask(backbone=backbone, sampling=sampling))
    latents = (Vae(**pixels), VaeFirst(**pixels, first=1), VaeFirst(**pixels, first=2))
    text = (T5(backbone=backbone),)
    if gpus:
        stages = (
            EncodeStage(name="encode", encoders=(*picture, *latents), gpus=gpus, batch=4, cpus=2.0),
            EncodeStage(name="text", encoders=text, gpus=gpus, batch=16),
        )
    else:
        stages = (EncodeStage(name="encode", encoders=(*picture, *latents, *text)),)
    return Recipe(name=backbone, backbone=backbone, sampling=sampling, encode=stages)


def _from_file(path: Path, function: str) -> Recipe:
    if not path.is_file():
        raise CallError(f"recipe file {path} is not there; give the path of a Python file, then a colon and a function in it")
    name = f"vapdata_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CallError(f"recipe file {path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    _OWN_MODULES[name] = module
    if not callable(getattr(module, function, None)):
        raise CallError(f"{path} has no function {function!r} that returns a Recipe")
    made = getattr(module, function)()
    if not isinstance(made, Recipe):
        raise CallError(f"{path}:{function} returned {type(made).__name__}, wanted pipelines.recipes.Recipe")
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
        return dataclasses.replace(each, **{field: value}) if each.name == step else each

    return dataclasses.replace(
        made,
        cuts=dataclasses.replace(made.cuts, **{field: value}) if step == "cuts" else made.cuts,
        scan=tuple(changed(each) for each in made.scan),
        captions=tuple(changed(each) for each in made.captions),
        encode=_swap_in_stages(made.encode, changed),
    )


def _swap_in_stages(stages: tuple[EncodeStage, ...], swap: Callable[[Any], Any]) -> tuple[EncodeStage, ...]:
    return tuple(dataclasses.replace(stage, encoders=tuple(swap(each) for each in stage.encoders)) for stage in stages)


def _with_sampling(encoder: Any, sampling: Sampling) -> Any:
    return dataclasses.replace(encoder, sampling=sampling) if hasattr(encoder, "sampling") else encoder
