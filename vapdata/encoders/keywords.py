"""Which words of the caption the first frame shows, and where: what Focal Guidance binds text to picture with.

Exercised by `pytest tests/vapdata/encoders/test_keywords.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.backbones import Backbone, backbone
from vapdata.clip import Sample, Sampling
from vapdata.encoders import joint_towers, word_spans
from vapdata.encoders.llava_prompt import interleaved
from vapdata.encoders.prompts import blanked, tokenizer_weight
from vapdata.encoders.stored_rows import stored_rows
from vapdata.errors import CallError
from vapdata.step import Cell, Product
from vapdata.weights import Weight

PARTS = ("maps", "anchors", "spans")
"""Products of one clip, row k of each about keyword k. `span` is char start, char end, first token, last token + 1."""
_DTYPES: dict[str, Literal["f16", "bf16", "f32"]] = {"maps": "f16", "anchors": "bf16", "spans": "f32"}
_CLIP_REPO = "laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k"
_XLM_REPO = "FacebookAI/xlm-roberta-large"


@dataclass(frozen=True, kw_only=True)
class Keywords:
    """Keywords of a caption: similarity maps, visual anchors and token spans.

    What: S = -cos(word, patch) in the joint space of CLIP ViT-H and XLM-RoBERTa; keywords are words, stop words apart, whose
        highest S exceeds a threshold; an anchor is the S-weighted mean of patch tokens: the vision tower's penultimate ones for
        Wan, whose image embedder reads those, and in the joint space for HunyuanVideo, which has no embedder for pictures.
    Reads: first, caption. A caption without words gives 0 keywords; a clip without caption gets no rows.
    Writes: three products `<clip>-keywords-<part>-<geometry>-<H>x<W>` (HunyuanVideo: `-llava-i<n>` behind) in `features`, row k
        about the k-th keyword in the order of the text: `maps` f16 (K, 16, 16) in [-1, 1]; `anchors` bf16 (K, 1280), HunyuanVideo
        (K, 1024); `spans` f32 (K, 4), whole numbers: start and end in characters of the caption as the text encoder reads it
        (`stored_rows`), first and last + 1 row of the stored UMT5 or LLaVA embedding, image rows counted. Column text_truncated.
    Default: stretch; threshold mean + 1 standard deviation of the words' peaks, the best word always; weights S less its least
        value, normalised; 77 tokens of text.
    Cost: one ViT-H and one XLM-RoBERTa pass, 4.8 GB of weights in float32; 3 KB a keyword.
    Fails when: a value is not finite.
    Source: Focal Guidance (arXiv 2601.07287) section 3.1-3.2, equation 6, with methods.md 3.6-4, -5, -7, -13 and -15.
    """

    name: ClassVar[str] = "keywords"
    reads: ClassVar[frozenset[str]] = frozenset({"first", "caption"})

    backbone: str
    sampling: Sampling
    geometry: Literal["crop", "stretch"] = "stretch"
    """How the frame becomes CLIP's square: squeezed, so that every patch of the latent has a similarity, or its middle cut out."""
    similarity_sign: Literal["neg", "pos"] = "neg"
    """`neg` is the paper's: CLIP's late patches resemble a word least where it is shown."""
    anchor_weights: Literal["clamp", "raw", "softmax"] = "clamp"
    """How similarities weigh patches; `raw` is the paper's formula as printed."""
    temperature: float = 0.01
    """Of `softmax`."""
    threshold: float | None = None
    """Least peak of a keyword; None is mean + 1 standard deviation over the caption's words."""
    minimum: int = 1
    """Words that are keywords whatever the threshold, best first."""
    tokens: int = 77
    """Tokens of the caption that the text tower reads; words behind them are no keywords. It was trained on 77."""
    model: str | None = None
    """Another hub id or a local folder in open_clip's format instead of the released towers."""
    text_model: str | None = None
    """Another hub id or a local folder with the text tower's config.json and tokenizer."""
    interleave: Literal[1, 2, 3, 4, 5] | None = None
    """HunyuanVideo: as `llava.interleave`, since image rows stand before the words'; None is what the backbone's mode asks for."""
    batch: int = 16
    """Clips at once on a GPU."""

    def __post_init__(self) -> None:
        family = self.facts.family
        if family not in ("wan", "hunyuan"):
            raise CallError(
                f"keywords.backbone = {self.backbone}: spans are of UMT5's or LLaVA's rows, wanted a wan or hunyuan backbone. Use e.g. --set keywords.backbone=tiny-wan."
            )
        if self.interleave and family == "wan":
            raise CallError(f"keywords.interleave = {self.interleave}: {self.backbone}'s text has no image rows. Leave it out.")
        if not 3 <= self.tokens <= 512:
            raise CallError(f"keywords.tokens = {self.tokens}: wanted 3 to 512. Use 77.")
        if self.temperature <= 0:
            raise CallError(f"keywords.temperature = {self.temperature}: wanted more than 0. Use 0.01.")
        if self.minimum < 0:
            raise CallError(f"keywords.minimum = {self.minimum}: wanted 0 or more. Use 1.")

    @property
    def facts(self) -> Backbone:
        """The backbone's numbers."""
        return backbone(self.backbone)

    @property
    def variant(self) -> str:
        """The geometry where it is not the default: a recipe may want both."""
        return "" if self.geometry == "stretch" else self.geometry

    @property
    def every(self) -> int:
        """Of how many image rows the stored text keeps one."""
        return interleaved(self.facts, self.interleave)

    def products(self) -> tuple[Product, ...]:
        """Maps, anchors and spans, of one clip always written together."""
        towers, text, tokenizer = self.weights()
        height, width = self.sampling.height, self.sampling.width
        revision = stores.revision(towers)
        prefix = "tiny-clip-xlm" if self.facts.tiny else "clip-xlm-h14"
        settings = {
            "height": height,
            "width": width,
            "resize": self.sampling.pictures,
            "clip_geometry": self.geometry,
            "similarity_sign": self.similarity_sign,
            "anchor_weights": self.anchor_weights,
            "temperature": float(self.temperature) if self.anchor_weights == "softmax" else None,
            "threshold": "adaptive" if self.threshold is None else float(self.threshold),
            "minimum": self.minimum,
            "tokens": self.tokens,
            "rows": self.facts.text.rows,
            "model_id": towers.model_id,
            "revision": revision,
            "text_model_id": text.model_id,
            "text_revision": stores.revision(text),
            "tokenizer_revision": stores.revision(tokenizer),
        }
        rows_of = ""
        if self.facts.family == "hunyuan":
            rows_of = f"-llava-i{self.every}"
            settings |= {"interleave": self.every, "anchor_space": "joint"}
        return tuple(
            Product(
                name=f"{prefix}-keywords-{part}-{self.geometry}-{height}x{width}{rows_of}",
                table="features",
                model_id=towers.model_id,
                revision=revision,
                dtype=_DTYPES[part],
                settings={**settings, "part": part},
                reads_caption=True,
                without_caption="none",
            )
            for part in PARTS
        )

    def weights(self) -> Sequence[Weight]:
        """The two towers, the text tower's shape and tokenizer, and the backbone's tokenizer."""
        tiny = self.facts.tiny
        towers = Weight(
            repo=self.model or ("tiny-wan" if tiny else _CLIP_REPO),
            subfolder="clip_xlm" if tiny and not self.model else "",
            files=("open_clip_config.json",),
            stem="open_clip_model",
            bytes=4_790_000_000,
        )
        text = Weight(
            repo=self.text_model or ("tiny-wan" if tiny else _XLM_REPO),
            subfolder="xlm_roberta" if tiny and not self.text_model else "",
            files=("config.json", "tokenizer.json|sentencepiece.bpe.model"),
        )
        return (towers, text, tokenizer_weight(self.facts, None))

    def open(self, device: str | None = None) -> "OpenKeywords":
        """Loads the towers and both tokenizers."""
        return OpenKeywords(self, device)


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of a caption that may be keywords, in order."""

    ids: list[int]
    """What the text tower reads, padded."""
    clip: list[list[int]]
    """Each word's tokens in `ids`."""
    spans: list[tuple[int, int, int, int]]
    """Each word's characters in the caption as it is read, and its rows in the stored embedding."""
    truncated: bool
    """The caption has more tokens than one of the two encoders reads: words behind them are missing."""


class OpenKeywords:
    """Keywords at work."""

    def __init__(self, spec: Keywords, device: str | None) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from transformers import AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        towers, text, tokenizer = spec.weights()
        self._spec = spec
        self._products = [product.name for product in spec.products()]
        self._device = devices.pick(device)
        self._model, preprocess = joint_towers.load(stores.find(towers), stores.find(text), towers.model_id)
        self._model = self._model.to(self._device).eval().requires_grad_(False)
        resize = "squash" if spec.geometry == "stretch" else "shortest"
        self._picture = image_transform_v2(PreprocessCfg(**{**preprocess, "resize_mode": resize}), is_train=False)
        self._clip_tokenizer = AutoTokenizer.from_pretrained(stores.find(text), local_files_only=True, trust_remote_code=False)
        self._marks = tuple(self._clip_tokenizer.all_special_tokens)
        self._in_joint_space = spec.facts.family == "hunyuan"
        self._row_tokenizer = AutoTokenizer.from_pretrained(stores.find(tokenizer), local_files_only=True, trust_remote_code=False)

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """Three cells for each sample with a caption, none for the others."""
        named = [(index, sample) for index, sample in enumerate(samples) if sample.caption is not None]
        cells: list[list[Cell]] = [[] for _ in samples]
        for group in devices.groups(len(named), self._device, self._spec.batch):
            some = [sample for _, sample in named[group]]
            words = [self.words(sample.caption.text) for sample in some if sample.caption]
            found = self.keywords([self._frame(sample) for sample in some], words)
            for (index, sample), told, arrays in zip(named[group], words, found, strict=True):
                cells[index] = self._cells(sample, arrays, told.truncated)
        return cells

    def constants(self) -> list[Cell]:
        """None."""
        return []

    def keywords(
        self, frames: Sequence[UInt8[np.ndarray, "h w 3"]], words: Sequence[Words]
    ) -> list[tuple[Float32[np.ndarray, "k gh gw"], Float32[np.ndarray, "k width"], Float32[np.ndarray, "k 4"]]]:
        """Maps, anchors and spans of each picture with its caption's words."""
        import torch
        from PIL import Image

        pixels = torch.stack([self._picture(Image.fromarray(frame)) for frame in frames]).to(self._device)
        ids = torch.tensor([one.ids for one in words], device=self._device)
        with torch.inference_mode(), devices.out_of_memory("keywords", "Type: --set keywords.batch=1"):
            with torch.autocast(self._device.split(":")[0], torch.bfloat16, enabled=not self._device.startswith("cpu")):
                told = joint_towers.text_tokens(self._model, ids)
                joint, penultimate = joint_towers.patch_tokens(self._model, pixels)
            return [
                self._chosen(one, row.float(), patches.float(), (patches if self._in_joint_space else tokens).float())
                for one, row, patches, tokens in zip(words, told, joint, penultimate, strict=True)
            ]

    def words(self, caption: str) -> Words:
        """The caption's words that both tokenizers read whole and that may name something in a picture."""
        stored = stored_rows(self._spec.facts, self._row_tokenizer, caption, self._spec.every)
        seen, limit = blanked(stored.text, self._marks), self._spec.tokens
        clip = self._clip_tokenizer(seen, max_length=limit, padding="max_length", truncation=True, return_offsets_mapping=True)
        pieces = self._clip_tokenizer.convert_ids_to_tokens(clip.input_ids)
        # A lone mark of a word's start lies on the word's first character, and says nothing of it.
        offsets = [(0, 0) if piece == "▁" else tuple(offset) for piece, offset in zip(pieces, clip.offset_mapping, strict=True)]
        starts = frozenset(start for start, end in offsets if end > start)
        kept, spans = [], []
        for span in word_spans.words(seen, starts):
            tokens, rows = word_spans.rows(offsets, span), word_spans.rows(stored.offsets, span)
            if tokens and rows and word_spans.names_something(seen, span):
                kept.append([row for row in range(*tokens) if offsets[row][1] > offsets[row][0]])
                spans.append((*span, *rows))
        cut = len(self._clip_tokenizer(seen, truncation=False, verbose=False).input_ids) > limit
        return Words(ids=list(clip.input_ids), clip=kept, spans=spans, truncated=cut or stored.truncated)

    def _chosen(self, words: Words, told: Any, patches: Any, tokens: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        import torch

        from vapdata.encoders import keyword_maths

        spec = self._spec
        vectors = [told[rows].mean(dim=0) for rows in words.clip]
        text = torch.stack(vectors) if vectors else told[:0]
        scores = keyword_maths.similarity(text, patches, spec.similarity_sign)
        chosen = keyword_maths.select(scores, spec.threshold, spec.minimum)
        scores = scores[chosen]
        anchors = keyword_maths.anchors(scores, tokens, spec.anchor_weights, spec.temperature)
        maps = scores.reshape(-1, *self._model.visual.grid_size)
        spans = np.array(words.spans, np.float32).reshape(-1, 4)[chosen.cpu().numpy()]
        return maps.cpu().numpy(), anchors.cpu().numpy(), spans

    def _frame(self, sample: Sample) -> np.ndarray:
        return devices.grid(sample.first, sample.clip_id, (self._spec.sampling.height, self._spec.sampling.width, 3))

    def _cells(self, sample: Sample, arrays: Sequence[np.ndarray], truncated: bool) -> list[Cell]:
        sampling = self._spec.sampling
        columns = {"resize": sampling.pictures, "pixel_height": sampling.height, "pixel_width": sampling.width, "text_truncated": truncated}
        return [
            Cell(
                product=product,
                clip_id=sample.clip_id,
                data=devices.finite(data, product, sample.clip_id),
                shape=data.shape,
                caption=sample.caption,
                columns=columns,
            )
            for product, data in zip(self._products, arrays, strict=True)
        ]
