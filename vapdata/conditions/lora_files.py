"""Where the models and LoRAs of a list lie, and the hashes that lineage keeps of them. Loads nothing, asks no server.

Exercised by `pytest tests/vapdata/conditions/test_lora.py`.
"""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from vapdata.backbones import BACKBONES
from vapdata.errors import CallError, MissingWeights
from vapdata.weights import Weight, find, fingerprint, is_local, missing, require

PIPELINES = ("CogVideoXImageToVideoPipeline", "WanImageToVideoPipeline", "HunyuanVideoImageToVideoPipeline")
"""Of diffusers; what `model_index.json` may name."""
LORA = "pytorch_lora_weights.safetensors"
"""diffusers' own name."""

_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Model:
    """An image-to-video pipeline in the hub's folder layout."""

    name: str
    """Hub id, or the folder's own name: never a path of this machine."""
    folder: str
    pipeline: str
    sha256: str
    """Over the fingerprints of its parts (names, sizes and first MiB of their files), 16 hex digits."""


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """One file of LoRA weights."""

    name: str
    """Hub id and file, or the file's own name."""
    path: str
    sha256: str
    """Of the whole file."""


def model_of(name: str) -> Model:
    """The pipeline of a backbone's name, a hub id or a folder.

    Raises MissingWeights for files that are not here, CallError for a pipeline of another kind.
    """
    known = BACKBONES.get(name)
    weight = Weight(repo=known.repo if known else name, aliases=known.aliases if known else (), files=("model_index.json",))
    if (known and known.tiny) or missing([weight]):
        how = f"put a diffusers pipeline into {name}" if is_local(name) else f"Type hf download {weight.repo}"
        raise MissingWeights(f"{weight.repo}: no model_index.json of an image-to-video pipeline is there. {how[0].upper()}{how[1:]}")
    folder = find(weight)
    index = json.loads((folder / "model_index.json").read_text())
    if index.get("_class_name") not in PIPELINES:
        raise CallError(f"model {weight.model_id}: its model_index.json names {index.get('_class_name')!r}, wanted one of {', '.join(PIPELINES)}")
    parts = {part: kind for part, kind in index.items() if isinstance(kind, list) and len(kind) == 2 and kind[1] is not None}
    _require(weight, folder, parts)
    digest = hashlib.sha256(repr([index["_class_name"], *((part, fingerprint(folder / part)) for part in sorted(parts))]).encode())
    return Model(name=weight.model_id, folder=str(folder), pipeline=index["_class_name"], sha256=digest.hexdigest()[:16])


def lora_file(name: str, file: str | None) -> LoraFile:
    """The weights of a hub id, a folder or a file. Raises MissingWeights, and CallError for another format than safetensors."""
    inside = file or LORA
    if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt")):
        path, shown = Path(name).expanduser(), Path(name).name
    else:
        weight = Weight(repo=name, files=(inside,))
        if inside.endswith(".safetensors"):
            require([weight])
        path, shown = (find(weight) / inside if inside.endswith(".safetensors") else Path(inside)), f"{weight.model_id}/{inside}"
    if path.suffix != ".safetensors":
        raise CallError(f"lora {shown}: wanted a .safetensors file, since other formats can run code. Convert it first")
    if not path.is_file():
        raise MissingWeights(f"lora {name}: there is no such file. Write the path of a .safetensors file, a folder or a hub id")
    stat = path.stat()
    return LoraFile(name=shown, path=str(path), sha256=_sha256(str(path), stat.st_mtime_ns, stat.st_size))


def _require(weight: Weight, folder: Path, parts: dict[str, list[str]]) -> None:
    """Raises MissingWeights when a part of the pipeline is not there: a download that was broken off, or only its index."""
    wanted = []
    for part, (library, kind) in parts.items():
        stem = "diffusion_pytorch_model" if library == "diffusers" else "model"
        tensors = not kind.endswith(("Scheduler", "Processor", "Extractor")) and "Tokenizer" not in kind
        wanted.append(Weight(repo=str(folder), subfolder=part, files=("config.json",) if tensors else (), stem=stem if tensors else None))
    gone = [one.file for one in missing(wanted)] + [part for part in parts if not (folder / part).is_dir()]
    if gone:
        how = f"Put them into {weight.repo}" if is_local(weight.repo) else f"Type hf download {weight.repo}"
        raise MissingWeights(f"model {weight.model_id}: {len(gone)} files are not here ({', '.join(dict.fromkeys(gone))}). {how}")


@functools.lru_cache(maxsize=256)
def _sha256(path: str, stamp: int, size: int) -> str:
    """Of the file as it was then; hashed once."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()
