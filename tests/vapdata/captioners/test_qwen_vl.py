"""Qwen2.5-VL and Qwen3-VL through their real classes and processors: texts by clip, batches, times, and what goes wrong."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shown import sample

from vapdata import tiny
from vapdata.captioners.asking import Question
from vapdata.captioners.qwen_vl import QwenEngine, QwenVl
from vapdata.clip import Sample
from vapdata.errors import BadAnswer, CallError, MissingWeights, Transient

MODELS = ("tiny-qwen2.5-vl", "tiny-qwen3-vl")


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest) -> QwenEngine:
    return QwenVl(model=request.param, batch=5).engine("cpu")


def _questions(samples: Sequence[Sample]) -> list[Question]:
    return [Question(id=each.clip_id, text="Describe the clip.", shown=(each,)) for each in samples]


def _mixed() -> list[Sample]:
    """Clips of several lengths and sizes, so that a batch has rows of several lengths."""
    return [sample(0), sample(1, frames=8), sample(2, height=96, width=48), sample(3, frames=2, seconds=0.4), sample(4, frames=6, seconds=30.0)]


@pytest.mark.slow
def test_a_batch_says_of_each_clip_what_the_clip_alone_is_told_as(engine: QwenEngine) -> None:
    together = engine.answer(_questions(_mixed()))
    alone = {clip_id: said for question in _questions(_mixed()) for clip_id, said in engine.answer([question]).items()}
    assert {clip_id: said.text for clip_id, said in together.items()} == {clip_id: said.text for clip_id, said in alone.items()}
    assert len({said.text for said in together.values()}) == 5
    assert {said.ended for said in together.values()} == {"end"}
    assert all(said.tokens == len(said.text.split()) and said.prompt_tokens > 20 for said in together.values())


def test_padding_moves_no_logit_by_more_than_rounding(engine: QwenEngine) -> None:
    questions = _questions(_mixed())
    with torch.inference_mode():
        rows = engine.model(**engine.inputs(questions)).logits[:, -1]
        single = torch.cat([engine.model(**engine.inputs([question])).logits[:, -1] for question in questions])
    assert float((rows - single).abs().max()) < 1e-4 * float(single.abs().max())


def test_the_model_is_told_when_each_frame_is_shown(engine: QwenEngine) -> None:
    inputs = engine.inputs(_questions([sample(0, seconds=8.0)]))
    if "second_per_grid_ts" in inputs:  # Qwen2.5-VL: seconds of two frames, for the positions in time
        assert [float(each) for each in inputs["second_per_grid_ts"]] == [pytest.approx(4.0)]
    else:  # Qwen3-VL: written out, the mean of two frames
        text = engine.processor.tokenizer.decode(inputs["input_ids"][0])
        assert "<2.0 seconds>" in text
        assert "<6.0 seconds>" in text


def test_the_chat_holds_the_prompt_after_the_clip(engine: QwenEngine) -> None:
    text = engine.processor.tokenizer.decode(engine.inputs(_questions([sample(0)]))["input_ids"][0])
    assert text.startswith("<|im_start|>user\n")
    assert text.endswith("Describe the clip.<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("<|video_pad|>") == int(engine.inputs(_questions([sample(0)]))["video_grid_thw"][0].prod()) // 4


def test_two_clips_in_one_question_are_both_shown_in_order(engine: QwenEngine) -> None:
    pair = Question(id="p", text="Same?", shown=(sample(0), sample(1, frames=8)))
    inputs = engine.inputs([pair])
    assert inputs["video_grid_thw"][:, 0].tolist() == [2, 4]
    text = engine.processor.tokenizer.decode(inputs["input_ids"][0])
    assert text.index("Clip 1:") < text.index("<|video_pad|>") < text.index("Clip 2:") < text.index("Same?")
    swapped = Question(id="p", text="Same?", shown=pair.shown[::-1])
    assert engine.answer([pair])["p"].text != engine.answer([swapped])["p"].text


@pytest.mark.slow
def test_one_clip_that_cannot_be_shown_fails_alone(engine: QwenEngine) -> None:
    thin = replace(sample(7), frames=np.zeros((4, 2, 900, 3), np.uint8))  # the processors take no picture 200 times as wide as high
    said = engine.answer(_questions([sample(0), thin, sample(2)]))
    assert isinstance(said["d/7"], Transient)
    assert str(said["d/7"]).startswith("qwen_vl, clip d/7: ValueError: ")
    assert said["d/0"].text == engine.answer(_questions([sample(0)]))["d/0"].text
    assert said["d/2"].ended == "end"


def test_a_gpu_without_memory_is_a_failure_that_may_pass(engine: QwenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**arguments: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.model, "generate", full)
    said = engine.answer(_questions([sample(0), sample(1)]))
    assert [type(each) for each in said.values()] == [Transient, Transient]
    assert "Lower --set qwen_vl.batch, .frames or .long_side" in str(said["d/0"])


def test_captions_say_whose_they_are() -> None:
    spec = QwenVl(model=MODELS[0], prompts=("long-1", "short-1"))
    with_model = spec.open("cpu")
    said = with_model.describe([sample(0), sample(1)])
    assert set(said) == {"d/0", "d/1"}
    assert [caption.role for caption in said["d/1"].captions] == ["long", "short"]
    assert {caption.role: caption.author for caption in said["d/0"].captions} == dict(spec.writes())
    assert spec.writes()["long"].revision == tiny.version(MODELS[0])
    assert {(caption.captioner, caption.frames_used) for caption in said["d/0"].captions} == {("qwen_vl", 4)}
    assert all(caption.seconds > 0 for caption in said["d/0"].captions)
    with_model.close()


def test_an_answer_that_is_cut_off_is_no_caption() -> None:
    opened = QwenVl(model=MODELS[0], max_tokens=5).open("cpu")
    described = opened.describe([sample(0)])["d/0"]
    assert described.captions == ()
    assert isinstance(described.failure, BadAnswer)
    assert str(described.failure) == "qwen_vl, clip d/0: the answer was cut off after 5 tokens. Raise --set qwen_vl.max_tokens"


def test_real_weights_are_asked_for_by_name_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"(?s)10 model files.*model-00005-of-00005\.safetensors.*hf download Qwen/Qwen2\.5-VL-7B-Instruct"):
        QwenVl().engine("cpu")


def test_a_copied_folder_is_loaded_like_a_downloaded_one_and_another_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny.folder(MODELS[0]), folder)
    spec = QwenVl(model=str(folder))
    assert spec.signature()[0] == "mine"
    assert spec.engine("cpu").answer(_questions([sample(0)]))["d/0"].ended == "end"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    with pytest.raises(CallError, match=r"mine: it is a 'llava', wanted Qwen2\.5-VL or Qwen3-VL\. Type --set qwen_vl\.model="):
        spec.engine("cpu")


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"frames": 0}, {"batch": 0}, {"fps": 0.0}, {"long_side": 0}])
def test_settings_that_ask_for_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(CallError, match=r"got .*; wanted"):
        QwenVl(**wrong)
