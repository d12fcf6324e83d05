"""The tiny vision-language models are the real classes, the same on every machine."""

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from vapdata import tiny, tiny_qwen


@pytest.mark.parametrize(
    ("name", "model", "processor"),
    [("tiny-qwen2.5-vl", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"), ("tiny-qwen3-vl", "Qwen3VLForConditionalGeneration", "Qwen3VLProcessor")],
)
def test_they_load_as_downloaded_ones_do(name: str, model: str, processor: str) -> None:
    folder = tiny.folder(name)
    assert sorted(path.suffix for path in folder.iterdir()).count(".safetensors") == 1
    loaded = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    assert type(loaded).__name__ == model
    assert sum(weight.numel() for weight in loaded.parameters()) < 400_000
    own = AutoProcessor.from_pretrained(folder, local_files_only=True)
    assert type(own).__name__ == processor
    ids = own.tokenizer("a red circle moves left, quickly").input_ids
    assert own.tokenizer.decode(ids) == "a red circle moves left, quickly"
    assert [own.tokenizer.decode(each) for each in ids[:4]] == ["a", " red", " circle", " moves"]
    assert own.tokenizer("<|video_pad|>").input_ids == [loaded.config.video_token_id]


def test_their_weights_do_not_depend_on_the_machine() -> None:
    loaded = AutoModelForImageTextToText.from_pretrained(tiny.folder("tiny-qwen2.5-vl"), local_files_only=True)
    first = loaded.lm_head.weight[0, :3].tolist()
    assert first == [float(each) for each in tiny_qwen.tiny_draw._draw("tiny-qwen2.5-vl.lm_head.weight", tuple(loaded.lm_head.weight.shape))[0, :3]]
