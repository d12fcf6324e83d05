"""ImageTokens on the tiny towers, against diffusers' Wan pipeline, transformers' BLIP-2 and open_clip."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from transformers import Blip2ForImageTextRetrieval, BlipImageProcessor, CLIPImageProcessor, CLIPVisionModel

from vapdata import tiny, weights
from vapdata.clip import Sample, Sampling
from vapdata.encoders import joint_towers
from vapdata.encoders.image_tokens import ImageTokens
from vapdata.errors import CallError

TOWERS = ["wan", "blip2", "clip"]
SHAPES = {"wan": (257, 64), "blip2": (257, 88), "clip": (145, 64)}


@pytest.fixture
def spec(tiny_models: Path, sampling: Sampling) -> ImageTokens:
    """Wan's tokens."""
    return ImageTokens(backbone="tiny-wan", sampling=sampling)


def library(tower: str, frames: list[np.ndarray], geometry: str | None = None) -> np.ndarray:
    """The same tokens from the library's own call, in one batch."""
    pictures = [Image.fromarray(frame) for frame in frames]
    with torch.no_grad():
        if tower == "wan":
            folder = tiny.folder("tiny-wan")
            stretch = {"size": {"height": 224, "width": 224}, "do_center_crop": False} if geometry == "stretch" else {}
            pipeline = WanImageToVideoPipeline(
                tokenizer=None, text_encoder=None, vae=None, scheduler=None,
                image_processor=CLIPImageProcessor.from_pretrained(folder / "image_processor", **stretch),
                image_encoder=CLIPVisionModel.from_pretrained(folder / "image_encoder").eval(),
            )  # fmt: skip
            return pipeline.encode_image(pictures, torch.device("cpu")).numpy()
        if tower == "blip2":
            folder = tiny.folder("tiny-blip2")
            pixels = BlipImageProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt").pixel_values
            model = Blip2ForImageTextRetrieval.from_pretrained(folder).eval()
            text = torch.ones(len(pictures), model.config.num_query_tokens + 1, dtype=torch.long)
            return model(pixels, input_ids=text, attention_mask=text).vision_model_output.last_hidden_state.numpy()
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny.folder('tiny-cogvideox') / 'clip'}")
        visual = model.eval().visual
        stream = visual._embeds(torch.stack([preprocess(picture) for picture in pictures]))
        for block in visual.transformer.resblocks[:-1]:
            stream = block(stream)
        return stream.numpy()


@pytest.mark.parametrize("tower", TOWERS)
def test_tokens_equal_the_librarys_own_call(spec: ImageTokens, sample: Callable[..., Sample], tower: str) -> None:
    one = sample(2)
    ((cell,),) = dataclasses.replace(spec, tower=tower).open("cpu").encode([one])
    np.testing.assert_allclose(cell.data, library(tower, [one.first])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.slow
def test_one_by_one_equals_a_batch_of_eight(spec: ImageTokens, sample: Callable[..., Sample], tower: str) -> None:
    samples = [sample(number) for number in range(8)]
    opened = dataclasses.replace(spec, tower=tower).open("cpu")
    together = np.stack([cells[0].data for cells in opened.encode(samples)])
    np.testing.assert_allclose(together, library(tower, [one.first for one in samples]), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(together, np.stack([opened.encode([one])[0][0].data for one in samples]))


def test_stretched_tokens_equal_a_processor_that_stretches(spec: ImageTokens, sample: Callable[..., Sample]) -> None:
    one = sample(2)
    ((cell,),) = dataclasses.replace(spec, geometry="stretch").open("cpu").encode([one])
    np.testing.assert_allclose(cell.data, library("wan", [one.first], "stretch")[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tower", TOWERS)
def test_crop_does_not_see_the_sides_and_stretch_does(spec: ImageTokens, sample: Callable[..., Sample], tower: str) -> None:
    one = sample(2)
    frames = one.frames.copy()
    frames[:, :, :30] = 0  # 96 x 160: a square crop starts at column 32
    other = dataclasses.replace(one, frames=frames)
    for geometry, same in (("crop", True), ("stretch", False)):
        opened = dataclasses.replace(spec, tower=tower, geometry=geometry).open("cpu")
        before, after = (opened.encode([each])[0][0].data for each in (one, other))
        assert np.array_equal(before, after) is same, geometry


@pytest.mark.parametrize(("tower", "geometry", "product"), [
    ("wan", None, "tiny-clip-h14-tokens-crop-96x160"), ("wan", "stretch", "tiny-clip-h14-tokens-stretch-96x160"),
    ("blip2", None, "tiny-blip2-g14-tokens-stretch-96x160"), ("clip", None, "tiny-clip-tokens-stretch-96x160"),
])  # fmt: skip
def test_what_is_declared_is_what_is_written(
    spec: ImageTokens, sample: Callable[..., Sample], tower: str, geometry: str | None, product: str
) -> None:
    spec = dataclasses.replace(spec, tower=tower, geometry=geometry)
    opened = spec.open("cpu")
    ((cell,),) = opened.encode([sample(text=None)])
    (declared,) = spec.products()
    assert cell.product == declared.name == product
    assert cell.shape == cell.data.shape == SHAPES[tower]
    assert cell.data.dtype == np.float32
    assert cell.columns == {"resize": "stretch", "pixel_height": 96, "pixel_width": 160}
    assert (declared.table, declared.dtype, declared.reads_caption) == ("features", "bf16", False)
    assert cell.caption is None
    assert opened.constants() == []


@pytest.mark.parametrize("tower", TOWERS)
def test_a_layer_may_be_counted_from_the_front_or_the_back(spec: ImageTokens, sample: Callable[..., Sample], tower: str) -> None:
    depth = {"wan": 3, "blip2": 2, "clip": 4}[tower]
    spec = dataclasses.replace(spec, tower=tower)
    states = [dataclasses.replace(spec, layer=layer).open("cpu").encode([sample()])[0][0].data for layer in (depth - 1, -2)]
    np.testing.assert_array_equal(states[0], states[1])
    assert dataclasses.replace(spec, layer=-2).products()[0].settings != spec.products()[0].settings


def test_open_clip_has_no_state_before_its_blocks(spec: ImageTokens) -> None:
    with pytest.raises(CallError, match=r"image_tokens.layer = 0"):
        dataclasses.replace(spec, tower="clip", layer=0)


def test_wans_own_image_encoder_is_the_vision_tower_that_makes_the_keywords(tiny_models: Path) -> None:
    """open_clip's ViT and transformers' CLIPVisionModel are one function of the same weights, in the penultimate tokens too."""
    folder = tiny.folder("tiny-wan")
    towers, _ = joint_towers.load(folder / "clip_xlm", folder / "xlm_roberta", "tiny-wan")
    theirs = CLIPVisionModel.from_pretrained(folder / "image_encoder").eval()
    theirs.load_state_dict(as_transformers(towers.visual.state_dict(), theirs.state_dict()))
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, penultimate = joint_towers.patch_tokens(towers.eval(), pixels)
        states = theirs(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(penultimate, states[:, 1:], rtol=0, atol=1e-5)


def as_transformers(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A vision tower's weights under transformers' names."""
    found = {}
    for name in theirs:
        short = name.removeprefix("vision_model.")
        if short.startswith("encoder.layers."):
            _, _, number, rest = short.split(".", 3)
            at = f"transformer.resblocks.{number}."
            part, kind = rest.rsplit(".", 1)
            if part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                found[name] = ours[f"{at}attn.in_proj_{kind}"].chunk(3)["qkv".index(part[10])]
            else:
                names = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
                found[name] = ours[f"{at}{names[part]}.{kind}"]
        else:
            names = {
                "embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight",
                "embeddings.position_embedding.weight": "positional_embedding", "embeddings.position_ids": "",
                "pre_layrnorm.weight": "ln_pre.weight", "pre_layrnorm.bias": "ln_pre.bias",
                "post_layernorm.weight": "ln_post.weight", "post_layernorm.bias": "ln_post.bias",
            }  # fmt: skip
            found[name] = ours[names[short]] if names[short] else theirs[name]
    return found


@pytest.mark.parametrize(("tower", "repo"), [
    ("wan", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"), ("blip2", "Salesforce/blip2-itm-vit-g"), ("clip", "timm/vit_large_patch14_clip_336.openai"),
])  # fmt: skip
def test_the_real_files_are_named_when_absent(tower: str, repo: str, sampling: Sampling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    absent = weights.missing(ImageTokens(backbone="wan2.1-t2v-1.3b", sampling=sampling, tower=tower).weights())
    assert {one.weight.repo for one in absent} == {repo}
