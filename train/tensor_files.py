"""Named tensors in safetensors files, one file or shards with an index as the hub has them. Never a pickle.

What is written is either whole or has another name. Exercised by `pytest tests/train/test_tensor_files.py`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vapdata.errors import CallError, RunError

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"


def found(path: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it. `path` is a file, an index of shards, or a folder with one of them.

    Raises CallError when there is no such file, RunError when one cannot be read.
    """
    if path.is_dir():
        path = _only(path)
    if not path.name.endswith((SUFFIX, INDEX_SUFFIX)):
        raise CallError(f"{path}: weights are read from {SUFFIX} files or their {INDEX_SUFFIX}, this is neither. Convert it first, or name the folder that holds them")
    if not path.is_file():
        raise CallError(f"{path}: there is no such file. Name a {SUFFIX} file, a {INDEX_SUFFIX}, or a folder that holds one")
    if path.name.endswith(SUFFIX):
        return dict.fromkeys(_shapes(path), path)
    try:
        named = {name: path.parent / file for name, file in json.loads(path.read_text())["weight_map"].items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise RunError(f"{path}: is no index of shards ({type(error).__name__}: {error}). Get the file again") from error
    absent = sorted({file.name for file in named.values() if not file.is_file()})
    if absent:
        raise CallError(f"{path}: lists {len(absent)} files that are not beside it ({', '.join(absent[:3])}). Get them")
    return named


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> its shape, from the files' headers alone."""
    files = found(path)
    there = {file: _shapes(file) for file in set(files.values())}
    lost = [name for name, file in files.items() if name not in there[file]]
    if lost:
        raise RunError(f"{path}: the index promises {lost[0]} in {files[lost[0]].name}, which does not hold it ({len(lost)} such tensors). Get the files again")
    return {name: there[file][name] for name, file in files.items()}


def copy_into(path: Path, targets: Mapping[str, Tensor]) -> None:
    """Fills each target with the tensor of that name, one at a time. Shapes must be equal; dtype and device are the target's."""
    files = found(path)
    with torch.no_grad():
        for file in sorted({files[name] for name in targets}):
            with _opened(file) as tensors:
                for name in (each for each in targets if files[each] == file):
                    targets[name].copy_(tensors.get_tensor(name))


def write(path: Path, tensors: Mapping[str, Tensor], *, dtype: torch.dtype, file_bytes: int | None = None) -> None:
    """Writes `path`, floating tensors in `dtype`; above `file_bytes` shards beside it and `<stem>.safetensors.index.json` instead.

    Tensors are brought to the CPU a file at a time. Raises RunError for a full disk.
    """
    stem = path.name.removesuffix(SUFFIX)
    groups = _groups(tensors, dtype, file_bytes)
    index_path = path.with_name(f"{stem}{INDEX_SUFFIX}")
    if len(groups) == 1:
        _write_one(path, groups[0], tensors, dtype)
        index_path.unlink(missing_ok=True)  # of earlier, larger weights: a reader would follow it
        return
    names = [f"{stem}-{place:05d}-of-{len(groups):05d}{SUFFIX}" for place in range(1, len(groups) + 1)]
    for name, group in zip(names, groups, strict=True):
        _write_one(path.with_name(name), group, tensors, dtype)
    index = {
        "metadata": {"total_size": sum(_bytes(value, dtype) for value in tensors.values())},
        "weight_map": {tensor: name for name, group in zip(names, groups, strict=True) for tensor in group},
    }
    write_text(index_path, json.dumps(index, indent=1))
    path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a small file, whole and on disk when this returns."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _write_one(path: Path, names: list[str], tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    partial = path.with_name(f".{path.name}.partial")
    # Clones where two names share memory: safetensors stores each tensor for itself.
    held = {name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous() for name, value in ((name, tensors[name]) for name in names)}
    seen: set[int] = set()
    for name, value in held.items():
        pointer = value.untyped_storage().data_ptr()
        held[name] = value.clone() if pointer in seen else value
        seen.add(pointer)
    try:
        save_file(held, partial, metadata={"format": "pt"})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written ({error}). Free the disk, or name another place") from error


def _groups(tensors: Mapping[str, Tensor], dtype: torch.dtype, file_bytes: int | None) -> list[list[str]]:
    """Names in order, cut where a file would get too large."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, value in tensors.items():
        more = _bytes(value, dtype)
        if file_bytes is not None and groups[-1] and size + more > file_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += more
    return groups


def _bytes(value: Tensor, dtype: torch.dtype) -> int:
    return value.numel() * (dtype.itemsize if value.is_floating_point() else value.element_size())


def _only(folder: Path) -> Path:
    """The index in `folder`, or its only file of tensors."""
    for suffix in (INDEX_SUFFIX, SUFFIX):
        held = sorted(each for each in folder.iterdir() if each.name.endswith(suffix) and not each.name.startswith("."))
        if len(held) == 1:
            return held[0]
        if held:
            raise CallError(f"{folder}: holds {len(held)} files that may be meant ({', '.join(each.name for each in held[:3])}). Name one of them")
    raise CallError(f"{folder}: holds no {SUFFIX} file. Name a file, or a folder that holds one")


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with _opened(file) as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - not a dict


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file}: cannot be read as safetensors ({error}). Get or make the file again") from error
