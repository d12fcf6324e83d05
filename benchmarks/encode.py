"""Clips per second of every encoder: the tiny models on one CPU thread, or real sizes with random weights on a GPU.

    python -m benchmarks.encode [--clips 8]      every encoder of the tiny recipes, at 9 x 96 x 160
    python -m benchmarks.encode --real           the VAEs at their released sizes, on a GPU

Prints one table, and appends a dated row to `benchmarks/RESULTS.md`. Decoding video is not in it; loading a model is
not either, and one clip is encoded before the clock starts. `--real` draws weights as the classes do when they are made:
speed and memory are those of the released ones, the latents mean nothing.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ledger import append_row
from pipelines.recipes import recipe
from vapdata.backbones import backbone
from vapdata.clip import Caption, Sample, Sampling
from vapdata.encoders.vae import Vae, estimated_gb
from vapdata.encoders.vae_condition import VaeCondition

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


def clips_per_second(opened: Any, clips: Sequence[Sample]) -> float:
    """Clips that went through per second, after one that is not counted."""
    opened.encode(clips[:1])
    began = time.perf_counter()
    opened.encode(clips)
    return len(clips) / (time.perf_counter() - began)


def tiny_rows(count: int) -> Iterator[tuple[str, str]]:
    """Every encoder of the tiny recipes, each once."""
    seen = set()
    for name in TINY:
        made = recipe(name)
        clips = samples(made.sampling, count)
        for encoder in made.encoders:
            product = encoder.products()[0].name
            if product not in seen:
                seen.add(product)
                rate = clips_per_second(encoder.open("cpu"), clips)
                yield f"{encoder.name}: {product}", f"{rate:.2f} clips/s, {1000 / rate:.1f} ms a clip"


def real_rows(count: int) -> Iterator[tuple[str, str]]:
    """The VAEs of the released sizes on the GPU, and the image condition where there is one."""
    for name, sampling in REAL:
        facts = backbone(name)
        with tempfile.TemporaryDirectory() as folder:
            _save_real(name, Path(folder))
            encoders = [Vae(backbone=name, sampling=sampling, model=folder)]
            if facts.condition in ("zero_frames", "token_replace"):
                encoders.append(VaeCondition(backbone=name, sampling=sampling, model=folder))
            for encoder in encoders:
                yield _measured_on_gpu(encoder, name, sampling, count)


def _measured_on_gpu(encoder: Any, name: str, sampling: Sampling, count: int) -> tuple[str, str]:
    opened = encoder.open("cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rate = clips_per_second(opened, samples(sampling, count))
    peak = (torch.cuda.max_memory_allocated() - before) / 1e9
    facts = backbone(name).vae
    guess = estimated_gb(facts, sampling.height, sampling.width)
    figure = f"{rate:.2f} clips/s, {rate * sampling.frames:.0f} frames/s, peak {peak:.1f} GB over the weights ({guess:.1f} estimated)"
    return f"{encoder.name}, {name}, {sampling.label()}, {facts.precision}{', tiled' if encoder.tiled else ''}", figure


def _save_real(name: str, folder: Path) -> None:
    """A model of the released size, drawn as its class draws it. The classes' defaults are the released configurations."""
    import diffusers

    facts = backbone(name).vae
    torch.manual_seed(0)
    model = getattr(diffusers, facts.model_class)()
    model.save_pretrained(folder / facts.subfolder, safe_serialization=True)


def main() -> None:
    """Measures, prints, appends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--real", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    title = "Encoders at real sizes, random weights, GPU" if asked.real else "Encoders, tiny models, one CPU thread"
    rows = []
    for what, figure in real_rows(asked.clips) if asked.real else tiny_rows(asked.clips):
        print(f"{what:<70}{figure}", flush=True)
        rows.append((what, figure))
    if asked.real:
        rows.append(("GPU", torch.cuda.get_device_name()))
    append_row(title, f"python -m benchmarks.encode --clips {asked.clips}{' --real' if asked.real else ''}", rows)


if __name__ == "__main__":
    main()
