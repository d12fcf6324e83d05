"""Tiny models: the real classes with a few hundred thousand weights, made on this machine from a fixed seed.

`tiny-cogvideox` holds an open_clip CLIP, an AutoencoderKLCogVideoX, a T5EncoderModel, a tokenizer and, from
tiny_transformer.py, a transformer and its scheduler, in the hub's folder format, so that everything runs with no network
and no GPU through the same loading path as real weights. The others are put together from tiny_vae.py, tiny_text.py,
tiny_transformer.py and tiny_qwen.py.
CLIP, the VAEs and the transformers of CogVideoX and Wan were trained on the miniature world and ship with the package
(tiny_trained.py): there their masks, latents and samples mean something. Text and image encoders, and all of HunyuanVideo,
BLIP-2 and Qwen, are random: their outputs tell one input from another, no more.
Exercised by `pytest tests/vapdata/test_tiny.py`.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vapdata import tiny_qwen, tiny_text, tiny_trained, tiny_transformer, tiny_vae
from vapdata.errors import RunError
from vapdata.tiny_draw import CLIP_MEAN, CLIP_STD, SEED, fill, vocabulary

NAMES = ("tiny-cogvideox", "tiny-wan", "tiny-hunyuan", "tiny-blip2", *tiny_qwen.NAMES)
NOTE = "tiny models: CLIP, VAE and transformer are trained on the source `miniature` and mean little elsewhere; text encoders are random"
RANDOM_NOTE = "all weights of {name} are random: shapes and speed are real, latents, embeddings and samples mean nothing"
SCHEME = 1
"""Counted up when the way weights are drawn or files are laid out changes."""

VAE: dict[str, Any] = {
    "block_out_channels": [8, 16, 32, 32],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 16,
    "temporal_compression_ratio": 4,
    "sample_height": 96,
    "sample_width": 160,
    "scaling_factor": 1.15258426,
}
TEXT: dict[str, Any] = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "num_layers": 2,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}
"""T5 v1.1 in small: gated GELU, no bias, relative positions."""
CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 96, "patch_size": 8, "width": 64, "head_width": 32, "layers": 4},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
"""The vocabulary is that of the tokenizer inside the open_clip package; it holds nine tenths of the weights."""


def note(names: Iterable[str]) -> str:
    """One line on what outputs of the tiny models of these names mean; other names are passed over."""
    asked = sorted(set(names) & set(NAMES))
    random = [name for name in asked if not tiny_trained.parts(name)]
    said = [RANDOM_NOTE.format(name=" and ".join(random))] if random else []
    return "; ".join([NOTE] * (len(random) < len(asked)) + said)


def version(name: str, part: str = "") -> str:
    """What tells these weights, or one part's, from another version's: a hash of configuration, seed, scheme and what is trained. Builds nothing.

    A subfolder has a version of its own, so that a better transformer makes no stored latent stale.
    """
    settings = _settings(name)
    parts = [part] if part in settings else sorted(settings)
    described = json.dumps([name, SEED, SCHEME, *(settings[each] for each in parts), *tiny_trained.settings(name, parts)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:12]


def folder(name: str) -> Path:
    """The folder of the tiny model, made on first use (a few seconds); safe when several processes ask at once.

    It lies in `$VAPDATA_CACHE`, or `~/.cache/vapdata`. Raises RunError when that cannot be written.
    """
    cache = Path(os.environ.get("VAPDATA_CACHE") or "~/.cache/vapdata").expanduser()
    made, makers = cache / f"{name}-{version(name)}", _makers(name)
    if not _whole(made, makers):
        try:
            if _is_rank():
                _make_apart(name)
            else:
                _make(made, makers)
        except OSError as error:
            raise RunError(
                f"the tiny models cannot be written to {cache} ({error.strerror or error}). "
                "Name a folder that can be written: export VAPDATA_CACHE=/some/folder"
            ) from error
    return made


@functools.cache
def _settings(name: str) -> dict[str, Any]:
    """Subfolder of a tiny model -> what decides its bytes. Asked for by every product of a recipe, so worked out once."""
    if name in tiny_qwen.NAMES:
        return {"": tiny_qwen.settings(name)}
    backbone = tiny_transformer.settings(name)
    if name == "tiny-cogvideox":
        return {"vae": VAE, "text_encoder": [TEXT, vocabulary()], "tokenizer": vocabulary(), "clip": CLIP, **backbone}
    texts = tiny_text.settings(name)
    return {**dict.fromkeys(tiny_vae.makers(name), tiny_vae.CONFIGS.get(name)), **dict.fromkeys(tiny_text.makers(name), texts), **backbone}


def _makers(name: str) -> dict[str, Callable[[Path], None]]:
    """Subfolder of a tiny model -> what writes it."""
    if name in tiny_qwen.NAMES:
        return tiny_qwen.makers(name)
    if name == "tiny-cogvideox":
        own = {"vae": _save_vae, "text_encoder": _save_text, "tokenizer": _save_tokenizer, "clip": _save_clip}
        return {**own, **tiny_transformer.makers(name)}
    return {**tiny_vae.makers(name), **tiny_text.makers(name), **tiny_transformer.makers(name)}


def _is_rank() -> bool:
    """Whether this process is one of several that train together."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _make_apart(name: str) -> None:
    """Makes the model in a process of its own: transformers' `save_pretrained` writes nothing on any rank but the first."""
    done = subprocess.run([sys.executable, "-c", f"from vapdata import tiny; tiny.folder({name!r})"], capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"the tiny model {name} cannot be made: {done.stderr.strip().splitlines()[-1]}")


def _whole(made: Path, makers: Iterable[str]) -> bool:
    """Whether every part is there with files in it."""
    return all((made / part).is_dir() and any((made / part).iterdir()) for part in makers)


def _make(made: Path, makers: dict[str, Callable[[Path], None]]) -> None:
    """Builds beside the final place and renames: another process sees all of it or nothing."""
    work = made.with_name(f".{made.name}.{uuid.uuid4().hex}")
    lacking = work.with_name(f"{work.name}.lacking")
    work.mkdir(parents=True)
    try:
        for subfolder, maker in makers.items():
            maker(work / subfolder)
        if made.is_dir() and not _whole(made, makers):
            made.rename(lacking)
        _rename(work, made)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(lacking, ignore_errors=True)


def _rename(work: Path, made: Path) -> None:
    try:
        work.rename(made)
    except OSError:
        if not made.is_dir():  # else another maker was first, with the same bytes
            raise


def _save_vae(path: Path) -> None:
    from diffusers import AutoencoderKLCogVideoX

    model = AutoencoderKLCogVideoX(**VAE)
    fill(model, "vae")
    tiny_trained.put(model, "tiny-cogvideox", "vae")
    model.save_pretrained(path, safe_serialization=True)


def _save_tokenizer(path: Path) -> None:
    from transformers import T5Tokenizer

    T5Tokenizer(vocab=vocabulary(), extra_ids=0, model_max_length=226).save_pretrained(path)


def _save_text(path: Path) -> None:
    from transformers import T5Config, T5EncoderModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = T5EncoderModel(T5Config(vocab_size=len(vocabulary()), **TEXT))
    fill(model, "text_encoder")
    model.save_pretrained(path, safe_serialization=True)


def _save_clip(path: Path) -> None:
    import open_clip

    model = open_clip.CLIP(**CLIP)
    fill(model, "clip")
    tiny_trained.put(model, "tiny-cogvideox", "clip")
    save_clip(model, path)


def save_clip(model: Any, path: Path) -> None:
    """Writes a CLIP of configuration CLIP as the hub's folders in open_clip's format are written."""
    from safetensors.torch import save_file

    path.mkdir()
    preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "squash"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": preprocess}, indent=2))
    save_file(model.state_dict(), path / "open_clip_model.safetensors")
