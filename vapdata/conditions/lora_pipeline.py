"""One image-to-video model with at most one LoRA in it, which makes videos from pictures and gives way when memory is short.

    frames = Pipeline(condition.model).make(condition, image, prompt, seed, sampling)

diffusers' own pipelines and LoRA loaders. Exercised by `pytest tests/vapdata/conditions/test_lora_pipeline.py`.
"""

import importlib.util
import inspect
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vapdata.clip import Sampling
from vapdata.conditions.lora import LoraCondition
from vapdata.conditions.lora_files import Model
from vapdata.device import finite, pick, precision
from vapdata.errors import CallError, ClipError, Transient

ADAPTER = "condition"
STAGES = ("none", "model", "sequential")
"""Where the weights are: all on the GPU; the part that works there, the rest in main memory; layer by layer."""

log = logging.getLogger(__name__)


def require_peft() -> None:
    """Raises CallError where peft, with which diffusers puts LoRAs into layers, is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise CallError("lora: the package peft is not installed. Type pip install 'vapdata[lora]'")


class Pipeline:
    """A loaded pipeline. One LoRA is worn at a time, so that memory does not grow with the list."""

    def __init__(self, model: Model, device: str | None = None) -> None:
        import diffusers
        import torch
        from diffusers.utils import logging as theirs
        from transformers.utils import logging as transformers_logging

        theirs.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        self.device = pick(device)
        self.offload = STAGES[0]
        """As `STAGES` has it; never goes back."""
        self.worn: str | None = None
        """Hash of the LoRA file that is in it."""
        whole = {"vae": torch.float32, "image_encoder": torch.float32} if model.pipeline.startswith("Wan") else {}  # as diffusers' documentation loads Wan's
        self.pipeline: Any = getattr(diffusers, model.pipeline).from_pretrained(
            model.folder, dtype={"default": precision(self.device), **whole}, use_safetensors=True, local_files_only=True
        )
        self.pipeline.set_progress_bar_config(disable=True)
        log.info("%s is loaded", model.name)
        self._yielding(lambda: self.pipeline.to(self.device))

    def make(self, condition: LoraCondition, image: UInt8[np.ndarray, "h w 3"], prompt: str, seed: int, sampling: Sampling) -> UInt8[np.ndarray, "t h w 3"]:
        """The video that begins with `image`. Raises ClipError, Transient when even the least memory is not there."""

        def run() -> np.ndarray:
            self._wear(condition)
            return self._run(condition, image, prompt, seed, sampling)

        video = finite(self._yielding(run), f"lora condition {condition.name}", None)
        wanted = (sampling.frames, sampling.height, sampling.width, 3)
        if video.shape != wanted:
            raise ClipError(f"condition {condition.name}: {condition.model.pipeline} made {video.shape}, wanted {wanted}")
        return np.rint(np.clip(video, 0.0, 1.0) * 255.0).astype(np.uint8)

    def _run(self, condition: LoraCondition, image: np.ndarray, prompt: str, seed: int, sampling: Sampling) -> np.ndarray:
        import torch
        from PIL import Image

        own = {"num_inference_steps": condition.steps, "guidance_scale": condition.guidance, "negative_prompt": condition.negative or None}
        longest = getattr(self.pipeline.transformer.config, "max_text_seq_length", None)  # CogVideoX: rows of text are part of its shape
        if longest is not None and "max_sequence_length" in inspect.signature(self.pipeline.__call__).parameters:
            own["max_sequence_length"] = longest
        made = self.pipeline(
            image=Image.fromarray(image),
            prompt=prompt,
            height=sampling.height,
            width=sampling.width,
            num_frames=sampling.frames,
            generator=torch.Generator("cpu").manual_seed(seed),  # the same noise on every machine
            output_type="np",
            **{name: value for name, value in own.items() if value is not None},
        )
        return np.asarray(made.frames[0])

    def _wear(self, condition: LoraCondition) -> None:
        """Puts the condition's LoRA in, taking another out first."""
        if self.worn != condition.lora.sha256:
            self._take_off()
            folder, file = os.path.split(condition.lora.path)
            try:
                self.pipeline.load_lora_weights(folder, weight_name=file, adapter_name=ADAPTER, local_files_only=True, use_safetensors=True)
            except (ValueError, KeyError, RuntimeError) as error:
                if _is_memory(error):
                    raise
                raise CallError(f"condition {condition.name}: {condition.lora.name} cannot be loaded into {condition.model.name}: {error}") from error
            if ADAPTER not in self.pipeline.get_active_adapters():
                raise CallError(f"condition {condition.name}: {condition.lora.name} fits no layer of {condition.model.name}; it was made for another model")
            self.worn = condition.lora.sha256
            log.info("%s is in %s", condition.lora.name, condition.model.name)
        self.pipeline.set_adapters([ADAPTER], [condition.strength])

    def _take_off(self) -> None:
        self.worn = None
        self.pipeline.unload_lora_weights()

    def _yielding(self, work: Callable[[], Any]) -> Any:
        """What `work` gives, tried again with more offloaded each time that the GPU's memory runs out."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not _is_memory(error):
                    raise
                told = str(error).splitlines()[0]
            # outside of `except`: the error's traceback holds the tensors that have to go
            self._give_way(told)

    def _give_way(self, told: str) -> None:
        import torch

        if self.offload == STAGES[-1]:
            raise Transient(f"the GPU has too little memory for this video even layer by layer ({told}). Take fewer frames or a smaller size")
        self.offload = STAGES[STAGES.index(self.offload) + 1]
        log.warning("%s: out of memory (%s); %s offload from now on", self.device, told, self.offload)
        self._take_off()
        self.pipeline.remove_all_hooks()
        self.pipeline.to("cpu", silence_dtype_warnings=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._offload()

    def _offload(self) -> None:
        """Lets diffusers move weights as `offload` says; on a CPU, where they lie in main memory already, only the VAE gives way."""
        self.pipeline.vae.enable_tiling()
        if not self.device.startswith("cpu"):
            enable = self.pipeline.enable_model_cpu_offload if self.offload == "model" else self.pipeline.enable_sequential_cpu_offload
            enable(device=self.device)


def _is_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError)
