"""Trains the VAE of a tiny backbone on reconstruction of miniature clips.

    python -m train.miniature.vae tiny-cogvideox --out FOLDER [--device cuda --workers 5 --steps 4000 --batch 64]

The loss is the mean squared error of pixels (-1 to 1) and a small Kullback-Leibler term of the posterior, which is sampled from,
so that the decoder bears latents that are not quite right. In the end latents are scaled channel by channel to what the
backbone's facts say of them, by changing encoder and decoder alike: the released scaling numbers hold for them.
Exercised by `pytest tests/train/miniature/test_vae.py`.
"""

import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.miniature import clips
from vapdata import tiny, tiny_draw, tiny_vae
from vapdata.backbones import VaeFacts, backbone

log = logging.getLogger("train")

MEASURED = 256
"""Clips that the scale of latents is measured on."""
STILL_EVERY = 8
"""Every so many steps the batch is twice as many first frames alone, as image-to-video encodes them."""
STILL_START = 0.25
"""Share of the steps, from the first, of which only every fourth is of clips: still frames cost a fifth and teach edges and colours."""


@dataclass(frozen=True, kw_only=True)
class VaeRun:
    """How a VAE is trained."""

    backbone: str
    steps: int = 1_500
    batch: int = 8
    lr: float = 3e-3
    kl: float = 1e-4
    """Weight of the Kullback-Leibler term, a mean over latents, beside the pixels' mean squared error."""
    seed: int = 0
    device: str = "cpu"
    workers: int = 0
    """Processes that draw clips beside the training; a step's clips are the same with any number of them."""


class Drawn(Dataset[Tensor]):
    """The run's batches by step, as uint8 (b, t, h, w, 3)."""

    def __init__(self, run: VaeRun) -> None:
        self.run = run

    def __len__(self) -> int:
        return self.run.steps

    def __getitem__(self, step: int) -> Tensor:
        """Drawn from (seed, step) alone: early batches, and later every so many, are of twice as many still frames."""
        random, run = np.random.default_rng([self.run.seed, 0, step]), self.run
        early = step < STILL_START * run.steps
        still = (step % 4 != 3) if early else step % STILL_EVERY == STILL_EVERY - 1
        return torch.from_numpy(clips.batch(random, 2 * run.batch)[:, :1] if still else clips.batch(random, run.batch))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a VAE gives back of held-out clips."""

    psnr_db: float
    """Mean over clips, of pixels of 0 to 1."""
    motion_share: float
    """Share of the latents' variance that lies between clips of one scene under several conditions."""


def new(name: str) -> Any:
    """The VAE of a tiny backbone, its weights drawn."""
    import diffusers

    model_class, config = ("AutoencoderKLCogVideoX", tiny.VAE) if name == "tiny-cogvideox" else tiny_vae.CONFIGS[name]
    model = getattr(diffusers, model_class)(**config)
    tiny_draw.fill(model, "vae")
    for module in model.modules():
        if name == "tiny-wan" and isinstance(module, torch.nn.Conv3d):
            # Measured of a step of Wan's on a CPU: 0.70 s instead of 0.90; CogVideoX's takes longer so.
            module.to(memory_format=torch.channels_last_3d)
    return model


def train(run: VaeRun, folder: Path, start: Path | None = None) -> Any:
    """The trained VAE, its latents scaled; `folder` gets `metrics.jsonl` while it runs. `start`: an earlier run's folder to go on from, else drawn weights."""
    torch.manual_seed(run.seed)
    model = new(run.backbone).train()
    if start is not None:
        model.load_state_dict(type(model).from_pretrained(start / "vae", local_files_only=True).state_dict())
    if run.device != "cpu":
        model.to(run.device, memory_format=torch.contiguous_format)
        torch.backends.cudnn.benchmark = True  # few shapes, many steps
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.lr, total_steps=run.steps, pct_start=0.05, div_factor=10, final_div_factor=100, cycle_momentum=False)
    judged, began = clips.held_out(run.seed, 64), time.perf_counter()
    for step, drawn in enumerate(DataLoader(Drawn(run), batch_size=None, num_workers=run.workers)):
        loss, kl = _losses(model, pixels(drawn, run.device))
        (loss + run.kl * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0 or step + 1 == run.steps:
            judge = (step + 1) % 500 == 0 or step + 1 == run.steps
            row = {"step": step + 1, "loss": loss.item(), "kl": kl.item(), "seconds": round(time.perf_counter() - began, 1)}
            row |= {"psnr_db": round(psnr(model, judged), 3)} if judge else {}
            log.info("%s %s", run.backbone, json.dumps(row))
            with (folder / "metrics.jsonl").open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            if judge:
                model.save_pretrained(folder / "unscaled", safe_serialization=True)
    model.eval()
    rescale(model, backbone(run.backbone).vae, pixels(clips.batch(np.random.default_rng([run.seed, 2]), MEASURED), run.device))
    return model


def pixels(frames: UInt8[Tensor, "b t h w 3"] | UInt8[np.ndarray, "b t h w 3"], device: str | torch.device = "cpu") -> Float[Tensor, "b 3 t h w"]:
    """uint8 clips, frames first, as a VAE is given them: -1 to 1."""
    return torch.as_tensor(frames).to(device).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


@torch.no_grad()
def psnr(model: Any, frames: np.ndarray) -> float:
    """Mean over clips of the peak signal-to-noise ratio (dB) of what comes back, peak 1, from the posterior's mean."""
    was = model.training
    model.eval()
    found = []
    for some in np.array_split(frames, math.ceil(len(frames) / 16)):
        wanted = pixels(some, _place(model))
        made = model.decode(model.encode(wanted).latent_dist.mean).sample.clamp(-1, 1)
        errors = ((made - wanted) / 2).square().flatten(1).mean(1)
        found += (-10 * errors.log10()).tolist()
    model.train(was)
    return float(np.mean(found))


@torch.no_grad()
def motion_share(model: Any, seed: int = 0, scenes: int = 12) -> float:
    """Share of the latents' variance over all scenes and conditions that is within a scene, between its conditions."""
    from vapdata.scenes import CONDITIONS, render

    random = np.random.default_rng([seed, 3])
    made = []
    for _ in range(scenes):
        scene = clips.trained_scene(random, two=False)
        shown = np.stack([render(scene, each, frames=clips.FRAMES, height=clips.SIDE, width=clips.SIDE) for each in CONDITIONS.values()])
        made.append(model.encode(pixels(shown, _place(model))).latent_dist.mean)
    latents = torch.stack(made)
    within = (latents - latents.mean(1, keepdim=True)).square().mean()
    return float(within / (latents - latents.mean((0, 1), keepdim=True)).square().mean())


def quality(model: Any, seed: int = 0) -> Quality:
    """Both figures, on 208 held-out clips, eight of each condition."""
    return Quality(psnr_db=psnr(model, clips.held_out(seed, 208)), motion_share=motion_share(model, seed))


@torch.no_grad()
def rescale(model: Any, facts: VaeFacts, shown: Float[Tensor, "b 3 t h w"]) -> None:
    """Changes encoder and decoder so that latents of clips like `shown` have the moments that `facts` scale to 0 and 1.

    Wan: mean and deviation of every channel, in the 1 x 1 x 1 convolutions around the latent. CogVideoX: deviations alone,
    since its decoder pads latents with zeros; they come in at `conv_in` and at every spatial norm. What is decoded stays the same.
    """
    latents = torch.cat([model.encode(some).latent_dist.mean for some in shown.split(16)])
    deviation, mean = torch.std_mean(latents, dim=(0, 2, 3, 4))
    wanted = deviation.new_tensor(facts.std) if facts.std else torch.full_like(deviation, 1 / facts.scaling_factor)
    gain = wanted / deviation.clamp_min(0.02 * deviation.max())
    if facts.mean:
        shift = mean.new_tensor(facts.mean) - gain * mean
        _scale_out(model.quant_conv, gain, shift)
        out = model.post_quant_conv
        out.bias -= (out.weight[:, :, 0, 0, 0] * (shift / gain)).sum(1)
        out.weight /= gain.view(1, -1, 1, 1, 1)
        return
    _scale_out(model.encoder.conv_out.conv, gain, torch.zeros_like(gain))
    model.decoder.conv_in.conv.weight /= gain.view(1, -1, 1, 1, 1)
    for name, module in model.decoder.named_modules():
        if name.endswith((".conv_y", ".conv_b")):
            module.conv.weight /= gain.view(1, -1, 1, 1, 1)


def _scale_out(conv: Any, gain: Float[Tensor, " c"], shift: Float[Tensor, " c"]) -> None:
    """The convolution's first half of channels, means, times `gain` plus `shift`; its second, log-variances, to match."""
    factor = torch.cat([gain, torch.ones_like(gain)])
    conv.weight *= factor.view(-1, 1, 1, 1, 1)
    conv.bias *= factor
    conv.bias += torch.cat([shift, 2 * gain.log()])


def _place(model: Any) -> torch.device:
    """Where its weights lie; the CPU for a model without."""
    return next((each.device for each in getattr(model, "parameters", list)()), torch.device("cpu"))


def _losses(model: Any, wanted: Float[Tensor, "b 3 t h w"]) -> tuple[Tensor, Tensor]:
    """Mean squared error of pixels, and the posterior's Kullback-Leibler divergence from the standard normal, per latent."""
    posterior = model.encode(wanted).latent_dist
    made = model.decode(posterior.sample()).sample
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return (made - wanted).square().mean(), kl


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.argument("name", type=click.Choice(["tiny-cogvideox", "tiny-wan"]))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the VAE in diffusers' format and metrics.jsonl.")
@click.option("--start", type=click.Path(path_type=Path, exists=True, file_okay=False), help="An earlier run's --out, to go on from; left out: from nothing.")
@click.option("--steps", type=click.IntRange(1), default=VaeRun.steps, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=VaeRun.batch, show_default=True, help="Clips a step.")
@click.option("--lr", type=float, default=VaeRun.lr, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default=VaeRun.device, show_default=True, help="cpu, cuda or cuda:0.")
@click.option("--workers", type=click.IntRange(0), default=VaeRun.workers, show_default=True, help="Processes that draw clips; the clips do not depend on it.")
def command(name: str, out: Path, start: Path | None, steps: int, batch: int, lr: float, seed: int, device: str, workers: int) -> None:
    """Trains the VAE of the tiny backbone NAME."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    model = train(VaeRun(backbone=name, steps=steps, batch=batch, lr=lr, seed=seed, device=device, workers=workers), out, start)
    model.save_pretrained(out / "vae", safe_serialization=True)
    found = quality(model, seed)
    (out / "quality.json").write_text(json.dumps({"psnr_db": found.psnr_db, "motion_share": found.motion_share}))
    log.info("%s: PSNR %.2f dB on held-out clips, motion is %.2f of the latents' variance", name, found.psnr_db, found.motion_share)


if __name__ == "__main__":
    command(prog_name="python -m train.miniature.vae")
