"""The CLIP filters against open_clip asked directly, through a tiny CLIP that is saved and loaded as real ones are."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vapdata import tiny
from vapdata.clip import Caption, Sample
from vapdata.errors import MissingInput
from vapdata.filters.aesthetic import Aesthetic
from vapdata.filters.clip_frames import clip_weight, tower
from vapdata.filters.embedding import Embedding, unit_mean
from vapdata.filters.temporal_consistency import TemporalConsistency
from vapdata.filters.text_match import TextMatch

TINY = "tiny-cogvideox"
CAPTION = Caption(text="a red ball rolls over a blue floor", captioner="source", role="source")


def _sample(name: str, count: int, seed: int, caption: Caption | None = CAPTION) -> Sample:
    frames = np.random.default_rng(seed).integers(0, 256, (count, 54, 96, 3), np.uint8)
    return Sample(clip_id=name, frames=frames, caption=caption, times_s=tuple(0.5 * k for k in range(count)))


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [_sample("d/a", 5, 0), _sample("d/b", 3, 1)]


@pytest.fixture(scope="module")
def model() -> tuple[torch.nn.Module, object, object]:
    """(CLIP, picture transform, tokenizer) from open_clip itself, in float64."""
    name = f"local-dir:{tiny.folder(TINY)}/clip"
    clip, picture = open_clip.create_model_from_pretrained(name)
    return clip.eval().double(), picture, open_clip.get_tokenizer(name)


@pytest.fixture(scope="module")
def expected(samples: list[Sample], model: tuple) -> dict[str, torch.Tensor]:
    """Unit-length embeddings of every frame, one at a time, in float64."""
    clip, picture, _ = model
    with torch.no_grad():
        rows = {each.clip_id: [clip.encode_image(picture(Image.fromarray(frame))[None].double())[0] for frame in each.frames] for each in samples}
    return {name: torch.stack(vectors) / torch.stack(vectors).norm(dim=-1, keepdim=True) for name, vectors in rows.items()}


def test_the_embedding_is_the_unit_mean_of_unit_embeddings(samples: list[Sample], expected: dict[str, torch.Tensor]) -> None:
    opened = Embedding(model=TINY).open("cpu")
    answers = opened.judge(samples)
    for name, vectors in expected.items():
        (cell,) = answers[name].cells
        mean = vectors.mean(dim=0)
        assert cell.product == "embedding-tiny-cogvideox"
        assert cell.shape == (32,)
        np.testing.assert_allclose(cell.data, (mean / mean.norm()).numpy(), atol=1e-5)
        assert np.linalg.norm(cell.data.astype(np.float64)) == pytest.approx(1.0, abs=1e-6)
    opened.close()


def test_consistency_is_the_mean_cosine_of_neighbours(samples: list[Sample], expected: dict[str, torch.Tensor]) -> None:
    opened = TemporalConsistency(model=TINY).open("cpu")
    answers = opened.judge(samples)
    for name, vectors in expected.items():
        (score,) = answers[name].scores
        assert score.filter == "temporal_consistency"
        assert score.value == pytest.approx(float((vectors[:-1] * vectors[1:]).sum(-1).mean()), abs=1e-5)
    opened.close()


def test_a_still_clip_is_wholly_consistent_and_a_single_frame_says_nothing() -> None:
    still = Sample(clip_id="d/still", frames=np.full((4, 54, 96, 3), 99, np.uint8))
    single = Sample(clip_id="d/single", frames=np.full((1, 54, 96, 3), 99, np.uint8))
    opened = TemporalConsistency(model=TINY).open("cpu")
    answers = opened.judge([still, single])
    assert answers["d/still"].scores[0].value == pytest.approx(1.0, abs=1e-6)
    assert isinstance(answers["d/single"].failure, MissingInput)
    assert answers["d/single"].scores == ()
    opened.close()


def test_text_match_is_the_mean_cosine_with_the_caption(samples: list[Sample], expected: dict[str, torch.Tensor], model: tuple) -> None:
    clip, _, tokenizer = model
    with torch.no_grad():
        text = clip.encode_text(tokenizer([CAPTION.text]))[0]
    opened = TextMatch(model=TINY).open("cpu")
    answers = opened.judge([*samples, _sample("d/untold", 3, 2, None)])
    for name, vectors in expected.items():
        assert answers[name].scores[0].value == pytest.approx(float((vectors @ (text / text.norm())).mean()), abs=1e-5)
    assert "wants one" in str(answers["d/untold"].failure)
    opened.close()


def test_filters_of_one_stage_embed_each_frame_once(samples: list[Sample], tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1, 32), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    steps = (Embedding(model=TINY), Aesthetic(model=TINY, head=str(tmp_path / "head.safetensors")), TemporalConsistency(model=TINY), TextMatch(model=TINY))
    assert len({step.look for step in steps}) == 1
    seen = []
    shared = tower(TINY, "cpu")
    shared._model.visual.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    opened = [step.open("cpu") for step in steps]
    for each in opened:
        each.judge(samples)
    assert sum(seen) == 8
    opened[0].judge([_sample("d/a", 5, 7)])  # another decode of a clip is not mistaken for the last
    assert sum(seen) == 13
    for each in (*opened, shared):
        each.close()
    fresh = tower(TINY, "cpu")
    assert fresh is not shared, "the last to leave lets go of the model"
    fresh.close()


def test_an_embedding_alone_does_not_depend_on_its_company(samples: list[Sample]) -> None:
    opened = Embedding(model=TINY).open("cpu")
    together = opened.judge(samples)["d/b"].cells[0].data
    opened.close()
    opened = Embedding(model=TINY).open("cpu")
    assert (opened.judge(samples[1:])["d/b"].cells[0].data == together).all()
    opened.close()


def test_the_unit_mean_of_a_hand_computed_case() -> None:
    np.testing.assert_allclose(unit_mean(np.array([[1, 0], [0, 1]], np.float32)), [2**-0.5] * 2, rtol=1e-7)


def test_a_tiny_model_lies_in_a_folder_of_its_own() -> None:
    assert clip_weight(TINY).subfolder == "clip"
    assert clip_weight("timm/vit_large_patch14_clip_224.openai").subfolder == ""
