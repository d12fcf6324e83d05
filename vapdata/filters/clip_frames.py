"""CLIP for the filters that ask it: one model per process, and one pass over a frame, whoever asks first.

Filters whose looks are equal are shown the very same arrays, so that what `embedding` computed `aesthetic` only reads.
Exercised by `pytest tests/vapdata/filters/test_clip_filters.py`.
"""

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.clip import Look, Sample
from vapdata.errors import MissingInput
from vapdata.weights import Weight

MODEL = "timm/vit_large_patch14_clip_224.openai"
"""CLIP ViT-L/14 of OpenAI in open_clip's format: the model under LAION's aesthetic heads."""
LEAST = 3
"""Frames that even the shortest clip is shown with: what the aesthetic score reads."""
LONG_SIDE = 448
"""A 16:9 frame then has 252 rows, more than CLIP's 224."""
GPU_FRAMES = 64
"""Frames per pass on a GPU."""
REMEMBERED = 1024
"""Clips whose embeddings are kept for the next filter."""
LONGEST = 8192
"""Characters of a text that are tokenised: far more than 77 tokens, and one word without spaces takes quadratic time."""


def clip_look(fps: float, most: int) -> Look:
    """What the CLIP filters look at."""
    return Look(fps=fps, least=min(LEAST, most), most=most, long_side=LONG_SIDE)


def clip_weight(model: str) -> Weight:
    """The files of a CLIP in open_clip's format; a tiny model's lie in its folder `clip`."""
    made = stores.is_tiny(Weight(repo=model))
    return Weight(repo=model, subfolder="clip" if made else "", files=("open_clip_config.json",), stem="open_clip_model", bytes=None if made else 1_710_000_000)


def tower(model: str, device: str | None) -> "Tower":
    """The model, loaded once per process and device; let go of it with `close`."""
    key = (model, devices.pick(device))
    if key not in _open:
        _open[key] = Tower(*key)
    _open[key].users += 1
    return _open[key]


class Tower:
    """Unit-length embeddings of frames and texts."""

    def __init__(self, model: str, device: str) -> None:
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        weight = clip_weight(model)
        name = f"local-dir:{stores.find(weight)}"
        self.users = 0
        self._key = (model, device)
        self._device = device
        self._model = open_clip.create_model(name, device=device, force_quick_gelu=model.endswith(".openai"))
        self._model.eval().requires_grad_(False)
        self._tokenizer = open_clip.get_tokenizer(name)
        self._picture = image_transform_v2(PreprocessCfg(**self._model.visual.preprocess_cfg), is_train=False)
        self._known: OrderedDict[str, tuple[weakref.ref[np.ndarray], dict[int, Float32[np.ndarray, " d"]]]] = OrderedDict()

    def close(self) -> None:
        """Frees the model when nobody else uses it."""
        self.users -= 1
        if not self.users:
            _open.pop(self._key, None)

    def frames(self, samples: Sequence[Sample], chosen: Iterable[Sequence[int]] | None = None) -> list[Float32[np.ndarray, "t d"]]:
        """Embeddings of each sample's frames, of those `chosen` or of all, in their order.

        Raises MissingInput for a sample without frames.
        """
        wanted = [list(range(len(_shown(sample)))) for sample in samples] if chosen is None else [list(each) for each in chosen]
        known = [self._of(sample) for sample in samples]
        lacking = [(vectors, sample, k) for sample, vectors, ks in zip(samples, known, wanted, strict=True) for k in dict.fromkeys(ks) if k not in vectors]
        for group in devices.groups(len(lacking), self._device, GPU_FRAMES):
            made = self._embed([_shown(sample)[k] for _, sample, k in lacking[group]])
            for (vectors, _, k), vector in zip(lacking[group], made, strict=True):
                vectors[k] = vector
        return [np.stack([vectors[k] for k in ks]) for vectors, ks in zip(known, wanted, strict=True)]

    def text(self, text: str) -> Float32[np.ndarray, " d"]:
        """Embedding of a text, of its first 77 tokens where it has more."""
        import torch

        tokens = self._tokenizer([text[:LONGEST].encode("utf-8", "replace").decode("utf-8")]).to(self._device)
        with torch.inference_mode(), self._precision():
            return self._model.encode_text(tokens, normalize=True).float().cpu().numpy()[0]

    def _of(self, sample: Sample) -> dict[int, Float32[np.ndarray, " d"]]:
        """What is known of these very frames."""
        frames = _shown(sample)
        held = self._known.get(sample.clip_id)
        if held is None or held[0]() is not frames:
            self._known[sample.clip_id] = held = (weakref.ref(frames), {})
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return held[1]

    def _embed(self, images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Float32[np.ndarray, "b d"]:
        import torch
        from PIL import Image

        pictures = torch.stack([self._picture(Image.fromarray(image)) for image in images]).to(self._device)
        with torch.inference_mode(), devices.out_of_memory("clip", "Type: --set embedding.batch=1"), self._precision():
            return self._model.encode_image(pictures, normalize=True).float().cpu().numpy()

    def _precision(self) -> Any:
        """Weights stay float32; on a GPU the towers' products run in bf16."""
        import torch

        return torch.autocast(self._device.split(":")[0], torch.bfloat16, enabled=not self._device.startswith("cpu"))


_open: dict[tuple[str, str], Tower] = {}


def _shown(sample: Sample) -> UInt8[np.ndarray, "t h w 3"]:
    if sample.frames is None or not len(sample.frames):
        raise MissingInput(f"{sample.clip_id}: no frames to look at, wanted one or more. Scan the file again.")
    return sample.frames
