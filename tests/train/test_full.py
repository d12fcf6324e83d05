import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from catalogs.store import Catalog
from train.backbones import load_backbone
from train.batch import Batch, Reads
from train.blocks import Blocks
from train.data import Loader
from train.export import Card, export_backbone, read_card
from train.full import Full
from train.index import build_index
from train.method import Backbone, Method, MethodModule, unwrapped
from train.optimizer import trained
from vapdata import backbones
from vapdata.errors import CallError

FACTS = backbones.backbone("tiny-cogvideox")


@pytest.fixture
def backbone() -> Backbone:
    return load_backbone(FACTS, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def batch(tiny_catalog: Path) -> Batch:
    """Two samples of the real catalog."""
    objective = load_backbone(FACTS, dtype=torch.float32, device=torch.device("cpu")).objective
    index = build_index(Catalog.open(tiny_catalog), FACTS, Reads(first=1), method="full")
    loader = Loader(index, FACTS, objective, seed=0, global_batch=2, micro_batch=2)
    made = loader.step(0).micro[0]
    loader.close()
    return made


def test_it_is_a_method_that_takes_no_reference() -> None:
    assert isinstance(Full(), Method)
    assert Full().reads(FACTS) == Reads(text=True) and Full.trains_backbone


def test_the_prediction_is_the_transformers_own_bit_for_bit(backbone: Backbone, batch: Batch) -> None:
    stock = load_backbone(FACTS, dtype=torch.float32, device=torch.device("cpu"))
    module = Full().attach(backbone, unwrapped)
    assert isinstance(module, MethodModule)
    with torch.no_grad():
        assert torch.equal(module.predict(batch.noise, batch.timesteps, batch.target, ()), stock.forward(batch.noise, batch.timesteps, batch.target))


def test_the_loss_is_the_objectives_on_the_noised_target(backbone: Backbone, batch: Batch) -> None:
    """v-prediction by hand: mean of (v - (a noise - s clean))^2 with a^2 + s^2 = 1."""
    module = Full().attach(backbone, unwrapped)
    with torch.no_grad():
        losses = module(batch)
        noisy = backbone.objective.noisy(batch.target.video, batch.noise, batch.timesteps)
        predicted = module.predict(noisy, batch.timesteps, batch.target, ())
    for place in range(2):
        clean, noise, seen = (each[place].double().flatten() for each in (batch.target.video, batch.noise, noisy))
        a, s = torch.linalg.lstsq(torch.stack([clean, noise], dim=1), seen[:, None]).solution.flatten()
        assert float(a**2 + s**2) == pytest.approx(1, abs=1e-5)
        assert float(losses[place]) == pytest.approx(float((predicted[place].double().flatten() - (a * noise - s * clean)).square().mean()), rel=1e-4)


def test_every_weight_gets_a_gradient_in_float32_also_from_a_backbone_in_bf16(batch: Batch) -> None:
    module = Full().attach(load_backbone(FACTS, dtype=torch.bfloat16, device=torch.device("cpu")), unwrapped)
    module(batch).sum().backward()
    silent = [name for name, parameter in module.named_parameters() if parameter.grad is None or parameter.dtype != torch.float32]
    assert not silent and trained(module).keys() == {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("keep", ["attention", "nothing"])
def test_activations_computed_again_give_the_same_gradient(keep: str, batch: Batch) -> None:
    found = []
    for wrap in (unwrapped, replace(Blocks(), keep=keep).wrap):
        module = Full().attach(load_backbone(FACTS, dtype=torch.float32, device=torch.device("cpu")), wrap)
        module(batch).sum().backward()
        found.append({name: parameter.grad for name, parameter in module.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])  # type: ignore[arg-type]


def test_what_was_trained_loads_in_diffusers_and_as_a_backbone(backbone: Backbone, batch: Batch, tmp_path: Path) -> None:
    from diffusers import CogVideoXTransformer3DModel

    module = Full().attach(backbone, unwrapped)
    with torch.no_grad():
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(module.parameters()) * 1.01, module.parameters())
    export_backbone(tmp_path, backbone, Card(backbone=FACTS.name, catalog="c", index="i", step=1, method="full", config={"caption_drop": 0.1}))
    theirs = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "transformer")
    assert all(torch.equal(value, backbone.transformer.state_dict()[name]) for name, value in theirs.state_dict().items())
    again = load_backbone(FACTS, dtype=torch.float32, device=torch.device("cpu"), folder=str(tmp_path))
    with torch.no_grad():
        assert torch.equal(again.forward(batch.noise, batch.timesteps, batch.target), module.predict(batch.noise, batch.timesteps, batch.target, ()))
    assert (read_card(tmp_path).method, json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())) == ("full", dict(backbone.scheduler_config))


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(CallError, match=r"caption_drop is a share, 0 to 1; got 1\.5\. Type --set full\.caption_drop=0\.1"):
        Full(caption_drop=1.5)
