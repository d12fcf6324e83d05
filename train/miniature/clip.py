"""Trains the tiny CLIP on single frames of the miniature world and what their captions say is there.

    python -m train.miniature.clip --out FOLDER [--device cuda --workers 5 --steps 2500 --batch 512]

Half of the pictures hold two objects, and most captions of these name one of them. Which captions are true of which pictures is known,
so that a caption that also fits another picture of the batch counts neither for nor against it. Half of the patches are left out
while training (Li et al. 2023, "Scaling Language-Image Pre-training via Masking"), which halves the cost, and the text's context is
cut to CONTEXT, which changes nothing. Exercised by `pytest tests/train/miniature/test_clip.py`.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from train.miniature import clips, masks
from vapdata import tiny, tiny_draw
from vapdata.scenes import Scene, Thing, render

log = logging.getLogger("train")

SIZES = ((clips.SIDE, clips.SIDE), (clips.SIDE, clips.SIDE), (96, 160))
"""Height and width of the pictures, before they are squeezed into CLIP's square: those of the recipes `miniature`, twice as often, and `tiny`."""
KEPT_PATCHES = 0.5
"""Share of the patches that a picture keeps while training."""
CONTEXT = 16
"""Tokens of a text while training; the longest caption has 14. The text's attention is causal and its last token is what counts, so none of the later places has a part."""


@dataclass(frozen=True, kw_only=True)
class ClipRun:
    """How the CLIP is trained."""

    steps: int = 450
    batch: int = 96
    lr: float = 2e-3
    seed: int = 0
    device: str = "cpu"
    workers: int = 0
    """Processes that draw pictures beside the training; a step's pictures are the same with any number of them."""


Step = tuple[Float[Tensor, "b 3 side side"], list[str], Bool[Tensor, "b b"]]
"""Pictures, captions, and which captions are true of which pictures."""


class Drawn(Dataset[Step]):
    """The run's batches by step."""

    def __init__(self, run: ClipRun) -> None:
        self.run = run

    def __len__(self) -> int:
        return self.run.steps

    def __getitem__(self, step: int) -> Step:
        """Drawn from (seed, step) alone."""
        torch.set_num_threads(1)
        random = np.random.default_rng([self.run.seed, 4, step])
        scenes = [clips.trained_scene(random, two=place % 2 == 0) for place in range(self.run.batch)]
        captions = [told(random, scene) for scene in scenes]
        return pictures(random, scenes), [each.text for each in captions], torch.from_numpy(all_true(captions, scenes))


@dataclass(frozen=True, kw_only=True)
class Told:
    """A picture's caption, and what it claims is there."""

    text: str
    things: tuple[Thing, ...]
    ground: str | None


def told(random: np.random.Generator, scene: Scene) -> Told:
    """The scene's own words, or of two objects in three cases of four one alone."""
    if scene.other and random.random() < 0.75:
        named = scene.subject if random.random() < 0.5 else scene.other
        if random.random() < 0.5:
            return Told(text=named.words, things=(named,), ground=None)
        return Told(text=f"{named.words} on a {scene.ground} background", things=(named,), ground=scene.ground)
    return Told(text=scene.words, things=tuple(each for each in (scene.subject, scene.other) if each), ground=scene.ground)


def is_true(caption: Told, scene: Scene) -> bool:
    """Whether what the caption claims is there is there."""
    there = {(each.shape, each.colour) for each in (scene.subject, scene.other) if each}
    return {(each.shape, each.colour) for each in caption.things} <= there and caption.ground in (None, scene.ground)


def all_true(captions: list[Told], scenes: list[Scene]) -> Bool[np.ndarray, "pictures captions"]:
    """`is_true` of every caption and every scene, a hundred times faster."""
    numbers: dict[object, int] = {}

    def number(of: object) -> int:
        return numbers.setdefault(of, len(numbers))

    def things(named: Sequence[Thing]) -> list[int]:
        found = [number((each.shape, each.colour)) for each in named]
        return [found[0], found[-1]]

    there = np.array([things([each for each in (scene.subject, scene.other) if each]) for scene in scenes])
    claimed = np.array([things(caption.things) for caption in captions])
    grounds, ground = np.array([number(scene.ground) for scene in scenes]), np.array([number(caption.ground) for caption in captions])
    here = (claimed[None, :, :, None] == there[:, None, None, :]).any(3).all(2)
    return here & ((ground == number(None))[None] | (ground[None] == grounds[:, None]))


def contrast(logits: Float[Tensor, "b b"], true: Bool[Tensor, "b b"]) -> Float[Tensor, ""]:
    """CLIP's loss, pictures along rows and captions along columns; true pairs off the diagonal are left out of both softmaxes."""
    own = torch.arange(len(logits), device=logits.device)
    left = logits.masked_fill(_also(true), float("-inf"))
    return (functional.cross_entropy(left, own) + functional.cross_entropy(left.T, own)) / 2


def _also(true: Bool[Tensor, "b b"]) -> Bool[Tensor, "b b"]:
    """The true pairs off the diagonal."""
    return true & ~torch.eye(len(true), dtype=torch.bool, device=true.device)


def train(run: ClipRun, folder: Path, start: Path | None = None) -> Any:
    """The trained CLIP; `folder` gets `metrics.jsonl` while it runs. `start`: a CLIP of an earlier run to go on from, else the drawn one."""
    import open_clip
    from open_clip.transformer import PatchDropout
    from safetensors.torch import load_file

    torch.manual_seed(run.seed)
    model = open_clip.CLIP(**tiny.CLIP)
    tiny_draw.fill(model, "clip")
    if start is not None:
        model.load_state_dict(load_file(start / "clip" / "open_clip_model.safetensors"))
    model.visual.patch_dropout = PatchDropout(1 - KEPT_PATCHES)
    places = model.positional_embedding.detach().clone()
    _read(model, places[:CONTEXT].clone())
    model.to(run.device)
    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT)
    plain = [each for name, each in model.named_parameters() if each.ndim < 2 or "embedding" in name]
    decayed = [each for name, each in model.named_parameters() if not (each.ndim < 2 or "embedding" in name)]
    optimizer = torch.optim.AdamW([{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.05}], lr=run.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.lr, total_steps=run.steps, pct_start=0.1, final_div_factor=100, cycle_momentum=False)
    began = time.perf_counter()
    model.train()
    for step, (shown, captions, true) in enumerate(DataLoader(Drawn(run), batch_size=None, num_workers=run.workers)):
        true = true.to(run.device)
        images = model.encode_image(shown.to(run.device), normalize=True)
        texts = model.encode_text(tokenizer(captions).to(run.device), normalize=True)
        logits = model.logit_scale.exp() * images @ texts.T
        loss = contrast(logits, true)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)  # 100, as in CLIP
        if (step + 1) % 50 == 0 or step + 1 == run.steps:
            right = float((logits.masked_fill(_also(true), float("-inf")).argmax(1).cpu() == torch.arange(run.batch)).float().mean())
            row = {"step": step + 1, "loss": round(loss.item(), 4), "caption_found": round(right, 3), "seconds": round(time.perf_counter() - began, 1)}
            log.info("clip %s", json.dumps(row))
            with (folder / "metrics.jsonl").open("a") as lines:
                lines.write(json.dumps(row) + "\n")
    model.visual.patch_dropout = torch.nn.Identity()
    model.cpu()
    _read(model, torch.cat([model.positional_embedding.detach(), places[CONTEXT:]]))
    return model.eval()


def _read(model: Any, places: Float[Tensor, "tokens width"]) -> None:
    """Gives the text tower this many places, with these embeddings."""
    model.positional_embedding = torch.nn.Parameter(places)
    model.attn_mask = torch.full((len(places), len(places)), float("-inf")).triu_(1)


def pictures(random: np.random.Generator, scenes: list[Scene]) -> Float[Tensor, "b 3 side side"]:
    """First frames of the scenes as CLIP is given them: drawn at one of SIZES, squeezed into its square, normalised."""
    side = tiny.CLIP["vision_cfg"]["image_size"]
    mean, deviation = (torch.tensor(each).view(1, 3, 1, 1) for each in (tiny_draw.CLIP_MEAN, tiny_draw.CLIP_STD))
    sizes = random.integers(len(SIZES), size=len(scenes))
    made = [torch.empty(0)] * len(scenes)
    for number, (height, width) in enumerate(SIZES):
        places = [place for place, each in enumerate(sizes) if each == number]
        if not places:
            continue
        frames: UInt8[np.ndarray, "b h w 3"] = np.concatenate([render(scenes[place], None, frames=1, height=height, width=width) for place in places])
        squeezed = functional.interpolate(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255, size=(side, side), mode="bicubic", antialias=True)
        for place, one in zip(places, squeezed.clamp(0, 1), strict=True):
            made[place] = one
    return (torch.stack(made) - mean) / deviation


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the CLIP in open_clip's format and metrics.jsonl.")
@click.option("--start", type=click.Path(path_type=Path, exists=True, file_okay=False), help="An earlier run's --out, to go on from; left out: from nothing.")
@click.option("--steps", type=click.IntRange(1), default=ClipRun.steps, show_default=True)
@click.option("--batch", type=click.IntRange(2), default=ClipRun.batch, show_default=True, help="Pictures a step.")
@click.option("--lr", type=float, default=ClipRun.lr, show_default=True, help="Peak learning rate.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default=ClipRun.device, show_default=True, help="cpu, cuda or cuda:0.")
@click.option("--workers", type=click.IntRange(0), default=ClipRun.workers, show_default=True, help="Processes that draw pictures; the pictures do not depend on it.")
def command(out: Path, start: Path | None, steps: int, batch: int, lr: float, seed: int, device: str, workers: int) -> None:
    """Trains the tiny CLIP."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    tiny.save_clip(train(ClipRun(steps=steps, batch=batch, lr=lr, seed=seed, device=device, workers=workers), out, start), out / "clip")
    judge = masks.Judge(masks.scenes(seed, 200), model=str(out / "clip"))
    figures = {"found": {each.kind: {"pointing": each.pointing, "iou": each.iou} for each in judge.found()}, "prompted": asdict(judge.prompted())}
    (out / "quality.json").write_text(json.dumps(figures))
    log.info("clip %s", json.dumps(figures))


if __name__ == "__main__":
    command(prog_name="python -m train.miniature.clip")
