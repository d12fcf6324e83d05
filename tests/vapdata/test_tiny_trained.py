"""Trained weights that ship: what is in the files is in the folders, cards tell the truth, and all of it is small."""

import hashlib
import json
from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn

from vapdata import tiny, tiny_trained, tiny_transformer

SHIPPED = [(name, part) for name in tiny.NAMES for part in tiny_trained.parts(name)]
LARGEST_BYTES = 12_000_000


class Small(nn.Module):
    """A table of words and a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.matrix = nn.Linear(4, 3)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another folder of trained weights, empty."""
    monkeypatch.setattr(tiny_trained, "FOLDER", tmp_path)
    return tmp_path


def test_of_a_table_only_the_rows_that_learned_are_written(elsewhere: Path) -> None:
    torch.manual_seed(0)
    drawn, trained, again = Small(), Small(), Small()
    trained.load_state_dict(drawn.state_dict())
    again.load_state_dict(drawn.state_dict())
    with torch.no_grad():
        trained.words.weight[[2, 7]] += 0.5
        trained.matrix.weight += 0.25
    path = tiny_trained.save(trained, drawn, "tiny-x", "vae", {"seed": 3})
    assert tiny_trained.parts("tiny-x") == ("vae",)
    assert tiny_trained.card("tiny-x", "vae") == {"seed": 3, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert tiny_trained.put(again, "tiny-x", "vae")
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(dict(again.named_parameters())[name], parameter, atol=2e-3, rtol=1e-3)
    untouched = [0, 1, 3, 4, 5, 6, 8, 9]
    assert torch.equal(again.words.weight[untouched], drawn.words.weight[untouched])
    assert path.stat().st_size < 900


def test_a_number_too_large_for_half_precision_keeps_its_size(elsewhere: Path) -> None:
    drawn, trained, again = Small(), Small(), Small()
    with torch.no_grad():
        trained.matrix.weight[0, 0] = 1e6
    tiny_trained.save(trained, drawn, "tiny-x", "vae", {})
    tiny_trained.put(again, "tiny-x", "vae")
    assert float(again.matrix.weight[0, 0].detach()) == pytest.approx(1e6, rel=0.01)


def test_a_part_without_files_keeps_its_drawn_weights(elsewhere: Path) -> None:
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not tiny_trained.put(model, "tiny-x", "vae")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert tiny_trained.settings("tiny-x", [""]) == []


def test_other_weights_are_another_version(elsewhere: Path) -> None:
    before, other = tiny.version("tiny-cogvideox"), tiny.version("tiny-wan")
    drawn, trained = Small(), Small()
    tiny_trained.save(trained, drawn, "tiny-cogvideox", "vae", {})
    assert tiny.version("tiny-cogvideox") != before
    assert tiny.version("tiny-wan") == other


def test_other_weights_of_one_part_leave_the_other_parts_versions(elsewhere: Path) -> None:
    parts = ("vae", "clip", "text_encoder", "tokenizer", "scheduler", "transformer")
    before = {part: tiny.version("tiny-cogvideox", part) for part in parts}
    tiny_trained.save(Small(), Small(), "tiny-cogvideox", "transformer", {})
    after = {part: tiny.version("tiny-cogvideox", part) for part in parts}
    assert [part for part in parts if after[part] != before[part]] == ["transformer"]
    assert len(set(after.values())) == len(parts)


@pytest.mark.parametrize(("name", "part"), SHIPPED)
def test_a_card_says_how_its_weights_were_made_and_what_they_reached(name: str, part: str) -> None:
    card = tiny_trained.card(name, part)
    path = tiny_trained.FOLDER / name / f"{part}.safetensors"
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["made"] and all(isinstance(each, str) for each in card["made"])
    assert isinstance(card["seed"], int) and card["figures"]
    assert "/tmp" not in json.dumps(card["made"]) and "/home" not in json.dumps(card["made"])


def test_what_ships_is_small_and_every_file_has_its_card() -> None:
    files = [path for path in tiny_trained.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST_BYTES
    weights = {path.with_suffix("") for path in files if path.suffix == ".safetensors"}
    assert {path.with_suffix("") for path in files if path.suffix == ".json"} == weights


@pytest.mark.parametrize("name", [name for name, part in SHIPPED if part == "transformer"])
def test_the_folder_holds_the_trained_transformer(name: str) -> None:
    kind = getattr(diffusers, tiny_transformer.CLASSES[name][0])
    stored = dict(kind.from_pretrained(tiny.folder(name) / "transformer", local_files_only=True).named_parameters())
    drawn = kind(**tiny_transformer.TRANSFORMERS[name])
    tiny_trained.put(drawn, name, "transformer")
    assert all(torch.equal(parameter, stored[key]) for key, parameter in drawn.named_parameters())


def test_the_note_says_what_is_trained_and_what_is_random() -> None:
    assert "text encoders are random" in tiny.note(["tiny-cogvideox"])
    assert tiny.note(["tiny-hunyuan"]) == tiny.RANDOM_NOTE.format(name="tiny-hunyuan")
    both = tiny.note(["tiny-cogvideox", "tiny-blip2", "zai-org/CogVideoX-2b"])
    assert both == f"{tiny.NOTE}; {tiny.RANDOM_NOTE.format(name='tiny-blip2')}"
