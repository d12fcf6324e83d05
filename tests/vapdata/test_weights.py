"""Finding weights in folders and in a hub cache laid out as huggingface_hub lays it out."""

import json
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

from vapdata import tiny, weights
from vapdata.errors import MissingWeights
from vapdata.weights import Weight

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VAE = Weight(repo="org/model", subfolder="vae", stem="diffusion_pytorch_model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(hub: Path, repo: str, files: list[str], commit: str = COMMIT, *, main: bool = True) -> Path:
    """Writes `files` as the hub's cache would; returns the snapshot folder."""
    base = hub / ("models--" + repo.replace("/", "--"))
    for file in files:
        path = base / "snapshots" / commit / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    if main:
        (base / "refs").mkdir(parents=True, exist_ok=True)
        (base / "refs" / "main").write_text(commit)
    return base / "snapshots" / commit


def test_a_cached_model_is_found_where_huggingface_hub_finds_it(hub: Path) -> None:
    put(hub, "org/model", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"])
    theirs = try_to_load_from_cache("org/model", "vae/config.json", cache_dir=hub)
    assert str(weights.find(VAE) / "config.json") == theirs
    assert weights.revision(VAE) == COMMIT
    assert weights.missing([VAE]) == []


def test_hf_home_names_the_cache_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    put(tmp_path / "hub", "org/model", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"])
    assert weights.find(VAE).is_dir()


def test_an_earlier_name_of_the_repository_counts(hub: Path) -> None:
    put(hub, "old/model", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"])
    weight = Weight(repo="org/model", subfolder="vae", stem="diffusion_pytorch_model", aliases=("old/model",))
    assert weights.find(weight).is_dir()


def test_a_snapshot_without_main_is_found(hub: Path) -> None:
    put(hub, "org/model", ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"], main=False)
    assert weights.revision(VAE) == COMMIT


def test_missing_names_each_file_and_the_command(hub: Path) -> None:
    found = [str(one) for one in weights.missing([VAE])]
    assert found == [
        'org/model: vae/config.json. Get it: hf download org/model --include "vae/*"',
        'org/model: vae/diffusion_pytorch_model.safetensors. Get it: hf download org/model --include "vae/*"',
    ]


def test_find_says_what_to_type(hub: Path) -> None:
    with pytest.raises(MissingWeights, match=r'2 model files(.|\n)*vae/config.json(.|\n)*hf download org/model --include "vae/\*"'):
        weights.find(VAE)


def test_a_half_finished_download_names_only_the_absent_shard(hub: Path) -> None:
    weight = Weight(repo="org/model", subfolder="text_encoder", stem="model")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    snapshot = put(hub, "org/model", ["text_encoder/config.json", "text_encoder/model-00001-of-00002.safetensors"])
    (snapshot / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [one.file for one in weights.missing([weight])] == ["text_encoder/model-00002-of-00002.safetensors"]


def test_pickled_weights_do_not_count(hub: Path) -> None:
    put(hub, "org/model", ["vae/config.json", "vae/diffusion_pytorch_model.bin"])
    assert [one.file for one in weights.missing([VAE])] == ["vae/diffusion_pytorch_model.safetensors"]


def test_either_tokenizer_file_is_enough(hub: Path) -> None:
    weight = Weight(repo="org/model", subfolder="tokenizer", files=("tokenizer_config.json", "spiece.model|tokenizer.json"))
    put(hub, "org/model", ["tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json"])
    assert weights.missing([weight]) == []


def test_a_local_folder_serves_with_or_without_the_subfolder(tmp_path: Path) -> None:
    for folder in (tmp_path / "whole" / "vae", tmp_path / "alone"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    for name, inside in (("whole", "whole/vae"), ("alone", "alone")):
        weight = Weight(repo=str(tmp_path / name), subfolder="vae", stem="diffusion_pytorch_model")
        assert weights.find(weight) == tmp_path / inside
        assert weight.model_id == name


def test_the_revision_of_a_folder_changes_with_its_weights(tmp_path: Path) -> None:
    weight = Weight(repo=str(tmp_path), stem="model")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = weights.revision(weight)
    assert weights.revision(weight) == before
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert weights.revision(weight) != before


def test_absent_weights_have_a_revision_that_says_so(hub: Path) -> None:
    assert weights.revision(VAE) == "absent"


def test_tiny_models_are_never_missing(hub: Path) -> None:
    weight = Weight(repo="tiny-cogvideox", subfolder="vae", stem="diffusion_pytorch_model")
    assert weights.missing([weight]) == []
    assert weights.revision(weight) == tiny.version("tiny-cogvideox", "vae")


def test_every_file_is_listed_with_its_size_or_its_share_of_the_download(hub: Path) -> None:
    shards = tuple(f"model-{part:05d}-of-00002.safetensors" for part in (1, 2))
    index = "model.safetensors.index.json"
    weight = Weight(repo="org/model", subfolder="text", files=("config.json", "spiece.model|tokenizer.json"), stem="model", hub_files=(index, *shards), bytes=100)
    said = [(file.name, file.here, file.bytes) for file in weights.files(weight)]
    names = ["config.json", "spiece.model", index, *shards]
    assert said == [(f"text/{name}", False, 50 if name in shards else None) for name in names]
    snapshot = put(hub, "org/model", ["text/config.json", "text/tokenizer.json", f"text/{shards[0]}"])
    (snapshot / "text" / index).write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    now = {file.name: (file.here, file.bytes) for file in weights.files(weight)}
    assert now[f"text/{shards[0]}"] == (True, len(f"text/{shards[0]}"))
    assert now[f"text/{shards[1]}"] == (False, 50)
    assert now["text/tokenizer.json"][0]
    assert now[f"text/{index}"][0]
    assert [missing.file for missing in weights.missing([weight])] == [f"text/{shards[1]}"]


def test_small_files_are_asked_for_by_name_and_not_with_a_whole_repository() -> None:
    weight = Weight(repo="org/model", files=("config.json", "tokenizer.json|spiece.model"))
    assert weight.how == "hf download org/model config.json tokenizer.json"
    assert Weight(repo="org/model", stem="model").how == "hf download org/model"
