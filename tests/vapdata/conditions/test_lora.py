"""The list of LoRAs: read strictly, resolved without loading, hashed, and said in one sentence when it is wrong."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from vapdata.clip import Sampling
from vapdata.condition import Facts, Provider
from vapdata.conditions.lora import Lora
from vapdata.errors import CallError, MissingWeights

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode: tiny_lora.py lies beside the tests
from tiny_lora import pipeline_folder

GRID = Sampling(frames=9, height=96, width=160, fps=8.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and two files called LoRAs: nothing here opens them."""
    folder = tmp_path_factory.mktemp("loras")
    pipeline_folder("tiny-cogvideox", folder / "cog")
    (folder / "squish.safetensors").write_bytes(b"squish")
    (folder / "hub").mkdir()
    (folder / "hub/pytorch_lora_weights.safetensors").write_bytes(b"melt")
    return folder


def _said(**changes: Any) -> dict[str, Any]:
    said = {
        "condition": "squish", "category": "concept", "model": "cog", "lora": "squish.safetensors", "trigger": "SQUISH_IT", "strength": 0.8,
        "sentence": "A hand squishes it.", "license": "Apache-2.0",
    }  # fmt: skip
    return {name: value for name, value in {**said, **changes}.items() if value is not None}


def _provider(folder: Path, *conditions: dict[str, Any], **settings: Any) -> Lora:
    path = folder / f"{hashlib.sha256(repr(conditions).encode()).hexdigest()[:8]}.yaml"
    path.write_text(yaml.safe_dump({"conditions": list(conditions) or [_said()]}))
    return Lora(config=str(path), **settings)


def test_a_condition_says_what_it_needs_and_whence(folder: Path) -> None:
    provider = _provider(folder, _said(), _said(condition="melt", lora="hub", prompt="{caption}, {trigger}!", seeds=2, steps=7, frames=17))
    assert isinstance(provider, Provider)
    squish, melt = provider.programs().values()
    assert (squish.lora.name, squish.lora.sha256) == ("squish.safetensors", hashlib.sha256(b"squish").hexdigest())
    assert melt.lora.name == "hub/pytorch_lora_weights.safetensors" and melt.takes == 2
    assert squish.model.pipeline == "CogVideoXImageToVideoPipeline" and squish.model.name == "cog" and len(squish.model.sha256) == 16
    assert squish.asked("A red ball.") == "SQUISH_IT A red ball."
    assert squish.asked(None) == "SQUISH_IT"
    assert melt.asked(" A ball ") == "A ball, SQUISH_IT!"
    assert squish.sampling(GRID) == GRID and melt.sampling(GRID).frames == 17
    assert str(folder) not in json.dumps(squish.draw(3)), "no path of this machine"


def test_another_file_strength_or_model_is_another_version_and_another_place_is_not(folder: Path, tmp_path: Path) -> None:
    def version(**changes: Any) -> int:
        return _provider(folder, _said(**changes)).programs()["squish"].version

    first = version()
    assert version() == first and version(sentence="Something else.", category="style") == first
    (tmp_path / "squish.safetensors").write_bytes(b"squish")
    assert version(lora=str(tmp_path / "squish.safetensors")) == first
    others = [version(strength=0.7), version(trigger="X"), version(steps=3), version(frames=17), version(lora="hub"), version(negative="blur")]
    assert len({first, *others}) == 7
    before = (folder / "cog/transformer/config.json").read_text()
    (folder / "cog/transformer/config.json").write_text(before + "\n")
    assert version(sentence="Again.") != first
    (folder / "cog/transformer/config.json").write_text(before)


def test_members_are_what_todays_version_made(folder: Path) -> None:
    provider = _provider(folder)
    version = provider.programs()["squish"].version
    clips = [
        Facts(clip_id="a", source="made", provider="lora", condition="squish", version=version),
        Facts(clip_id="b", source="made", provider="lora", condition="squish", version=version + 1),
        Facts(clip_id="c", source="made", provider="template", condition="squish", version=version),
        Facts(clip_id="d", source="ssv2"),
    ]
    assert [(each.clip_id, each.condition, each.category, each.score) for each in provider.members(clips)] == [("a", "squish", "concept", 70.0)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"condition": "Squish It"}, "wanted lower-case words with _ between, e.g. squish_it"),
        ({"category": "mood"}, "got category 'mood', wanted one of concept, style, motion, camera"),
        ({"strenght": 1}, "a condition: got 'strenght', wanted condition"),
        ({"sentence": None}, "'sentence' is missing"),
        ({"strength": 0}, "wanted a strength up to 4 that is not 0"),
        ({"strength": float("nan")}, "wanted a strength up to 4 that is not 0"),
        ({"seeds": 0}, "1 seed or more"),
        ({"prompt": "{caption}"}, "the trigger words are not in it"),
        ({"prompt": "{trigger} {subject}"}, r"got {subject}; wanted text with {trigger} and {caption}"),
        ({"license": None}, "no license is stated"),
        ({"steps": 0}, "wanted steps, frames, height, width and fps above 0"),
        ({"steps": "many"}, "a value is of the wrong kind"),
        ({"lora": "squish.ckpt"}, "wanted a .safetensors file, since other formats can run code"),
        ({"lora": "hub", "file": "x.bin"}, "wanted a .safetensors file"),
    ],
)
def test_what_is_wrong_in_the_list_is_one_sentence(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CallError) as raised:
        _provider(folder, _said(**changes)).programs()
    assert words in str(raised.value) and ".yaml" in str(raised.value)


def test_what_is_not_here_is_said_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    def says(words: str, **changes: Any) -> None:
        with pytest.raises(MissingWeights, match=words):
            _provider(folder, _said(**changes)).programs()

    says("gone.safetensors: there is no such file", lora="gone.safetensors")
    says("hf download someone/squish", lora="someone/squish")
    says("Type hf download someone/model", model="someone/model")
    says("hf download zai-org/CogVideoX-5b-I2V", model="cogvideox-5b-i2v")
    pipeline_folder("tiny-cogvideox", tmp_path / "half")
    (tmp_path / "half/transformer/diffusion_pytorch_model.safetensors").unlink()
    says("1 files are not here .transformer/diffusion_pytorch_model.safetensors", model=str(tmp_path / "half"))
    (tmp_path / "half/model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(CallError, match="names 'StableDiffusionPipeline', wanted one of CogVideoXImageToVideoPipeline"):
        _provider(folder, _said(model=str(tmp_path / "half"))).programs()


def test_the_call_itself_is_checked(folder: Path) -> None:
    with pytest.raises(CallError, match="Type --set lora.config=FILE"):
        Lora().programs()
    with pytest.raises(CallError, match="nowhere.yaml: No such file"):
        Lora(config="nowhere.yaml").programs()
    with pytest.raises(CallError, match="has no condition 'melt'. It has squish"):
        _provider(folder, only=("melt",)).programs()
    with pytest.raises(CallError, match="squish is there twice"):
        _provider(folder, _said(), _said()).programs()
    with pytest.raises(CallError, match="each=5 each_held_out=1 sources=4"):
        Lora(each=5, sources=4)
    with pytest.raises(CallError, match="got 5x96x160-8fps, wanted 1 . 8 n frames"):
        _provider(folder, _said(frames=5)).programs()["squish"].sampling(GRID)
