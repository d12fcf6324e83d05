"""Conditions that an image-to-video model with a LoRA makes, and the file that lists them.

    vapdata pairs --catalog catalog --provider lora --set lora.config=loras.yaml

```yaml
license: "see each LoRA"           # for conditions that state none
conditions:
  - condition: squish
    category: concept              # concept, style, motion or camera
    model: cogvideox-5b-i2v        # a backbone's name, a hub id, or a folder with model_index.json
    lora: someone/squish           # a hub id, a folder, or a .safetensors file beside this one
    file: pytorch_lora_weights.safetensors   # inside the first two; this is the default
    trigger: "SQUISH_IT"           # the words that it was trained with
    strength: 0.9                  # 1 is as it was trained; the default
    prompt: "{trigger} {caption}"  # with the picture's caption; the default
    sentence: "A hand squishes it like clay."  # what happens, for captions of the made videos
    seeds: 1                       # videos per picture
    license: "Apache-2.0"
    # and, where they are not the pipeline's or the recipe's own: negative, steps, guidance, frames, height, width, fps
```

Nothing is fetched: models and LoRAs lie in folders or in the hub's cache, in safetensors.
Exercised by `pytest tests/vapdata/conditions/test_lora.py`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vapdata.clip import Sampling
from vapdata.condition import GUESSED, Category, Facts, Member
from vapdata.conditions.configured import condition_of, only, read, refuse_twice, stamp_of
from vapdata.conditions.lora_files import LoraFile, Model, lora_file, model_of
from vapdata.errors import CallError

STRIDES = {"CogVideoXImageToVideoPipeline": 8}
"""Pipeline -> n, where a video has 1 + n k frames. All VAEs have 4 frames in a latent one; CogVideoX's decodes two at once, and
of an even number of latent frames makes 4 k frames instead of 1 + 4 (k - 1)."""
STRIDE = 4
SIZE_MULTIPLE = 16


@dataclass(frozen=True, kw_only=True)
class LoraCondition:
    """One condition that a LoRA makes."""

    name: str
    category: Category
    sentence: str
    """What happens, for captions."""
    model: Model
    lora: LoraFile
    trigger: str
    prompt: str
    """With `{trigger}` and `{caption}`."""
    strength: float
    takes: int
    """Videos per picture, each with a seed of its own."""
    license: str
    negative: str = ""
    steps: int | None = None
    """None, here and below: as the pipeline or the recipe has it."""
    guidance: float | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None

    @property
    def version(self) -> int:
        """31 bits of a hash of all that decides the pixels: another LoRA file or strength makes other videos, beside the old ones."""
        told = [self.draw(0), self.steps, self.guidance, self.frames, self.height, self.width, self.fps]
        return int.from_bytes(hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()[:4], "big") >> 1

    def draw(self, seed: int) -> dict[str, Any]:
        """What its lineage says; the seed decides the noise and nothing here."""
        return {
            "model": self.model.name,
            "model_sha256": self.model.sha256,
            "lora": self.lora.name,
            "lora_sha256": self.lora.sha256,
            "strength": self.strength,
            "trigger": self.trigger,
            "prompt": self.prompt,
            "negative": self.negative,
            "steps": self.steps,
            "guidance": self.guidance,
        }

    def asked(self, caption: str | None) -> str:
        """The prompt for a picture with this caption."""
        return " ".join(self.prompt.format(trigger=self.trigger, caption=(caption or "").strip()).split())

    def sampling(self, grid: Sampling) -> Sampling:
        """The recipe's pixel grid with this condition's own numbers. Raises CallError for one that the models cannot make."""
        own = {name: value for name in ("frames", "height", "width", "fps") if (value := getattr(self, name)) is not None}
        made = dataclasses.replace(grid, **own)
        stride = STRIDES.get(self.model.pipeline, STRIDE)
        if made.frames % stride != 1 or made.height % SIZE_MULTIPLE or made.width % SIZE_MULTIPLE:
            raise CallError(
                f"condition {self.name}: got {made.label()}, wanted 1 + {stride} n frames and sides that {SIZE_MULTIPLE} divides. "
                "Write frames, height and width to the condition, or type --recipe NAME"
            )
        return made


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Clips that an image-to-video model makes from a filmed clip's first frame, with a LoRA per condition.

    What: CogVideoX-I2V, Wan-I2V or HunyuanVideo-I2V through diffusers' own pipelines, one model load per worker, pictures
        grouped by LoRA. Every video is in place before the next begins, so that a run that was killed goes on with the
        next; where the GPU's memory does not suffice the model is offloaded, and its videos' lineage and the run say so.
    Reads: files of filmed clips that are as long as the recipe's; captions; the file `config`; models and LoRAs in safetensors.
    Writes: videos of dataset `vap` with parent, seed, prompt, hashes of model and LoRA, and licence; members with score 70.
    Default: nothing without a file; per condition four clips of training and one of each other split. The pixel grid is the recipe's.
    Cost: what the model takes: nothing was measured on a GPU yet.
    Fails when: the file, a model, a LoRA or the package peft is missing, or a LoRA fits nothing in its model (CallError, MissingWeights);
        a picture cannot be decoded or a video holds NaN (a row of `failures`).
    Source: how part of Video-As-Prompt's data were made (Bian et al. 2025); LoRA: Hu et al. 2021.
    """

    name: ClassVar[str] = "lora"
    config: str = ""
    """The file: YAML, or JSON."""
    seed: int = 0
    each: int = 4
    """Training clips per condition; a condition needs four for three references each."""
    each_held_out: int = 1
    """Clips per condition of each other split."""
    sources: int = 64
    """Training clips that all conditions choose from."""
    only: tuple[str, ...] = ()
    """Conditions to make; none named: all."""
    device: str | None = None
    """None: a GPU where there is one."""

    def __post_init__(self) -> None:
        if self.each < 1 or self.each_held_out < 0 or self.sources < self.each:
            raise CallError(f"lora: got each={self.each} each_held_out={self.each_held_out} sources={self.sources}; wanted 1, 0 and `each` or more")

    def programs(self) -> Mapping[str, LoraCondition]:
        """The conditions that are made, by name. Raises CallError for what is wrong in the file, MissingWeights for what is not here."""
        if not self.config:
            raise CallError("lora: no conditions are listed. Type --set lora.config=FILE (vapdata/conditions/lora.py shows one)")
        found = {each.name: each for each in _read(self.config, stamp_of(self.config, "a list of LoRAs. Type --set lora.config=FILE"))}
        unknown = [name for name in self.only if name not in found]
        if unknown:
            raise CallError(f"lora.only: {self.config} has no condition {unknown[0]!r}. It has {', '.join(found)}.")
        return {name: each for name, each in found.items() if not self.only or name in self.only}

    def reads(self) -> tuple[str, ...]:
        """No scores."""
        return ()

    def members(self, clips: Iterable[Facts]) -> Iterator[Member]:
        """The clips that today's models and LoRAs made."""
        programs = self.programs()
        for clip in clips:
            program = programs.get(clip.condition or "") if clip.provider == self.name else None
            if program is not None and clip.version == program.version:
                yield Member(clip_id=clip.clip_id, condition=program.name, category=program.category, score=GUESSED)


_NEEDED = ("condition", "category", "model", "lora", "sentence")
_NUMBERS = {"steps": int, "guidance": float, "frames": int, "height": int, "width": int, "fps": float}
_KNOWN = (*_NEEDED, "file", "trigger", "strength", "prompt", "seeds", "negative", "license", *_NUMBERS)


@functools.lru_cache(maxsize=8)
def _read(path: str, stamp: int) -> tuple[LoraCondition, ...]:
    """The file as it was at `stamp`: planning asks once per video."""

    def understand(said: Any) -> tuple[LoraCondition, ...]:
        said = only(said, ("license", "conditions"), "the file", ("conditions",))
        if not isinstance(said["conditions"], list) or not said["conditions"]:
            raise CallError("conditions: wanted a list of at least one")
        conditions = tuple(_condition(each, said.get("license"), Path(path).parent) for each in said["conditions"])
        refuse_twice(each.name for each in conditions)
        return conditions

    return read(path, understand, "vapdata/conditions/lora.py")


def _condition(said: Any, license: str | None, beside: Path) -> LoraCondition:
    said = only(said, _KNOWN, "a condition", _NEEDED)
    name, category = condition_of(said)
    trigger, prompt, strength, takes = str(said.get("trigger", "")), str(said.get("prompt", "{trigger} {caption}")), float(said.get("strength", 1.0)), int(said.get("seeds", 1))
    _refuse_prompt(name, prompt, trigger)
    if not 0 < abs(strength) <= 4 or takes < 1:  # written so that nan is refused
        raise CallError(f"condition {name}: got strength {strength:g} and seeds {takes}; wanted a strength up to 4 that is not 0, and 1 seed or more")
    if not (stated := said.get("license", license)):
        raise CallError(f"condition {name}: no license is stated, wanted the LoRA's. Write license: TEXT to it, or to the whole file")
    numbers = {each: kind(said[each]) for each, kind in _NUMBERS.items() if said.get(each) is not None}
    if any(not 0 < value < float("inf") for each, value in numbers.items() if each != "guidance"):
        raise CallError(f"condition {name}: got {numbers}, wanted steps, frames, height, width and fps above 0")
    return LoraCondition(
        name=name,
        category=category,
        sentence=str(said["sentence"]),
        model=model_of(_path(str(said["model"]), beside)),
        lora=lora_file(_path(str(said["lora"]), beside), said.get("file")),
        trigger=trigger,
        prompt=prompt,
        strength=strength,
        takes=takes,
        license=str(stated),
        negative=str(said.get("negative", "")),
        **numbers,
    )


def _refuse_prompt(name: str, prompt: str, trigger: str) -> None:
    """Raises CallError for a placeholder that is none, and for trigger words that the prompt leaves out."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None}
    except ValueError as error:
        raise CallError(f"condition {name}: prompt {prompt!r}: {error}; wanted text with {{trigger}} and {{caption}}") from error
    strange = sorted(fields - {"trigger", "caption"})
    if strange or (trigger and "trigger" not in fields):
        got = f"got {{{strange[0]}}}" if strange else "the trigger words are not in it"
        raise CallError(f"condition {name}: prompt {prompt!r}: {got}; wanted text with {{trigger}} and {{caption}}")


def _path(text: str, beside: Path) -> str:
    """A file or folder beside the list, where there is one of that name, else `text`."""
    near = beside / os.path.expanduser(text)
    return str(near) if near.exists() else text
