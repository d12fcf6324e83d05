"""Captions by Qwen2.5-VL and Qwen3-VL through transformers. Exercised by `pytest tests/vapdata/captioners/test_qwen_vl.py`."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.captioners.asking import Answer, Answers, AskSettings, Question, span_s, times
from vapdata.clip import Sample
from vapdata.errors import CallError, ClipError, Transient
from vapdata.weights import Weight

log = logging.getLogger(__name__)

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""`model_type` of the models that are known to work."""
CLOCK = 1000.0
"""Times go to the processor as frame numbers of a film of 1000 frames a second: it writes them out, or places frames by them."""


@dataclass(frozen=True, kw_only=True)
class QwenVl(AskSettings):
    """Captions by a Qwen vision-language model on this machine.

    What: shows a few frames of the clip with their times to Qwen2.5-VL or Qwen3-VL through its own processor and chat template,
        and stores what it answers: greedy, so that a repeated run says the same.
    Reads: frames (`fps` a second, at most `frames`, spread over the clip).
    Writes: `captions` with captioner `qwen_vl`, one role per prompt (long, short, vap, instruction); model_id, revision,
        prompt_version, frames_used, prompt_tokens, tokens, seconds.
    Default: Qwen/Qwen2.5-VL-7B-Instruct, prompt long-1, 8 clips at once; bf16 on a GPU, float32 on a CPU.
    Cost: about 16.6 GB of weights; planning figure 0.1 to 0.5 clips a second and GPU for a 7 B model. Nearly all of a build's time.
    Fails when: the answer is a refusal, empty, cut off or a loop, or the GPU runs out of memory: a row of `failures` that the
        next run tries again, three times in all. Its neighbours in the batch are not touched.
    Source: Qwen2.5-VL (2502.13923), Qwen3-VL (2511.21631); prompts in the style of OpenVid-1M's and CogVideoX's captions.
    """

    name: ClassVar[str] = "qwen_vl"

    model: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    """Hub id or folder; `tiny-qwen2.5-vl` and `tiny-qwen3-vl` are made here and speak word salad."""
    revision: str | None = None
    """Commit on the hub; None takes what the cache calls main."""

    def signature(self) -> tuple[str, str]:
        """The model's id, and its commit or fingerprint."""
        (weight,) = self.weights()
        return weight.model_id, stores.revision(weight)

    def weights(self) -> Sequence[Weight]:
        """The model's folder."""
        return (vl_weight(self.model, self.revision),)

    def engine(self, device: str | None = None) -> "QwenEngine":
        """Loads the model."""
        return QwenEngine(self, device)


def vl_weight(model: str, revision: str | None) -> Weight:
    """The files of a Qwen vision-language model."""
    known = model == QwenVl.model
    shards = tuple(f"model-{number:05}-of-00005.safetensors" for number in range(1, 6)) if known else ()
    files = ("config.json", "generation_config.json", "preprocessor_config.json|processor_config.json", "tokenizer_config.json", "tokenizer.json")
    return Weight(repo=model, files=files, stem="model", hub_files=shards, bytes=16_600_000_000 if known else None, revision=revision)


def check_family(folder: Path, model: str) -> str:
    """`model_type` of the folder's config.json. Raises CallError for a model of another kind."""
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind not in FAMILIES:
        raise CallError(f"{model}: it is a {kind!r}, wanted Qwen2.5-VL or Qwen3-VL. Type --set qwen_vl.model=Qwen/Qwen2.5-VL-7B-Instruct")
    return kind


class QwenEngine:
    """A Qwen vision-language model, loaded."""

    def __init__(self, spec: QwenVl, device: str | None) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging as their_logging

        their_logging.disable_progress_bar()
        (weight,) = spec.weights()
        folder = stores.find(weight)
        check_family(folder, spec.model)
        self.spec, self.device = spec, devices.pick(device)
        self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        loaded = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=devices.precision(self.device), use_safetensors=True)
        self.model = loaded.eval().to(self.device)
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends) if isinstance(ends, list) else {ends}
        # The largest budget of pixels per frame that the models were trained with; transformers would otherwise take none.
        self.capped = {"cap_pixels_per_frame": True} if hasattr(self.processor.video_processor, "cap_pixels_per_frame") else {}

    def answer(self, questions: Sequence[Question]) -> Answers:
        """Answers in batches; a batch that fails is asked again one by one, so that one clip's trouble stays its own."""
        said: dict[str, Answer | ClipError] = {}
        for start in range(0, len(questions), self.spec.batch):
            group = questions[start : start + self.spec.batch]
            try:
                said.update(self._together(group))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is some clip's, and the loop below finds out whose
                log.info("qwen_vl: a batch of %d is asked one by one, after %s: %s", len(group), type(error).__name__, error)
                said.update({question.id: self._alone(question) for question in group})
        return said

    def close(self) -> None:
        """Lets go of the model."""
        self.model = self.processor = None

    def _alone(self, question: Question) -> Answer | ClipError:
        try:
            return self._together([question])[question.id]
        except ClipError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one clip's trouble is its own row
            return Transient(f"qwen_vl, {question.where}: {type(error).__name__}: {error}")

    def _together(self, group: Sequence[Question]) -> dict[str, Answer]:
        """One forward pass over several questions. Rows are padded on the left, so the answers begin side by side."""
        import torch

        began = time.perf_counter()
        with devices.out_of_memory("qwen_vl", "Lower --set qwen_vl.batch, .frames or .long_side"), torch.inference_mode():
            inputs = self.inputs(group).to(self.device)
            # Greedy over a model's own settings: Qwen's files ask for sampling, which a repeated run could not repeat.
            made = self.model.generate(**inputs, max_new_tokens=self.spec.max_tokens, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None)
        answers = made[:, inputs["input_ids"].shape[1] :].cpu().tolist()
        prompts = inputs["attention_mask"].sum(dim=1).tolist()
        seconds = (time.perf_counter() - began) / len(group)
        return {question.id: self._answer(tokens, prompt, seconds) for question, tokens, prompt in zip(group, answers, prompts, strict=True)}

    def inputs(self, group: Sequence[Question]) -> Any:
        """What the model is given: the chat with every clip as a video of sampled frames at their times."""
        import torch
        from transformers.video_utils import VideoMetadata

        samples = [sample for question in group for sample in question.shown]
        videos = [torch.from_numpy(sample.frames).permute(0, 3, 1, 2) for sample in samples]
        told = [VideoMetadata(**clock_of(sample)) for sample in samples]
        return self.processor(
            text=[self.processor.apply_chat_template(chat(question), tokenize=False, add_generation_prompt=True) for question in group],
            videos=videos,
            videos_kwargs={"video_metadata": told, "do_sample_frames": False, **self.capped},
            text_kwargs={"padding": True, "padding_side": "left"},
            return_tensors="pt",
        )

    def _answer(self, tokens: list[int], prompt_tokens: int, seconds: float) -> Answer:
        end = next((place for place, token in enumerate(tokens) if token in self.ends), None)
        own = tokens if end is None else tokens[:end]
        text = self.processor.tokenizer.decode(own, skip_special_tokens=True)
        return Answer(text=text, ended="length" if end is None else "end", tokens=len(own), seconds=seconds, prompt_tokens=int(prompt_tokens))


def clock_of(sample: Sample) -> dict[str, Any]:
    """Length and times of the frames of `sample`, as a film of CLOCK frames a second."""
    return {"total_num_frames": max(1, round(span_s(sample) * CLOCK)), "fps": CLOCK, "frames_indices": [round(time_s * CLOCK) for time_s in times(sample)]}


def chat(question: Question) -> list[dict[str, Any]]:
    """The question as the messages of a chat: its clips in order, then the prompt."""
    clips = [part for number, _ in enumerate(question.shown, 1) for part in _clip_parts(number, len(question.shown))]
    return [{"role": "user", "content": [*clips, {"type": "text", "text": question.text}]}]


def _clip_parts(number: int, count: int) -> list[dict[str, str]]:
    """A clip's place in the chat; where there are several, with its number before it."""
    return [*([{"type": "text", "text": f"Clip {number}:\n"}] if count > 1 else []), {"type": "video"}]
