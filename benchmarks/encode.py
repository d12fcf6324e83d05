"""Clips per second of every encoder in batches: the tiny models on one CPU thread, or real sizes with random weights on a GPU.

    python -m benchmarks.encode [--clips 8]      every encoder of the tiny recipes, at 9 x 96 x 160
    python -m benchmarks.encode --real           VAEs, text and image encoders at their released sizes, on a GPU

Prints one table, and appends a dated row to `benchmarks/RESULTS.md`. Decoding video is not in it; loading a model is
not either, and one batch is encoded before the clock starts. `--real` draws weights as the classes do when they are made:
speed and memory are those of the released ones, the results mean nothing. A build takes a CPU's clips, and a VAE's
anywhere, one by one: here they are taken in batches all the same, to see what that would bring. VAEs on a CPU gain most at
two: torch takes 3D convolutions of a single clip through `slow_conv3d`, of more through oneDNN (results within 5e-6).
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import real_models
from benchmarks.ledger import append_row
from pipelines.recipes import recipe
from vapdata import device as devices
from vapdata.backbones import backbone
from vapdata.clip import Caption, Sample, Sampling
from vapdata.encoders.clip_text import ClipText
from vapdata.encoders.image_tokens import ImageTokens
from vapdata.encoders.llava import Llava
from vapdata.encoders.t5 import T5
from vapdata.encoders.umt5 import Umt5
from vapdata.encoders.vae import OpenVae, Vae, estimated_gb
from vapdata.encoders.vae_condition import VaeCondition
from vapdata.errors import Transient
from vapdata.step import step_name

BATCHES = (1, 2, 4, 8)
TINY = ("tiny-cogvideox", "tiny-wan", "tiny-hunyuan")
REAL = (
    ("cogvideox-2b", Sampling(frames=16, height=480, width=720, fps=8)),
    ("cogvideox-5b-i2v", Sampling(frames=49, height=480, width=720, fps=16)),
    ("wan2.1-i2v-14b-480p", Sampling(frames=81, height=480, width=832, fps=16)),
    ("hunyuanvideo-i2v", Sampling(frames=61, height=544, width=960, fps=24)),
)
TEXT = "a woman in a blue coat walks along a snow covered street, the camera follows her slowly from behind"


def samples(sampling: Sampling, count: int) -> list[Sample]:
    """Clips of noise with a caption: what an encoder does does not depend on what is shown."""
    noise = np.random.default_rng(0)
    shape = (sampling.frames, sampling.height, sampling.width, 3)
    caption = Caption(text=TEXT, captioner="source", role="source")
    return [Sample(clip_id=f"made/{number}", frames=noise.integers(0, 256, shape, np.uint8), caption=caption) for number in range(count)]


@contextmanager
def batches_of(size: int) -> Iterator[None]:
    """Encoders take `size` clips at once, whatever their settings and the device say."""
    kept = devices.groups
    devices.groups = lambda count, device, batch: kept(count, "cuda", size)
    try:
        yield
    finally:
        devices.groups = kept


def encode(opened: Any, clips: Sequence[Sample], size: int) -> None:
    """All clips, `size` at once; of a VAE straight through its model, since the encoder takes them one by one."""
    if not isinstance(opened, OpenVae):
        with batches_of(size):
            opened.encode(clips)
        return
    for start in range(0, len(clips), size):
        pixels = [opened._pixels(clip.frames[: opened._taken]) for clip in clips[start : start + size]]
        with torch.inference_mode():
            opened._model.encode(torch.cat(pixels)).latent_dist.mean.float().cpu()


def clips_per_second(opened: Any, clips: Sequence[Sample], size: int, clock: Callable[[], float]) -> float:
    """Clips that went through per second, after a batch that is not counted."""
    encode(opened, clips[:size], size)
    began = clock()
    encode(opened, clips, size)
    return len(clips) / (clock() - began)


def sweep(spec: Any, opened: Any, clips: Sequence[Sample], *, on_gpu: bool = False) -> Iterator[str]:
    """For each batch: clips per second, on a GPU with the peak memory over the weights; ends with the first that does not fit.

    On a CPU seconds of the processor, which other work on the machine does not lengthen as it does the clock's: measured beside
    seven other programs, one clip took 0.33 s of the one and 0.54 to 0.94 s of the other.
    """
    clock = time.perf_counter if on_gpu else time.process_time
    for size in BATCHES if hasattr(spec, "batch") or isinstance(opened, OpenVae) else BATCHES[:1]:
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        try:
            rate = clips_per_second(opened, clips, size, clock)
        except (torch.cuda.OutOfMemoryError, Transient):
            yield f"{size}: does not fit"
            return
        yield f"{size}: {rate:.2f}" + (f" ({(torch.cuda.max_memory_allocated() - before) / 1e9:.1f} GB)" if on_gpu else "")


def tiny_rows(count: int) -> Iterator[tuple[str, str]]:
    """Every encoder of the tiny recipes, each once."""
    seen = set()
    for name in TINY:
        made = recipe(name)
        clips = samples(made.sampling, max(count, BATCHES[-1]))
        for encoder in made.encoders:
            product = encoder.products()[0].name
            if product not in seen:
                seen.add(product)
                yield f"{step_name(encoder)}: {product}", f"{', '.join(sweep(encoder, encoder.open('cpu'), clips))} clips per CPU second"


def real_rows(count: int) -> Iterator[tuple[str, str]]:
    """The VAEs of the released sizes on the GPU, the image condition where there is one, and text and image encoders."""
    for name, sampling in REAL:
        facts = backbone(name)
        with tempfile.TemporaryDirectory() as folder:
            real_models.save_vae(name, Path(folder))
            encoders = [Vae(backbone=name, sampling=sampling, model=folder)]
            if facts.condition in ("zero_frames", "token_replace"):
                encoders.append(VaeCondition(backbone=name, sampling=sampling, model=folder))
            for encoder in encoders:
                guess = estimated_gb(facts.vae, sampling.height, sampling.width)
                what = f"{encoder.name}, {name}, {sampling.label()}, {facts.vae.precision}{', tiled' if encoder.tiled else ''}, {guess:.1f} GB estimated"
                yield what, _on_gpu(encoder, sampling, count)
    for save, make in towers():
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder), "cuda")
            encoder = make(folder)
            yield f"{step_name(encoder)}, {encoder.backbone}, bf16", _on_gpu(encoder, REAL[-1][1], count)


def towers() -> list[tuple[Callable[[Path, str], None], Callable[[str], Any]]]:
    """(what draws its model into a folder, the encoder that reads it there) of the encoders that look at single frames and texts."""
    name, sampling = REAL[-1]
    return [
        (real_models.save_clip_text, lambda folder: ClipText(backbone=name, model=folder)),
        (real_models.save_clip_vision, lambda folder: ImageTokens(backbone="wan2.1-i2v-14b-480p", sampling=sampling, model=folder)),
        (real_models.save_t5, lambda folder: T5(backbone="cogvideox-5b-i2v", model=folder)),
        (real_models.save_umt5, lambda folder: Umt5(backbone="wan2.1-i2v-14b-480p", model=folder)),
        (real_models.save_llava, lambda folder: Llava(backbone=name, sampling=sampling, model=folder)),
    ]


def _on_gpu(encoder: Any, sampling: Sampling, count: int) -> str:
    clips = samples(sampling, max(count, BATCHES[-1]))
    return f"{', '.join(sweep(encoder, encoder.open('cuda'), clips, on_gpu=True))} clips/s"


def main() -> None:
    """Measures, prints, appends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--real", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    title = "Encoders in batches at real sizes, random weights, GPU" if asked.real else "Encoders in batches, tiny models, one CPU thread, CPU seconds"
    rows = []
    for what, figure in real_rows(asked.clips) if asked.real else tiny_rows(asked.clips):
        print(f"{what:<70}{figure}", flush=True)
        rows.append((what, figure))
    if asked.real:
        rows.append(("GPU", torch.cuda.get_device_name()))
    rows.append(("load average at the end", f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"))
    append_row(title, f"python -m benchmarks.encode --clips {asked.clips}{' --real' if asked.real else ''}", rows)


if __name__ == "__main__":
    main()
