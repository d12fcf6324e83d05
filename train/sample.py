"""Seeing what a run has learned: videos of its method, and a contact sheet beside what they were asked to be like.

    python -m train.sample --run RUN --catalog C --pairs 4 --out samples
    python -m train.sample --run RUN --catalog C --reference CLIP --image first.png --prompt "a red ball rolls" --out samples

The first takes pairs of the run's validation samples; the second lends the look of a clip of the catalog to a picture
and a prompt. Noise follows from seed and clip alone. The loop calls `write_samples` for its own samples while it
trains. Exit status: 0 done, 1 it could not be finished, 2 the call was wrong. Exercised by `pytest tests/train/test_sample.py`.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from catalogs.newest import literal
from catalogs.queries import answer
from catalogs.store import Catalog
from train.data import Loader
from train.denoise import Guidance
from train.encode_input import encode_input, fitted, opened
from train.objective import seed_of
from train.sampler import Request, Sampler, requests, write_samples
from train.samples import Index
from train.sheet import picked
from train.trained_run import TrainedRun, open_run
from vapdata import device as devices
from vapdata import tiny
from vapdata.errors import CallError, VapdataError

__all__ = ["command", "write_samples"]

log = logging.getLogger("train")

PAIRS = 4
"""How many pairs are sampled when the call does not say."""


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.option("--run", required=True, help="The run's folder: the --out it was trained with.")
@click.option("--catalog", help="The catalog it was trained from.  [default: the one that the run names]")
@click.option("--out", required=True, help="Folder for the videos, sheet.png and samples.json.")
@click.option("--pairs", type=click.IntRange(1), help="Sample this many of the run's validation samples.  [default: 4, unless --image is given]")
@click.option("--reference", "references", multiple=True, metavar="CLIP", help="Clip of the catalog whose look is lent to --image; once for each reference that the method takes.")
@click.option("--image", type=click.Path(path_type=Path), metavar="FILE", help="First frame of a video of your own.")
@click.option("--prompt", help="Its caption.")
@click.option("--steps", type=int, default=50, show_default=True, help="Denoising steps.")
@click.option("--guidance", type=float, default=6.0, show_default=True, help="How far captions push; 1 for not at all.")
@click.option("--dynamic/--constant", default=False, show_default=True, help="Let guidance change along the steps, as diffusers' use_dynamic_cfg does.")
@click.option("--reference-guidance", type=float, help="How far references push, in a pass of their own; left out: as far as they do by themselves.")
@click.option("--seed", type=int, help="Decides the noise.  [default: the run's]")
@click.option("--weights", help="The diffusers folder it was trained beside, where that was not the backbone's own.")
@click.option("--device", help="cpu, cuda or cuda:N; left out: the GPU when there is one.")
def command(**given: Any) -> None:
    """Makes videos with what a run has learned, and a contact sheet: references, target, result."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "urllib3", "filelock", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        click.echo(_sample(given))
    except CallError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except VapdataError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _sample(given: Mapping[str, Any]) -> Path:
    """What the command does; the contact sheet's path."""
    _check_call(given)
    image = opened(given["image"]) if given["image"] else None
    device = _device(given["device"])
    run = open_run(Path(given["run"]), device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32, weights=given["weights"])
    catalog = Catalog.open(given["catalog"] or run.index.catalog)
    facts, index = run.backbone.facts, replace(run.index, catalog=catalog.uri)  # it may have been moved
    loader = Loader(index, facts, run.backbone.objective, seed=run.seed, global_batch=1, micro_batch=1)
    seed = run.seed if given["seed"] is None else given["seed"]
    if image is None:
        samples = [index.validation[place] for place in picked(len(index.validation), given["pairs"] or PAIRS)]
        made = requests(loader, samples, seed, _prompts(catalog, index, [index.samples[each].target for each in samples]))
    else:
        made = [_own_request(given, image, run, loader, catalog, device, seed)]
    log.info("%s after %d steps (%s)", run.method.name, run.step, run.weights)
    if facts.tiny:
        log.info(tiny.note([facts.name]))
    guidance = Guidance(scale=given["guidance"], dynamic=given["dynamic"], reference=given["reference_guidance"])
    sampler = Sampler(run.module, run.backbone, loader, steps=given["steps"], guidance=guidance)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return sampler.write(made, Path(given["out"]))


def _check_call(given: Mapping[str, Any]) -> None:
    own = given["image"] is not None or given["prompt"] is not None or given["references"]
    if own and given["pairs"] is not None:
        raise CallError("--pairs samples the run's own pairs; --reference, --image and --prompt make one of your own. Give one or the other")
    if own and (given["image"] is None or given["prompt"] is None):
        raise CallError("--reference, --image and --prompt go together: the clip whose look is lent, the first frame, and its caption. Give all, or --pairs 4")


def _device(asked: str | None) -> torch.device:
    try:
        device = torch.device(devices.pick(asked))
    except RuntimeError as error:
        raise CallError(f"--device {asked}: torch knows no such device. Type cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CallError(f"--device {asked}: torch sees no GPU on this machine. Type --device cpu, or look at nvidia-smi")
    return device


def _own_request(given: Mapping[str, Any], image: np.ndarray, run: TrainedRun, loader: Loader, catalog: Catalog, device: torch.device, seed: int) -> Request:
    """The picture and prompt of the call, with the references that it names."""
    clips, facts, reads = given["references"], run.backbone.facts, loader.index.reads
    if len(clips) != reads.references:
        wanted = f"takes {reads.references} reference{'s' * (reads.references > 1)}" if reads.references else "takes no reference"
        raise CallError(f"--reference: {run.method.name} {wanted}, got {len(clips)}. Give --reference CLIP {'once for each' if reads.references else 'no more'}")
    references = tuple(loader.side([clip]) for clip in clips)
    like = references[0] if references else loader.side([run.index.samples[0].target])
    stride = facts.vae.spatial_stride
    height, width = (side * stride for side in like.video.shape[-2:])
    settings = catalog.settings(run.index.product) or {}
    picture = fitted(image, height, width, str(settings.get("resize", "stretch")).partition("+")[0])
    target = encode_input(facts, reads, picture, given["prompt"], like=tuple(like.video.shape), device=device)
    name = Path(given["image"]).stem
    return Request(name=name, prompt=given["prompt"], target=target, references=references, seed=seed_of(seed, 0, 0, name), image=picture)


def _prompts(catalog: Catalog, index: Index, clips: Sequence[str]) -> dict[str, str]:
    """The captions whose embeddings the run reads, by clip."""
    read = {role.role: role.name for role in index.products}
    if "text" not in read:
        return {}
    named = ", ".join(literal(clip) for clip in clips)
    found = answer(
        catalog,
        "select texts.clip_id, captions.text, texts.file, texts.row_group from texts join captions using (clip_id, captioner, role) "
        f"where texts.clip_id in ({named}) and texts.product = {literal(read['text'])}",
    )
    places = {clip: index.place("text", index.number(clip)) for clip in clips}
    return {row["clip_id"]: row["text"] for row in found.to_pylist() if (row["file"], row["row_group"]) == (places[row["clip_id"]].file, places[row["clip_id"]].row_group)}


if __name__ == "__main__":
    command(prog_name="python -m train.sample")
