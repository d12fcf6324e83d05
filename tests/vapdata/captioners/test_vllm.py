"""The vLLM captioner where vLLM is not: it says so, asks for the same weights, and puts the same chat together."""

import importlib.util

import pytest
from shown import sample

from vapdata import tiny
from vapdata.captioners.asking import Question
from vapdata.captioners.vllm import Vllm, VllmEngine
from vapdata.errors import CallError

TINY = "tiny-qwen2.5-vl"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_it_says_what_to_type() -> None:
    with pytest.raises(CallError, match=r"vllm: it is not installed\. Type pip install 'vapdata\[vllm\]', or use qwen_vl, or openai_api for a vLLM server elsewhere"):
        Vllm().open()


def test_it_needs_the_files_that_qwen_vl_needs() -> None:
    (weight,) = Vllm(model=TINY).weights()
    assert (weight.repo, Vllm(model=TINY).signature()) == (TINY, (TINY, tiny.version(TINY)))


@pytest.mark.parametrize(("kind", "rate"), [("qwen2_5_vl", {"fps": pytest.approx(2.0)}), ("qwen3_vl", {})])
def test_a_request_is_the_chat_and_each_clip_with_its_times(kind: str, rate: dict) -> None:
    engine = VllmEngine(Vllm(model=TINY), tiny.folder(TINY), kind, None)
    asked = engine.request(Question(id="a", text="Same?", shown=(sample(0), sample(1))))
    assert asked["prompt"].count("<|video_pad|>") == 2
    assert asked["prompt"].endswith("Same?<|im_end|>\n<|im_start|>assistant\n")
    frames, told = asked["multi_modal_data"]["video"][1]
    assert frames is not None and frames.shape == (4, 48, 80, 3)
    assert told == {"total_num_frames": 2000, "fps": 1000.0, "frames_indices": [250, 750, 1250, 1750], "duration": 2.0, "do_sample_frames": False, "video_backend": "opencv"}
    assert asked["mm_processor_kwargs"] == rate
