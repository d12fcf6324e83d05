"""Tiny transformers and schedulers: real classes, the same bytes everywhere, weights that behave."""

import json
from pathlib import Path

import diffusers
import pytest
import torch

from vapdata import tiny, tiny_trained, tiny_transformer


@pytest.fixture(scope="module")
def made() -> Path:
    """The folder of the tiny model."""
    return tiny.folder("tiny-cogvideox")


def test_the_folder_loads_through_diffusers_own_classes(made: Path) -> None:
    transformer = diffusers.CogVideoXTransformer3DModel.from_pretrained(made / "transformer", local_files_only=True)
    scheduler = diffusers.CogVideoXDDIMScheduler.from_pretrained(made / "scheduler", local_files_only=True)
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 1_685_568
    assert transformer.config.in_channels == 2 * transformer.config.out_channels == 32
    assert transformer.config.use_rotary_positional_embeddings and not transformer.config.use_learned_positional_embeddings
    assert scheduler.alphas_cumprod[-1] == 0


def test_the_scheduler_is_that_of_cogvideox_5b_i2v(made: Path) -> None:
    config = json.loads((made / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == "CogVideoXDDIMScheduler"
    assert {name: config[name] for name in tiny_transformer.SCHEDULERS["tiny-cogvideox"]} == tiny_transformer.SCHEDULERS["tiny-cogvideox"]
    assert (config["prediction_type"], config["rescale_betas_zero_snr"], config["snr_shift_scale"]) == ("v_prediction", True, 1.0)


def test_drawn_weights_keep_activations_near_one() -> None:
    drawn = diffusers.CogVideoXTransformer3DModel(**tiny_transformer.TRANSFORMERS["tiny-cogvideox"])
    tiny_transformer.draw(drawn, "transformer")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        time = drawn.time_embedding(drawn.time_proj(torch.tensor([0.0, 500.0, 999.0])))
        predicted = drawn(
            hidden_states=torch.randn(1, 3, 32, 12, 20, generator=generator),
            encoder_hidden_states=torch.randn(1, 226, 64, generator=generator),
            timestep=torch.tensor([500]),
            image_rotary_emb=(torch.ones(180, 16), torch.zeros(180, 16)),
        ).sample
    assert 0.1 < time.std() < 1
    assert 0.5 < predicted.std() < 2


def test_its_settings_are_part_of_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before, other = tiny.version("tiny-cogvideox"), tiny.version("tiny-wan")
    monkeypatch.setitem(tiny_transformer.SCHEDULERS["tiny-cogvideox"], "snr_shift_scale", 3.0)
    assert tiny.version("tiny-cogvideox") != before
    assert tiny.version("tiny-wan") == other
    assert tiny_transformer.settings("tiny-blip2") == {} and tiny_transformer.makers("tiny-blip2") == {}


@pytest.mark.parametrize(("name", "count"), [("tiny-cogvideox", 1_685_568), ("tiny-wan", 1_268_992), ("tiny-hunyuan", 699_232)])
def test_the_families_are_their_own_classes_and_made_alike_every_time(name: str, count: int) -> None:
    folder, (transformer, scheduler) = tiny.folder(name), tiny_transformer.CLASSES[name]
    stored = getattr(diffusers, transformer).from_pretrained(folder / "transformer", local_files_only=True)
    drawn = getattr(diffusers, transformer)(**tiny_transformer.TRANSFORMERS[name])
    tiny_transformer.draw(drawn, "transformer")
    tiny_trained.put(drawn, name, "transformer")  # where there is something to put
    assert sum(parameter.numel() for parameter in drawn.parameters()) == count
    assert all(torch.equal(one, other) for one, other in zip(drawn.parameters(), stored.parameters(), strict=True))
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == scheduler
    assert {key: config[key] for key in tiny_transformer.SCHEDULERS[name]} == tiny_transformer.SCHEDULERS[name]


def test_tiny_wans_drawn_tokens_and_predictions_are_near_one() -> None:
    model = diffusers.WanTransformer3DModel(**tiny_transformer.TRANSFORMERS["tiny-wan"])
    tiny_transformer.draw(model, "transformer")
    generator = torch.Generator().manual_seed(0)
    states, text, image = (torch.randn(shape, generator=generator) for shape in ((1, 36, 3, 4, 6), (1, 512, 64), (1, 257, 64)))
    with torch.no_grad():
        patches = model.patch_embedding(states)
        predicted = model(states, torch.tensor([500.0]), text, image).sample
    assert 0.5 < patches.std() < 2
    assert 0.5 < predicted.std() < 2
