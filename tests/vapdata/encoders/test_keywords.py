"""Keywords on the tiny towers: open_clip's own embeddings, planted features, and the way through a catalog."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from PIL import Image
from torch.nn import functional
from transformers import AutoTokenizer

from catalogs import tensors
from catalogs.store import Catalog
from catalogs.verify import verify
from vapdata import tiny, weights
from vapdata.clip import Sample, Sampling
from vapdata.encoders import joint_towers
from vapdata.encoders.keywords import Keywords, OpenKeywords
from vapdata.encoders.llava import Llava
from vapdata.encoders.prompts import clean
from vapdata.encoders.umt5 import Umt5
from vapdata.errors import CallError
from vapdata.step import Cell, Product

TEXT = "A red circle moves past the mountain's building while a dog is walking"


@pytest.fixture
def spec(tiny_models: Path, sampling: Sampling) -> Keywords:
    """The tiny recipe's keywords."""
    return Keywords(backbone="tiny-wan", sampling=sampling)


@pytest.fixture
def opened(spec: Keywords) -> OpenKeywords:
    """Those, open."""
    return spec.open("cpu")


def test_tokens_of_both_towers_lead_to_open_clips_own_embeddings(opened: OpenKeywords, sample: Callable[..., Sample]) -> None:
    """The mean of the text's tokens before the projection, and the CLS token's twin of the patches' path, are the library's."""
    model = opened._model
    tokenizer = HFTokenizer(str(tiny.folder("tiny-wan") / "xlm_roberta"), context_length=77)
    ids = tokenizer([TEXT, "a dog"])
    assert ids[0].tolist() == opened.words(TEXT).ids
    pixels = opened._picture(Image.fromarray(sample().first))[None]
    with torch.no_grad():
        tokens = joint_towers.text_tokens(model, ids)
        mask = (ids != 1).float()[..., None]
        states = model.text.transformer(input_ids=ids, attention_mask=mask[..., 0].long()).last_hidden_state
        torch.testing.assert_close(model.text.proj((states * mask).sum(1) / mask.sum(1)), model.encode_text(ids), rtol=0, atol=1e-5)
        torch.testing.assert_close(tokens, model.text.proj(states), rtol=0, atol=1e-5)
        joint, penultimate = joint_towers.patch_tokens(model, pixels)
        stream = model.visual._embeds(pixels)
        for block in model.visual.transformer.resblocks[:-1]:
            stream = block(stream)
        torch.testing.assert_close(penultimate, stream[:, 1:], rtol=0, atol=1e-5)
        final = model.visual.ln_post(model.visual.transformer.resblocks[-1](stream)) @ model.visual.proj
        torch.testing.assert_close(joint, final[:, 1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(final[:, 0], model.encode_image(pixels), rtol=0, atol=1e-5)


def test_cells_follow_from_the_towers_by_the_formula(opened: OpenKeywords, sample: Callable[..., Sample]) -> None:
    ((maps, anchors, spans),) = opened.encode([sample(text=TEXT)])
    words = opened.words(TEXT)
    with torch.no_grad():
        told = joint_towers.text_tokens(opened._model, torch.tensor([words.ids]))[0].double()
        joint, penultimate = joint_towers.patch_tokens(opened._model, opened._picture(Image.fromarray(sample().first))[None])
    vectors = torch.stack([told[rows].mean(0) for rows in words.clip])
    scores = -functional.cosine_similarity(vectors[:, None], joint.double(), dim=-1)
    peaks = scores.max(1).values
    chosen = [row for row in range(len(peaks)) if peaks[row] > peaks.mean() + peaks.std(correction=0)]
    assert 0 < len(chosen) < len(words.spans)
    np.testing.assert_array_equal(spans.data, np.array([words.spans[row] for row in chosen], np.float32))
    np.testing.assert_allclose(maps.data.reshape(len(chosen), -1), scores[chosen].numpy(), rtol=0, atol=1e-5)
    weight = scores[chosen] - scores[chosen].min(1, keepdim=True).values
    np.testing.assert_allclose(anchors.data, (weight / weight.sum(1, keepdim=True) @ penultimate[0].double()).numpy(), rtol=0, atol=1e-5)


def test_spans_name_whole_words_and_their_rows_in_the_stored_embedding(opened: OpenKeywords, spec: Keywords, sample: Callable[..., Sample]) -> None:
    everything = dataclasses.replace(spec, threshold=-1.0).open("cpu")
    spans = everything.encode([sample(text=TEXT)])[0][2].data.astype(int)
    text, tokenizer = clean(TEXT), AutoTokenizer.from_pretrained(tiny.folder("tiny-wan") / "tokenizer")
    ids = tokenizer(text).input_ids
    assert [text[start:end] for start, end, _, _ in spans] == ["red", "circle", "moves", "past", "mountain's", "building", "dog", "walking"]
    for start, end, first, last in spans:
        assert tokenizer.decode(ids[first:last]).strip() == text[start:end]


def test_planted_features_come_back(opened: OpenKeywords, sample: Callable[..., Sample]) -> None:
    """Patches of a rectangle that point away from one word alone: that word is the keyword, its map the rectangle, its anchor their mean."""
    words = opened.words(TEXT)
    generator = torch.Generator().manual_seed(0)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[3:9, 5:12] = True
    told = functional.normalize(torch.randn(77, 512, generator=generator), dim=-1)
    planted = words.spans.index(next(span for span in words.spans if clean(TEXT)[span[0] : span[1]] == "dog"))
    noise = functional.normalize(torch.randn(256, 512, generator=generator), dim=-1)
    patches = torch.where(inside.reshape(-1, 1), -told[words.clip[planted]].mean(0) + 0.05 * noise, noise)
    tokens = inside.reshape(-1, 1).float() * torch.tensor([1.0, 2.0, 3.0])
    maps, anchors, spans = opened._chosen(words, told, patches, tokens)
    assert spans.tolist() == [list(words.spans[planted])]
    shown = torch.from_numpy(maps[0]) > 0.5
    assert torch.equal(shown, inside)
    # The other patches share a little of the weight: far less each than one inside.
    assert (anchors[0] / np.array([1.0, 2.0, 3.0])).min() > 0.4
    flipped = dataclasses.replace(opened._spec, similarity_sign="pos", minimum=1)
    opened._spec = flipped
    maps, _, _ = opened._chosen(words, told, -patches, tokens)
    assert torch.equal(torch.from_numpy(maps[0]) > 0.5, inside)


def test_what_is_declared_is_what_is_written(opened: OpenKeywords, spec: Keywords, sample: Callable[..., Sample]) -> None:
    (cells,) = opened.encode([sample(text=TEXT)])
    products = spec.products()
    assert [cell.product for cell in cells] == [product.name for product in products]
    assert [product.name for product in products] == [f"tiny-clip-xlm-keywords-{part}-stretch-96x160" for part in ("maps", "anchors", "spans")]
    assert [product.dtype for product in products] == ["f16", "bf16", "f32"]
    count = cells[0].shape[0]
    assert [cell.shape for cell in cells] == [(count, 16, 16), (count, 64), (count, 4)]
    for cell, product in zip(cells, products, strict=True):
        assert cell.data.dtype == np.float32
        assert cell.shape == cell.data.shape
        assert cell.columns == {"resize": "stretch", "pixel_height": 96, "pixel_width": 160, "text_truncated": False}
        assert cell.caption == sample(text=TEXT).caption
        assert (product.table, product.reads_caption, product.without_caption) == ("features", True, "none")
    assert opened.constants() == []


def test_a_row_does_not_depend_on_its_batch(opened: OpenKeywords, sample: Callable[..., Sample]) -> None:
    samples = [sample(number, text=f"{TEXT} {'and a cat ' * number}") for number in range(4)]
    for together, one in zip(opened.encode(samples), samples, strict=True):
        for left, right in zip(together, opened.encode([one])[0], strict=True):
            np.testing.assert_array_equal(left.data, right.data)


def test_a_batch_of_eight_equals_one_by_one_within_rounding(opened: OpenKeywords, sample: Callable[..., Sample]) -> None:
    samples = [sample(number, text=f"{TEXT} {'and a cat ' * number}") for number in range(8)]
    together = opened.keywords([one.first for one in samples], [opened.words(one.caption.text) for one in samples if one.caption])
    for arrays, one in zip(together, samples, strict=True):
        for left, right in zip(arrays, opened.encode([one])[0], strict=True):
            np.testing.assert_allclose(left, right.data, rtol=0, atol=1e-5)


@pytest.mark.parametrize("text", ["", " \n", "🎈🎈", "the of 12", "<s></s>"])
def test_a_caption_without_words_has_no_keywords_and_still_its_rows(opened: OpenKeywords, sample: Callable[..., Sample], text: str) -> None:
    (cells,) = opened.encode([sample(text=text)])
    assert [cell.shape for cell in cells] == [(0, 16, 16), (0, 64), (0, 4)]
    for cell, dtype in zip(cells, ("f16", "bf16", "f32"), strict=True):
        assert tensors.unpack(tensors.pack(cell.data, dtype), dtype, cell.shape).shape == cell.shape


def test_a_clip_without_caption_gets_no_rows(opened: OpenKeywords, sample: Callable[..., Sample]) -> None:
    assert [len(cells) for cells in opened.encode([sample(0), sample(1, text=None), sample(2)])] == [3, 0, 3]


def test_chinese_captions_have_keywords(opened: OpenKeywords, sample: Callable[..., Sample]) -> None:
    text = "一只红色的狗在草地上跑"
    spans = opened.encode([sample(text=text)])[0][2].data.astype(int)
    assert len(spans) >= 1
    assert all(text[start:end] and last > first for start, end, first, last in spans)


def test_words_beyond_the_text_tower_are_no_keywords(spec: Keywords, sample: Callable[..., Sample]) -> None:
    text = "red " * 60 + "mountain"
    short, long = (dataclasses.replace(spec, threshold=-1.0, tokens=tokens).open("cpu").words(text) for tokens in (40, 77))
    assert len(short.spans) == 38
    assert len(long.spans) == 61
    assert len(short.ids) == 40


@pytest.mark.parametrize(
    "switch",
    [{"geometry": "crop"}, {"similarity_sign": "pos"}, {"anchor_weights": "raw"}, {"anchor_weights": "softmax"}, {"threshold": 0.0}, {"minimum": 3}],
)
def test_each_switch_changes_bytes_and_settings(spec: Keywords, opened: OpenKeywords, sample: Callable[..., Sample], switch: dict[str, object]) -> None:
    other = dataclasses.replace(spec, **switch)
    assert other.products()[0].settings != spec.products()[0].settings
    before, after = opened.encode([sample(text=TEXT)])[0], other.open("cpu").encode([sample(text=TEXT)])[0]
    assert any(left.shape != right.shape or not np.array_equal(left.data, right.data) for left, right in zip(before, after, strict=True))


def test_a_caption_with_more_tokens_than_are_read_is_flagged(spec: Keywords, opened: OpenKeywords, sample: Callable[..., Sample]) -> None:
    fits, long = "red " * 75, "red " * 76
    assert [cell.columns["text_truncated"] for text in (fits, long) for cell in opened.encode([sample(text=text)])[0]] == [False] * 3 + [True] * 3
    wide = dataclasses.replace(spec, tokens=512).open("cpu")
    assert not wide.words("red " * 200).truncated
    assert wide.words("mountain " * 300).truncated, "the tiny UMT5 cuts the word into pieces: more than its 512 rows"


@pytest.fixture
def hunyuan(tiny_models: Path, sampling: Sampling) -> Keywords:
    """The keywords of the tiny HunyuanVideo."""
    return Keywords(backbone="tiny-hunyuan", sampling=sampling, threshold=-1.0)


def test_spans_of_hunyuanvideo_name_rows_of_the_stored_llava_embedding(hunyuan: Keywords, sampling: Sampling, sample: Callable[..., Sample]) -> None:
    """Behind the image rows, each word's tokens; whichever of them are kept."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder("tiny-hunyuan") / "tokenizer")
    ((embedded,),) = Llava(backbone="tiny-hunyuan", sampling=sampling).open("cpu").encode([sample(text=TEXT)])
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    for interleave, image_rows in ((None, 144), (2, 288)):
        opened = dataclasses.replace(hunyuan, interleave=interleave).open("cpu")
        spans = opened.encode([sample(text=TEXT)])[0][2].data.astype(int)
        assert [TEXT[start:end] for start, end, _, _ in spans] == ["red", "circle", "moves", "past", "mountain's", "building", "dog", "walking"]
        for start, end, first, last in spans:
            assert tokenizer.decode(ids[first - image_rows : last - image_rows]).strip() == TEXT[start:end]
            assert image_rows <= first < last <= image_rows + len(ids)
    assert len(embedded.data) == 144 + len(ids) + 1, "the blank line behind the header"


def test_hunyuanvideos_anchors_lie_in_the_joint_space(hunyuan: Keywords, sample: Callable[..., Sample]) -> None:
    opened = hunyuan.open("cpu")
    maps, anchors, _ = opened.encode([sample(text=TEXT)])[0]
    with torch.no_grad():
        joint, _ = joint_towers.patch_tokens(opened._model, opened._picture(Image.fromarray(sample().first))[None])
    scores = torch.from_numpy(maps.data).reshape(len(maps.data), -1).double()
    weight = scores - scores.min(1, keepdim=True).values
    np.testing.assert_allclose(anchors.data, (weight / weight.sum(1, keepdim=True) @ joint[0].double()).numpy(), rtol=0, atol=1e-4)
    assert anchors.shape[1] == 48 != Keywords(backbone="tiny-wan", sampling=hunyuan.sampling).open("cpu").encode([sample(text=TEXT)])[0][1].shape[1]


def test_both_families_keywords_stand_side_by_side(spec: Keywords, hunyuan: Keywords) -> None:
    names = [product.name for product in hunyuan.products()]
    assert names == [f"tiny-clip-xlm-keywords-{part}-stretch-96x160-llava-i4" for part in ("maps", "anchors", "spans")]
    assert not {product.name for product in spec.products()} & set(names)
    assert (hunyuan.products()[0].settings["interleave"], hunyuan.products()[0].settings["anchor_space"]) == (4, "joint")


def test_the_real_hunyuanvideo_wants_llavas_tokenizer(sampling: Sampling) -> None:
    *_, tokenizer = Keywords(backbone="hunyuanvideo-i2v", sampling=sampling).weights()
    assert (tokenizer.repo, tokenizer.subfolder) == ("hunyuanvideo-community/HunyuanVideo-I2V", "tokenizer")


@pytest.mark.parametrize("wrong", [{"tokens": 2}, {"temperature": 0.0}, {"minimum": -1}, {"backbone": "tiny-cogvideox"}, {"interleave": 2}])
def test_settings_that_make_no_sense_are_refused(spec: Keywords, wrong: dict[str, object]) -> None:
    with pytest.raises(CallError, match=r"keywords"):
        dataclasses.replace(spec, **wrong)


def test_towers_without_a_hugging_face_text_tower_are_refused(spec: Keywords, tiny_models: Path) -> None:
    with pytest.raises(CallError, match="no Hugging Face text tower"):
        dataclasses.replace(spec, model=str(tiny_models / "clip")).open("cpu")


def test_the_real_files_are_named_when_absent(sampling: Sampling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    absent = weights.missing(Keywords(backbone="wan2.1-i2v-14b-480p", sampling=sampling).weights())
    assert [one.weight.repo for one in absent][:2] == ["laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k"] * 2
    assert {one.weight.repo for one in absent[2:4]} == {"FacebookAI/xlm-roberta-large"}


@pytest.mark.slow
def test_a_trainer_reads_them_from_the_catalog_beside_the_text_they_speak_of(
    tmp_path: Path, spec: Keywords, opened: OpenKeywords, sample: Callable[..., Sample]
) -> None:
    samples = [sample(0, text=TEXT), sample(1, text="🎈")]
    umt5 = Umt5(backbone="tiny-wan")
    catalog = Catalog.open(tmp_path / "catalog", create=True)
    with catalog.lock("test"):
        for one in samples:
            catalog.append(clip_rows(one), run_id="run")
        for encoder, cells in ((spec, opened.encode(samples)), (umt5, umt5.open("cpu").encode(samples))):
            for number, product in enumerate(encoder.products()):
                catalog.append({product.table: tensor_rows(catalog, product, [each[number] for each in cells])}, run_id="run")
    stored = {row["product"]: row for row in catalog.read("features").to_pylist() if row["clip_id"] == "made/0"}
    maps, anchors, spans = (catalog.read_tensor(stored[product.name]) for product in spec.products())
    (text,) = [catalog.read_tensor(row) for row in catalog.read("texts").to_pylist() if row["clip_id"] == "made/0"]
    kept = opened.encode(samples[:1])[0]
    np.testing.assert_allclose(maps, kept[0].data, rtol=0, atol=2**-11)
    np.testing.assert_allclose(anchors, kept[1].data, rtol=2**-8)
    np.testing.assert_array_equal(spans, kept[2].data)
    assert len(maps) == len(anchors) == len(spans) > 0
    for _, _, first, last in spans.astype(int):
        assert 0 <= first < last < len(text), "rows of the stored embedding, before its end mark"
    empty = [catalog.read_tensor(row).shape for row in catalog.read("features").to_pylist() if row["clip_id"] == "made/1"]
    assert sorted(empty) == [(0, 4), (0, 16, 16), (0, 64)]
    assert [str(finding) for finding in verify(catalog) if "keywords" in str(finding)] == []


def clip_rows(one: Sample) -> dict[str, list[dict[str, Any]]]:
    """Video, clip and caption of a sample."""
    name, caption = one.clip_id, one.caption
    shared = {"shard": "made-000000", "split": "train"}
    video = {"video_id": name, "dataset": "made", "source": "folder", "name": name, "uri": name, "split_group": name, **shared}
    span = {"clip_id": name, "video_id": name, "source": "made", "start_s": 0.0, "end_s": 2.0, "frames": 9, "fps": 8.0, **shared}
    facts = {"width": 160, "height": 96, "codec": "h264", "whole": True, "truncated": False}
    told = {"captioner": caption.captioner, "role": caption.role, "text": caption.text, "text_sha256": caption.text_sha256}
    return {"videos": [video], "clips": [{**span, **facts}], "captions": [{"clip_id": name, "shard": "made-000000", **told}]}


def tensor_rows(catalog: Catalog, product: Product, cells: list[Cell]) -> list[dict[str, Any]]:
    """Tensor files and table rows of one product, as a build writes them."""
    digest = catalog.claim(product.name, product.settings)
    packed = [(cell.clip_id, tensors.pack(cell.data, product.dtype)) for cell in cells]
    file = catalog.write_tensors(product.name, "made-000000", 0, packed)
    model = {"product": product.name, "model_id": product.model_id, "revision": product.revision, "settings_sha256": digest, "dtype": product.dtype}
    return [
        {
            "clip_id": cell.clip_id, "shard": "made-000000", **model, "shape": list(cell.shape), "file": file, "row_group": number, **cell.columns,
            "captioner": cell.caption.captioner, "role": cell.caption.role, "text_sha256": cell.caption.text_sha256,
        }
        for number, cell in enumerate(cells) if cell.caption
    ]  # fmt: skip
