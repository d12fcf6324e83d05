"""What leaves a run: a method's weights with a card that says what they are, or a trained backbone in diffusers' own format.

    RUN/export/vap.safetensors, card.json           load_export(folder, backbone): neither loop nor catalog needed
    RUN/export/transformer/, scheduler/, card.json  load_backbone(facts, folder=...), or diffusers' from_pretrained

The card is written last, so that a folder with a card is whole. Weights under their authors' names come and go by
`import_released` and `export_released`. Exercised by `pytest tests/train/test_export.py`.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vapdata
from train import METHODS, tensor_files
from train.method import Backbone, Method, WrapBlock, unwrapped
from vapdata import registry
from vapdata.errors import CallError, RunError

log = logging.getLogger(__name__)

CARD = "card.json"
TRANSFORMER, SCHEDULER = "transformer", "scheduler"
SHARD_BYTES = 5_000_000_000
"""How large one file of a backbone or of released weights gets, about; diffusers' released shards are 5 or 10 GB."""
LOOKED_AT = 16
"""Values of each tensor that a fingerprint reads."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What exported weights are and where they come from. A run gives the first four; the rest is filled in on export."""

    backbone: str
    """A name of vapdata/backbones.py."""
    catalog: str
    index: str
    """Fingerprint of the samples they were trained on."""
    step: int
    method: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The method's fields."""
    weights: str = ""
    """Fingerprint of the backbone's weights that the method was trained beside; of its own for a trained backbone."""
    parameters: int = 0
    dtype: str = ""
    averaged: bool = False
    """Whether they are the moving average."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File of weights -> its hash."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of vapdata, torch and diffusers."""


def export(
    folder: Path,
    module: nn.Module,
    method: Method,
    backbone: Backbone,
    card: Card,
    *,
    dtype: torch.dtype = torch.float32,
    tensors: Mapping[str, Tensor] | None = None,
    ema: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes `<method>.safetensors` and card.json into `folder`; the path of the weights.

    `tensors` are the module's in one piece, where it is split over processes; `ema` replaces the weights that it names.
    An earlier export there is replaced once this one is on disk. Raises
    RunError for a full disk.
    """
    name = f"{method.name}{tensor_files.SUFFIX}"
    written = {**(module.state_dict() if tensors is None else tensors), **(ema or {})}
    filled = _filled(card, method.name, dataclasses.asdict(method), backbone, written, dtype, averaged=ema is not None)
    _put(folder, {name: lambda path: tensor_files.write(path, written, dtype=dtype)}, filled)
    return folder / name


def export_backbone(
    folder: Path,
    backbone: Backbone,
    card: Card,
    *,
    dtype: torch.dtype = torch.float32,
    tensors: Mapping[str, Tensor] | None = None,
    ema: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes `transformer/`, `scheduler/` and card.json into `folder`, as diffusers lays them out; the folder.

    For methods that train the backbone itself. `tensors` as for `export`; both they and `ema` have the transformer's own names.
    """
    transformer: Any = backbone.transformer
    written = {**(transformer.state_dict() if tensors is None else tensors), **(ema or {})}

    def write_transformer(path: Path) -> None:
        path.mkdir()
        transformer.save_config(path)
        tensor_files.write(path / f"diffusion_pytorch_model{tensor_files.SUFFIX}", written, dtype=dtype, file_bytes=SHARD_BYTES)

    def write_scheduler(path: Path) -> None:
        path.mkdir()
        tensor_files.write_text(path / "scheduler_config.json", json.dumps(dict(backbone.scheduler_config), indent=2))

    weights = _fingerprint({name: written[name] for name, _ in transformer.named_parameters()})
    filled = replace(_filled(card, card.method, card.config, backbone, written, dtype, averaged=ema is not None), weights=weights)
    _put(folder, {TRANSFORMER: write_transformer, SCHEDULER: write_scheduler}, filled)
    return folder


def read_card(folder: Path) -> Card:
    """The card of an export. Raises CallError when `folder` holds none, RunError when it cannot be read."""
    path = folder / CARD
    if not path.is_file():
        raise CallError(f"{folder}: has no {CARD}, so no export was finished here. Name the export folder of a run that came to its end")
    try:
        return Card(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read as an export's card ({error}). Make the export again") from error


def load_export(folder: Path, backbone: Backbone, wrap: WrapBlock = unwrapped) -> nn.Module:
    """The method's module with its exported weights on `backbone`, in eval mode.

    Raises CallError when the card is another backbone's, names a method that is none, or the weights are not the
    ones it trains; RunError when a file is damaged.
    """
    card = read_card(folder)
    method = _method(folder, card)
    _check_backbone(folder, card, backbone)
    path = folder / f"{card.method}{tensor_files.SUFFIX}"
    _check_hash(path, card)
    module = method.attach(backbone, wrap)
    targets = module.state_dict()
    _check_names(path, tensor_files.shapes(path), targets, f"{card.method} as {folder / CARD} describes it")
    tensor_files.copy_into(path, targets)
    return module.eval()


def import_released(path: Path, module: nn.Module, names: Mapping[str, str]) -> tuple[str, ...]:
    """Fills `module` with weights under the authors' names; what else the file holds, by name.

    `names` maps ours to theirs (`Method.release_names`); `path` is a file, an index of shards, or a folder with one
    of them. A file of the whole transformer holds the backbone's weights too: those come back as unknown. Raises
    CallError when a tensor is missing or of another shape, and before anything is changed.
    """
    targets = _by_their_names(module, names)
    there = tensor_files.shapes(path)
    unknown = tuple(sorted(there.keys() - targets.keys()))
    _check_names(path, {name: shape for name, shape in there.items() if name in targets}, targets, "the release")
    tensor_files.copy_into(path, targets)
    log.info("%s: %d tensors taken, %d others left%s", path, len(targets), len(unknown), _some(unknown))
    return unknown


def export_released(path: Path, module: nn.Module, names: Mapping[str, str], *, dtype: torch.dtype = torch.float32, file_bytes: int = SHARD_BYTES) -> None:
    """Writes the module's weights under the authors' names to `path`, a .safetensors file; above `file_bytes` as shards with an index beside it."""
    if not path.name.endswith(tensor_files.SUFFIX):
        raise CallError(f"{path}: released weights are written as safetensors. Type a name that ends in {tensor_files.SUFFIX}")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensor_files.write(path, _by_their_names(module, names), dtype=dtype, file_bytes=file_bytes)


def fingerprint(backbone: Backbone) -> str:
    """What tells a backbone's weights from other weights of the same shape: SHA-256 (first 16 hex digits) over the first values.

    The same for weights in float32 and rounded to bfloat16, on any device; reads 16 values of each tensor.
    """
    return _fingerprint(dict(backbone.transformer.named_parameters()))


def _fingerprint(parameters: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(parameters.items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().flatten()[:LOOKED_AT].to(torch.bfloat16).float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _filled(card: Card, method: str, config: Mapping[str, Any], backbone: Backbone, tensors: Mapping[str, Tensor], dtype: torch.dtype, *, averaged: bool) -> Card:
    if dtype not in (torch.float32, torch.bfloat16):
        raise CallError(f"export: weights are written as float32 or bfloat16, got {dtype}")
    if card.backbone != backbone.facts.name:
        raise CallError(f"export: the card names {card.backbone}, the weights were trained on {backbone.facts.name}")
    return replace(
        card,
        method=method,
        config=config,
        weights=card.weights or fingerprint(backbone),
        parameters=sum(value.numel() for value in tensors.values()),
        dtype=str(dtype).removeprefix("torch."),
        averaged=averaged,
        versions={"vapdata": vapdata.__version__, "torch": torch.__version__, "diffusers": importlib.metadata.version("diffusers")},
    )


def _put(folder: Path, parts: Mapping[str, Callable[[Path], None]], card: Card) -> None:
    """Makes each part under another name, then takes the old card away, names the parts, and writes the card."""
    partials = {name: folder / f".partial-{name}" for name in parts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(partials.values())
        for name, write in parts.items():
            write(partials[name])
        (folder / CARD).unlink(missing_ok=True)
        for name, partial in partials.items():
            _remove([folder / name])
            os.replace(partial, folder / name)
        files = sorted(path for name in parts for path in ((folder / name).rglob("*") if (folder / name).is_dir() else [folder / name]) if path.name.endswith(tensor_files.SUFFIX))
        hashed = replace(card, sha256={path.relative_to(folder).as_posix(): _sha256(path) for path in files})
        tensor_files.write_text(folder / CARD, json.dumps(asdict(hashed), indent=1))
    except OSError as error:
        raise RunError(f"{folder}: the export cannot be written ({error.strerror}). Free the disk; the newest checkpoint holds the weights") from error
    finally:
        _remove(partials.values())


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _method(folder: Path, card: Card) -> Method:
    """The method's configuration, from the card."""
    if (folder / TRANSFORMER).is_dir():
        raise CallError(f"{folder}: holds a trained {card.backbone}, not a method's weights. Use it as the backbone: --weights {folder}")
    made = registry.load(METHODS, card.method, "method")
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in card.config.items()}
    try:
        method: Method = made(**config)
    except TypeError as error:
        raise CallError(f"{folder / CARD}: {card.method} does not take this configuration ({error}). Use the vapdata that wrote it: {card.versions.get('vapdata')}") from error
    return method


def _check_backbone(folder: Path, card: Card, backbone: Backbone) -> None:
    if card.backbone != backbone.facts.name:
        raise CallError(f"{folder / CARD}: these weights belong to {card.backbone}, got {backbone.facts.name}. Type --backbone {card.backbone}")
    mine = fingerprint(backbone)
    if card.weights and card.weights != mine:
        raise CallError(
            f"{folder / CARD}: these weights were trained beside other weights of {card.backbone} (fingerprint {card.weights}, got {mine}). "
            "Name the folder they were trained with: --weights FOLDER"
        )


def _check_hash(path: Path, card: Card) -> None:
    if not path.is_file():
        raise RunError(f"{path}: {CARD} speaks of this file, and it is not there. Make the export again")
    wanted, got = card.sha256.get(path.name), _sha256(path)
    if got != wanted:
        raise RunError(f"{path}: is not the file that {CARD} describes (sha256 {got[:12]}, wanted {str(wanted)[:12]}). Make the export again")


def _check_names(path: Path, there: Mapping[str, tuple[int, ...]], targets: Mapping[str, Tensor], whose: str) -> None:
    """Raises CallError unless exactly the targets are there, in their shapes."""
    missing, left = sorted(targets.keys() - there.keys()), sorted(there.keys() - targets.keys())
    if missing:
        raise CallError(f"{path}: lacks {len(missing)} of the {len(targets)} tensors of {whose}{_some(missing)}. Name the file that holds them")
    if left:
        raise CallError(f"{path}: holds {len(left)} tensors too many for {whose}{_some(left)}. Name the file that belongs to it")
    wrong = [name for name in sorted(targets) if tuple(targets[name].shape) != there[name]]
    if wrong:
        name = wrong[0]
        raise CallError(f"{path}: {name} is {there[name]}, {whose} wants {tuple(targets[name].shape)} ({len(wrong)} such tensors). Name the file that belongs to it")


def _by_their_names(module: nn.Module, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The module's tensors under the authors' names. Raises CallError when a tensor has none, or a name no tensor."""
    state = module.state_dict()
    nameless, astray = sorted(state.keys() - names.keys()), sorted(names.keys() - state.keys())
    if nameless:
        raise CallError(f"{len(nameless)} of {len(state)} tensors have no released name{_some(nameless)}: nothing was released for this configuration. Use export instead")
    if astray:
        raise CallError(f"released names speak of {len(astray)} tensors that the method does not have{_some(astray)}. Attach it with the configuration that made the names")
    return {names[name]: value for name, value in state.items()}


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return f" ({', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''})" if listed else ""
