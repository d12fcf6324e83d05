"""LoRAs in real pipelines of tiny weights: what is worn shows, nothing of another stays, and memory that runs out is given way to."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from vapdata.clip import Sampling
from vapdata.conditions.lora import Lora, LoraCondition
from vapdata.conditions.lora_pipeline import Pipeline
from vapdata.errors import CallError, Transient

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode: tiny_lora.py lies beside the tests
from tiny_lora import PIPELINES, lora_file, pipeline_folder

GRID = Sampling(frames=9, height=32, width=48, fps=8.0)
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)

pytestmark = pytest.mark.slow


def _conditions(folder: Path, name: str) -> dict[str, LoraCondition]:
    """`first`, `second`: two LoRAs; `weak`: the first at a tenth; `none`: one that changes nothing."""
    pipeline_folder(name, folder / "model")
    for lora, seed, size in (("first", 1, 0.5), ("second", 2, 0.5), ("none", 3, 0.0)):
        lora_file(name, folder / lora, seed=seed, size=size)
    said = {"category": "style", "model": "model", "sentence": "It changes.", "license": "CC0-1.0", "steps": 1}
    listed = [{**said, "condition": each, "lora": each} for each in ("first", "second", "none")]
    (folder / "loras.yaml").write_text(yaml.safe_dump({"conditions": [*listed, {**said, "condition": "weak", "lora": "first", "strength": 0.1}]}))
    return dict(Lora(config=str(folder / "loras.yaml")).programs())


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoraCondition]:
    """Conditions of a tiny CogVideoX-I2V."""
    return _conditions(tmp_path_factory.mktemp("cog"), "tiny-cogvideox")


def _make(pipeline: Pipeline, condition: LoraCondition, seed: int = 5) -> np.ndarray:
    return pipeline.make(condition, IMAGE, "a red ball moves", seed, GRID)


@pytest.mark.parametrize("name", PIPELINES)
def test_what_is_worn_shows_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    conditions = _conditions(tmp_path, name)
    pipeline = Pipeline(conditions["first"].model, "cpu")
    assert type(pipeline.pipeline).__name__ == PIPELINES[name][0]
    plain = _make(pipeline, conditions["none"])
    assert plain.shape == (9, 32, 48, 3) and plain.dtype == np.uint8 and plain.std() > 5
    first, second = _make(pipeline, conditions["first"]), _make(pipeline, conditions["second"])
    assert np.abs(first.astype(int) - plain).mean() > 1 and np.abs(first.astype(int) - second).mean() > 1
    assert np.array_equal(_make(pipeline, conditions["none"]), plain), "the LoRA before is out"


def test_a_layer_computes_what_the_lora_file_says(cog: dict[str, LoraCondition]) -> None:
    from safetensors.torch import load_file

    pipeline = Pipeline(cog["weak"].model, "cpu")
    layer = pipeline.pipeline.transformer.transformer_blocks[0].attn1.to_q
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    pipeline._wear(cog["weak"])
    stored = {key: value.double() for key, value in load_file(cog["weak"].lora.path).items()}
    down, up = (stored[f"transformer.transformer_blocks.0.attn1.to_q.lora_{each}.weight"] for each in "AB")
    tokens = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(0))
    wanted = tokens.double() @ (weight + 0.1 * up @ down).T + bias  # strength times B A: alpha is the rank
    got = pipeline.pipeline.transformer.transformer_blocks[0].attn1.to_q(tokens).detach().double()
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_the_seed_decides_the_video(cog: dict[str, LoraCondition]) -> None:
    pipeline = Pipeline(cog["first"].model, "cpu")
    video = _make(pipeline, cog["first"])
    assert np.array_equal(_make(pipeline, cog["first"]), video)
    assert not np.array_equal(_make(pipeline, cog["first"], seed=6), video)


def _short_of_memory(pipeline: Pipeline, times: int) -> Callable[[], int]:
    """Makes the transformer run out of memory so many times; tells how often it did."""
    done: list[int] = []

    def hook(module: torch.nn.Module, inputs: Any) -> None:
        if len(done) < times:
            done.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    pipeline.pipeline.transformer.register_forward_pre_hook(hook)
    return lambda: len(done)


def test_memory_that_runs_out_is_given_way_to_step_by_step_and_said(cog: dict[str, LoraCondition], caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline(cog["first"].model, "cpu")
    video = _make(pipeline, cog["first"])
    times = _short_of_memory(pipeline, 1)
    assert np.array_equal(_make(pipeline, cog["first"]), video)
    assert (times(), pipeline.offload) == (1, "model")
    assert "out of memory (CUDA out of memory. Tried to allocate 9 GiB); model offload from now on" in caplog.text


def test_memory_that_does_not_suffice_even_so_is_a_sentence(cog: dict[str, LoraCondition]) -> None:
    pipeline = Pipeline(cog["first"].model, "cpu")
    times = _short_of_memory(pipeline, 9)
    with pytest.raises(Transient, match="too little memory for this video even layer by layer .CUDA out of memory.*Take fewer frames"):
        _make(pipeline, cog["first"])
    assert (times(), pipeline.offload) == (3, "sequential")


def test_a_lora_of_another_model_is_a_sentence(cog: dict[str, LoraCondition], tmp_path: Path) -> None:
    import dataclasses

    from vapdata.conditions.lora_files import lora_file as described

    lora_file("tiny-wan", tmp_path / "wan", seed=1)
    other = dataclasses.replace(cog["first"], lora=described(str(tmp_path / "wan"), None))
    with pytest.raises(CallError, match="condition first: wan/pytorch_lora_weights.safetensors .*model"):
        _make(Pipeline(cog["first"].model, "cpu"), other)
