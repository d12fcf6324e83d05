import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from train import tensor_files
from vapdata.errors import CallError, RunError


def _tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(3, 4), "b": torch.randn(5), "c": torch.tensor(7), "d": torch.randn(4, 3).T}


def _read(path: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    targets = {name: torch.full(value.shape, -1, dtype=value.dtype) for name, value in like.items()}
    tensor_files.copy_into(path, targets)
    return targets


def test_what_is_written_is_read_back_equal_and_other_tools_read_it_too(tmp_path: Path) -> None:
    tensors = _tensors()
    tensor_files.write(tmp_path / "w.safetensors", tensors, dtype=torch.float32)
    for read in (_read(tmp_path / "w.safetensors", tensors), load_file(tmp_path / "w.safetensors")):
        assert all(torch.equal(value, read[name]) for name, value in tensors.items())
    assert tensor_files.shapes(tmp_path / "w.safetensors") == {"a": (3, 4), "b": (5,), "c": (), "d": (3, 4)}
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_bfloat16_is_a_switch_that_leaves_whole_numbers_alone(tmp_path: Path) -> None:
    tensors = _tensors()
    tensor_files.write(tmp_path / "w.safetensors", tensors, dtype=torch.bfloat16)
    held = load_file(tmp_path / "w.safetensors")
    assert {name: value.dtype for name, value in held.items()} == {"a": torch.bfloat16, "b": torch.bfloat16, "c": torch.int64, "d": torch.bfloat16}
    assert torch.equal(_read(tmp_path, tensors)["a"], tensors["a"].bfloat16().float())


def test_shards_are_cut_by_size_and_their_index_is_the_hubs(tmp_path: Path) -> None:
    tensors = _tensors()
    tensor_files.write(tmp_path / "w.safetensors", tensors, dtype=torch.float32, file_bytes=60)
    assert json.loads((tmp_path / "w.safetensors.index.json").read_text()) == {
        "metadata": {"total_size": 48 + 20 + 8 + 48},
        "weight_map": {
            "a": "w-00001-of-00003.safetensors",
            "b": "w-00002-of-00003.safetensors",
            "c": "w-00002-of-00003.safetensors",
            "d": "w-00003-of-00003.safetensors",
        },
    }
    for path in (tmp_path, tmp_path / "w.safetensors.index.json"):
        assert all(torch.equal(value, _read(path, tensors)[name]) for name, value in tensors.items())


def test_a_single_file_after_shards_is_not_read_through_the_old_index(tmp_path: Path) -> None:
    tensors = _tensors()
    tensor_files.write(tmp_path / "w.safetensors", tensors, dtype=torch.float32, file_bytes=60)
    tensor_files.write(tmp_path / "w.safetensors", {"a": tensors["a"] + 1}, dtype=torch.float32, file_bytes=60)
    assert not (tmp_path / "w.safetensors.index.json").exists()
    assert set(tensor_files.found(tmp_path / "w.safetensors")) == {"a"}


def test_two_names_of_one_tensor_are_both_written(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensor_files.write(tmp_path / "w.safetensors", {"one": shared, "two": shared, "part": shared[:3]}, dtype=torch.float32)
    held = load_file(tmp_path / "w.safetensors")
    assert torch.equal(held["one"], shared) and torch.equal(held["two"], shared) and torch.equal(held["part"], shared[:3])


def test_what_cannot_be_read_is_one_sentence_each(tmp_path: Path) -> None:
    (tmp_path / "old.bin").write_bytes(b"x")
    (tmp_path / "torn.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "sharded").mkdir()
    tensor_files.write(tmp_path / "sharded" / "w.safetensors", _tensors(), dtype=torch.float32, file_bytes=60)
    (tmp_path / "sharded" / "w-00002-of-00003.safetensors").unlink()
    for path, error, words in (
        (tmp_path / "old.bin", CallError, "weights are read from .safetensors files"),
        (tmp_path / "none.safetensors", CallError, "there is no such file. Name a .safetensors file"),
        (tmp_path / "empty", CallError, "holds no .safetensors file. Name a file"),
        (tmp_path / "torn.safetensors", RunError, "cannot be read as safetensors"),
        (tmp_path / "sharded", CallError, "lists 1 files that are not beside it (w-00002-of-00003.safetensors). Get them"),
    ):
        with pytest.raises(error) as told:
            tensor_files.shapes(path)
        assert words in str(told.value) and str(path) in str(told.value)


def test_a_folder_with_several_files_asks_which(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tensor_files.write(tmp_path / f"{name}.safetensors", _tensors(), dtype=torch.float32)
    with pytest.raises(CallError, match=r"holds 2 files that may be meant \(one\.safetensors, two\.safetensors\)\. Name one of them"):
        tensor_files.found(tmp_path)


def test_an_index_that_promises_what_its_shard_lacks_is_one_sentence(tmp_path: Path) -> None:
    tensor_files.write(tmp_path / "w.safetensors", _tensors(), dtype=torch.float32, file_bytes=60)
    index = tmp_path / "w.safetensors.index.json"
    index.write_text(index.read_text().replace('"b": "w-00002', '"b": "w-00001'))
    with pytest.raises(RunError, match=r"the index promises b in w-00001-of-00003\.safetensors, which does not hold it \(1 such tensors\)"):
        tensor_files.shapes(index)
