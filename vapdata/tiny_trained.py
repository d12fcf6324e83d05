"""Trained weights of tiny models that ship with the package: what the drawn ones of the same class are replaced by.

`vapdata/trained/<model>/<part>.safetensors` holds half-precision numbers, `<part>.json` beside it their card: how they were
made, from which seed, and what they reached. A part without files keeps its drawn weights. `make tiny-models`
(`python -m train.miniature.make`) writes both. Exercised by `pytest tests/vapdata/test_tiny_trained.py`.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "trained"
ROWS = ".rows"
"""Ends the name of a tensor that says which rows of a table were trained: the others keep what they were drawn as, and do not ship."""


def parts(name: str) -> tuple[str, ...]:
    """The parts of a tiny model whose weights were trained, e.g. ("clip", "transformer", "vae")."""
    return tuple(sorted(path.stem for path in (FOLDER / name).glob("*.safetensors")))


def card(name: str, part: str) -> Mapping[str, Any]:
    """What is known of trained weights: `made` (the command), `seed`, `figures`, `sha256` of the file."""
    made: Mapping[str, Any] = json.loads((FOLDER / name / f"{part}.json").read_text())
    return made


def settings(name: str, chosen: Collection[str]) -> list[str]:
    """What decides the bytes of those of the chosen parts that were trained: the digests of their files."""
    return [f"{part} {_digest(FOLDER / name / f'{part}.safetensors')}" for part in parts(name) if part in chosen or "" in chosen]


def put(model: Any, name: str, part: str) -> bool:
    """Puts the trained weights into `model` in place of the drawn ones; False where there are none for this part."""
    import torch
    from safetensors.torch import load_file

    if part not in parts(name):
        return False
    tensors = load_file(FOLDER / name / f"{part}.safetensors")
    there = dict(model.named_parameters())
    with torch.no_grad():
        for key, tensor in tensors.items():
            if key.endswith(ROWS):
                continue
            rows = tensors.get(key + ROWS)
            if rows is None:
                there[key].copy_(tensor)
            else:
                there[key][rows.long()] = tensor.to(there[key].dtype)
    return True


def save(model: Any, drawn: Any, name: str, part: str, told: Mapping[str, Any]) -> Path:
    """Writes the weights of `model` as they ship, and the card `told` with their digest. `drawn` is the model before it was trained.

    Matrices go as float16, or bfloat16 where one overflows; of a table in which under half of the rows changed, those alone.
    """
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    before = dict(drawn.named_parameters())
    for key, parameter in model.named_parameters():
        now, was = parameter.detach().float().contiguous(), before[key].detach().float()
        changed = (now != was).flatten(1).any(1) if now.ndim == 2 else None
        if changed is not None and changed.float().mean() < 0.5:
            rows = changed.nonzero()[:, 0]
            tensors[key], tensors[key + ROWS] = _halved(now[rows]), rows.int()
        else:
            tensors[key] = _halved(now)
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}.safetensors"
    save_file(tensors, path)
    path.chmod(0o644)  # safetensors writes for its owner alone
    _digest.cache_clear()
    (folder / f"{part}.json").write_text(json.dumps({**told, "sha256": _digest(path)}, indent=1) + "\n")
    return path


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _halved(tensor: Any) -> Any:
    half = tensor.half()
    return half if half.isfinite().all() else tensor.bfloat16()
