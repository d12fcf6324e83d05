"""The same Qwen models on the vLLM engine: many times the throughput of transformers on a GPU.

vLLM is an extra (`pip install 'vapdata[vllm]'`): it brings a torch and CUDA of its own. Where it runs as a server, or on
other machines, `openai_api` asks it. Exercised, as far as that goes without vLLM, by `pytest tests/vapdata/captioners/test_vllm.py`.
"""

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vapdata import weights as stores
from vapdata.captioners.asking import Answer, Answers, AskSettings, Question, span_s, times
from vapdata.captioners.qwen_vl import chat, check_family, clock_of, vl_weight
from vapdata.errors import CallError, ClipError, Transient
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Vllm(AskSettings):
    """Captions by a Qwen vision-language model on the vLLM engine.

    What: as `qwen_vl`, the same files, prompts and frames, batched by vLLM as its memory allows; greedy.
    Reads: frames (`fps` a second, at most `frames`, spread over the clip).
    Writes: `captions` with captioner `vllm`, one role per prompt; model_id, revision, prompt_version, frames_used, prompt_tokens, tokens, seconds.
    Default: Qwen/Qwen2.5-VL-7B-Instruct, prompt long-1, 64 clips handed over at once, 90 % of the GPU's memory.
    Cost: about 16.6 GB of weights; a GPU to itself (its recipe stage should ask for one whole).
    Fails when: vLLM is not installed (CallError); else as `qwen_vl`.
    Source: vLLM's offline inference with multi-modal inputs; answers are matched by request id, since its engine gives them as they are done.
    """

    name: ClassVar[str] = "vllm"

    model: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    revision: str | None = None
    batch: int = 64
    memory: float = 0.9
    """Share of the GPU's memory that the engine takes."""
    context: int = 32_768
    """Tokens of a question and its answer together."""

    def ready(self) -> None:
        """Raises CallError where vLLM is not installed."""
        if importlib.util.find_spec("vllm") is None:
            raise CallError("vllm: it is not installed. Type pip install 'vapdata[vllm]', or use qwen_vl, or openai_api for a vLLM server elsewhere")

    def signature(self) -> tuple[str, str]:
        """The model's id, and its commit or fingerprint."""
        (weight,) = self.weights()
        return weight.model_id, stores.revision(weight)

    def weights(self) -> Sequence[Weight]:
        """The model's folder."""
        return (vl_weight(self.model, self.revision),)

    def engine(self, device: str | None = None) -> "VllmEngine":
        """Starts vLLM. Raises CallError where it is not installed."""
        self.ready()
        from vllm import LLM

        (weight,) = self.weights()
        folder = stores.find(weight)
        kind = check_family(folder, self.model)
        engine = LLM(model=str(folder), gpu_memory_utilization=self.memory, max_model_len=self.context, limit_mm_per_prompt={"video": 2}, trust_remote_code=False)
        return VllmEngine(self, folder, kind, engine.llm_engine)


class VllmEngine:
    """vLLM's own engine: requests under our ids go in, and come out as they are done."""

    def __init__(self, spec: Vllm, folder: Path, kind: str, engine: Any) -> None:
        from transformers import AutoProcessor

        self.spec, self.kind, self._engine = spec, kind, engine
        self._processor = AutoProcessor.from_pretrained(folder, local_files_only=True)

    def answer(self, questions: Sequence[Question]) -> Answers:
        """Answers as they are done; a question that the engine does not take is a failure of its own."""
        from vllm import SamplingParams

        began = time.perf_counter()
        said: dict[str, Answer | ClipError] = {}
        asking = SamplingParams(temperature=0.0, max_tokens=self.spec.max_tokens)
        for question in questions:
            try:
                self._engine.add_request(question.id, self.request(question), asking)
            except ValueError as error:  # what vLLM raises for a prompt that is too long, or a picture it cannot read
                said[question.id] = Transient(f"vllm, {question.where}: {error}")
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    said[output.request_id] = _answer(output, (time.perf_counter() - began) / len(questions))
        return said

    def request(self, question: Question) -> dict[str, Any]:
        """The chat as text, and each clip as frames with the times that they are shown at."""
        told = [{**clock_of(sample), "duration": span_s(sample), "do_sample_frames": False, "video_backend": "opencv"} for sample in question.shown]
        videos = [(sample.frames, metadata) for sample, metadata in zip(question.shown, told, strict=True)]
        prompt = self._processor.apply_chat_template(chat(question), tokenize=False, add_generation_prompt=True)
        # Qwen3-VL reads times from the metadata; Qwen2.5-VL one rate of the frames for all clips of a request.
        rate = {} if self.kind.startswith("qwen3") else {"fps": len(times(question.shown[0])) / span_s(question.shown[0])}
        return {"prompt": prompt, "multi_modal_data": {"video": videos}, "mm_processor_kwargs": rate}

    def close(self) -> None:
        """Lets go of the engine."""
        self._engine = None


def _answer(output: Any, seconds: float) -> Answer:
    """One finished request of vLLM's."""
    made = output.outputs[0]
    ended = "length" if made.finish_reason == "length" else "end"
    return Answer(text=made.text, ended=ended, tokens=len(made.token_ids), prompt_tokens=len(output.prompt_token_ids or ()), seconds=seconds)
