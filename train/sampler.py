"""Videos of a method at work: what is asked for, made, decoded and written, beside what it was asked to be like.

The command line (train/sample.py) and the loop, while it trains, make them here. Exercised by `pytest tests/train/test_sample.py`.
"""

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from train.batch import Side
from train.data import Loader
from train.decode_latents import Decoder
from train.denoise import Guidance, denoise, scheduler_from
from train.method import Backbone, Guided, MethodModule
from train.objective import seed_of
from train.sheet import Row, sheet
from train.world import World
from vapdata.errors import RunError
from vapdata.video_file import write

log = logging.getLogger("train")

SHEET, LIST = "sheet.png", "samples.json"
LONGEST_NAME = 80
"""Characters of a clip's id that go into a file's name."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One video to be made. Its sides hold one clip each."""

    name: str
    """What the video is told by: the target's clip id."""
    prompt: str
    """Its caption, for the sheet; what the method is given stands in `target`."""
    target: Side
    references: tuple[Side, ...]
    seed: int
    condition: str = ""
    """What target and references share, for the sheet."""
    image: np.ndarray | None = None
    """The picture it is to start from, (h, w, 3), where there is no target to be shown."""


def requests(loader: Loader, samples: Sequence[int], seed: int, prompts: Mapping[str, str] | None = None) -> list[Request]:
    """The samples of these numbers with the references of epoch 0. `prompts`: clip id -> caption, for the sheet."""
    made = []
    for number in samples:
        batch, sample = loader.grid([number], torch.zeros(1), [0]), loader.index.samples[number]
        prompt = (prompts or {}).get(sample.target, "")
        noise = seed_of(seed, 0, 0, sample.target)
        made.append(Request(name=sample.target, prompt=prompt, target=batch.target, references=batch.references, seed=noise, condition=", ".join(sample.conditions)))
    return made


def write_samples(
    module: MethodModule | None,
    backbone: Backbone,
    loader: Loader,
    samples: Sequence[int],
    folder: Path,
    *,
    steps: int,
    guidance: float,
    seed: int,
    together: World | None = None,
) -> Path:
    """Samples those numbers of the loader's index into `folder`; returns the contact sheet's path. Leaves the module as it was.

    `together`: every process of this world calls it, for a forward pass needs them all; the first one writes.
    """
    sampler = Sampler(module, backbone, loader, steps=steps, guidance=Guidance(scale=guidance))
    made = requests(loader, samples, seed)
    if together is None:
        return sampler.write(made, folder)
    latents = [sampler.latents(request) for request in made]
    together.first_alone(lambda: sampler.write(made, folder, latents))
    return folder / SHEET


class Sampler:
    """A method, its backbone and the backbone's VAE, ready to make videos."""

    def __init__(self, module: MethodModule | None, backbone: Backbone, loader: Loader, *, steps: int, guidance: Guidance) -> None:
        """`module` None samples the backbone alone. Raises MissingWeights when the VAE is not on this machine."""
        self.module, self.backbone, self.loader, self.steps, self.guidance = module, backbone, loader, steps, guidance
        self.device = next(backbone.transformer.parameters()).device
        self.scheduler = scheduler_from(backbone.scheduler_config)
        self.decoder = Decoder(backbone.facts, self.device)

    def write(self, made: Sequence[Request], folder: Path, latents: Sequence[Tensor] | None = None) -> Path:
        """One mp4 for each request, `samples.json` that lists them, and `sheet.png`, whose path is returned. `latents` where they are made already."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be written ({error.strerror}). Give an --out that can") from error
        rows, listed, fps = [], [], shown_fps(self.loader.index.product, self.backbone.facts.fps)
        for place, request in enumerate(made):
            video = self.shown(self.latents(request) if latents is None else latents[place])
            file = f"{place:02d}-{_file_name(request.name)}.mp4"
            write(folder / file, iter(video), fps)
            rows.append(self._row(request, video))
            listed.append({"file": file, **self._described(request)})
            log.info("%s (%d of %d)", file, place + 1, len(made))
        (folder / LIST).write_text(json.dumps(listed, indent=1, ensure_ascii=False))
        sheet(_titles(made), rows).save(folder / SHEET)
        return folder / SHEET

    def latents(self, request: Request) -> Float[Tensor, "1 C T H W"]:
        """The latents of the video that is asked for."""
        target, references = request.target.to(self.device), tuple(side.to(self.device) for side in request.references)
        negative = self.loader.prompt(self.module.negative_prompt if isinstance(self.module, Guided) else "negative", target)
        with _evaluating(self.module):
            made: Tensor = denoise(
                self.module,
                self.backbone,
                target,
                references,
                steps=self.steps,
                guidance=self.guidance.scale,
                dynamic=self.guidance.dynamic,
                reference_guidance=self.guidance.reference,
                seeds=[request.seed],
                negative=negative,
                scheduler=self.scheduler,
            )
        return made

    def shown(self, latents: Float[Tensor, "1 C T H W"]) -> UInt8[np.ndarray, "t h w 3"]:
        """Latents of one clip as frames."""
        return self.decoder.frames(latents)[0]

    def _row(self, request: Request, video: np.ndarray) -> Row:
        target = self.shown(request.target.video) if request.image is None else request.image[None]
        after = " and ".join(side.clip_ids[0] for side in request.references)
        label = [request.name, f"reference {after}" if after else "", request.condition]
        return Row(
            label=" · ".join(part for part in label if part),
            text=request.prompt or request.name,
            videos=(*(self.shown(side.video) for side in request.references), target, video),
        )

    def _described(self, request: Request) -> dict[str, Any]:
        return {
            "target": request.name,
            "references": [side.clip_ids[0] for side in request.references],
            "condition": request.condition,
            "prompt": request.prompt,
            "seed": request.seed,
            "steps": self.steps,
            "guidance": self.guidance.scale,
            "dynamic": self.guidance.dynamic,
            "reference_guidance": self.guidance.reference,
        }


def shown_fps(product: str, otherwise: float) -> float:
    """Frames per second that a product of video latents was sampled at, from its name; `otherwise` where that says none."""
    found = re.search(r"-(\d+(?:\.\d+)?)fps$", product)
    return float(found[1]) if found else otherwise


@contextlib.contextmanager
def _evaluating(module: MethodModule | None) -> Iterator[None]:
    """The module in eval mode, and back as it was."""
    if not isinstance(module, nn.Module):
        yield
        return
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)


def _titles(made: Sequence[Request]) -> tuple[str, ...]:
    count = len(made[0].references)
    references = ("reference",) if count == 1 else tuple(f"reference {place + 1}" for place in range(count))
    return (*references, "target" if made[0].image is None else "image", "result")


def _file_name(clip_id: str) -> str:
    """The end of a clip's id, without the suffix of its own file, as a file may be named anywhere."""
    bare = re.sub(r"\.[A-Za-z0-9]{2,4}$", "", clip_id)
    return re.sub(r"[^A-Za-z0-9.-]+", "_", bare)[-LONGEST_NAME:].strip("._-") or "clip"
