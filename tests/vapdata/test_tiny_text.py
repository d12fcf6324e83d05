"""The tiny text and image encoders: real classes behind the real loading path, counts as in the real models."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from vapdata import tiny, tiny_text
from vapdata.encoders import llava_prompt

FILES = {
    "tiny-wan": {"text_encoder/model", "image_encoder/model", "clip_xlm/open_clip_model"},
    "tiny-hunyuan": {"text_encoder/model", "text_encoder_2/model"},
    "tiny-blip2": {"model"},
}


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAPDATA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("name", FILES)
def test_a_tiny_model_has_its_weights_as_safetensors_and_names_no_folder_of_this_machine(name: str) -> None:
    folder = tiny.folder(name)
    tensors = {str(path.relative_to(folder)).removesuffix(".safetensors") for path in folder.rglob("*.safetensors")}
    assert tensors - {"vae/diffusion_pytorch_model", "transformer/diffusion_pytorch_model"} == FILES[name]
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    for path in folder.rglob("*.json"):
        assert str(folder.parent) not in path.read_text()
        json.loads(path.read_text())


@pytest.mark.parametrize("name", FILES)
def test_the_version_is_known_without_building_and_differs(name: str) -> None:
    assert len({tiny.version(each) for each in (*FILES, "tiny-cogvideox")}) == 4
    assert json.dumps(tiny_text.settings(name)) == json.dumps(tiny_text.settings(name))


def test_hunyuans_template_has_its_103_tokens() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder("tiny-hunyuan") / "tokenizer")
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(llava_prompt.TEMPLATE.split("{}")[0]).input_ids)
    assert len(pieces) == llava_prompt.CROP
    assert pieces[llava_prompt.IMAGE_AT] == "<image>"


def test_two_tokenizers_of_wan_cut_words_differently() -> None:
    folder = tiny.folder("tiny-wan")
    umt5, xlm = (AutoTokenizer.from_pretrained(folder / each) for each in ("tokenizer", "xlm_roberta"))
    assert len(umt5("mountain").input_ids) > len(xlm("mountain").input_ids)
    for vocabulary in (tiny_text.umt5_vocabulary(), tiny_text.xlm_vocabulary()):
        pieces = [piece for piece, _ in vocabulary]
        assert len(set(pieces)) == len(pieces)


def test_a_tiny_model_is_small(tmp_path: Path) -> None:
    for name in FILES:
        assert sum(path.stat().st_size for path in tiny.folder(name).rglob("*") if path.is_file()) < 12_000_000
