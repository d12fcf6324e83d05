"""Every table and column of a catalog: type, unit, who writes it, what it means.

This file is the format. The README's table reference is generated from it, `store.py` checks every row against
it, and adding a column here is all that adding a column takes: older files read as null.
Exercised by `pytest tests/catalogs/test_tables.py`.
"""

from dataclasses import dataclass

import pyarrow as pa

FORMAT_VERSION = 1

STRINGS = pa.list_(pa.string())


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its Arrow type, and what a reader must know of it."""

    name: str
    type: pa.DataType
    doc: str
    unit: str = ""
    required: bool = False
    """True when null is refused."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table. `key` names a row; of two rows with one key, the later commit counts."""

    name: str
    one_row_is: str
    written_by: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the table's files, format version in its metadata."""
        fields = [pa.field(column.name, column.type, nullable=not column.required) for column in self.columns]
        return pa.schema(fields, metadata={"vapdata.format_version": str(FORMAT_VERSION), "vapdata.table": self.name})


def _text(name: str, doc: str, *, required: bool = False) -> Column:
    return Column(name=name, type=pa.string(), doc=doc, required=required)


def _number(name: str, doc: str, *, unit: str = "", required: bool = False) -> Column:
    return Column(name=name, type=pa.float64(), doc=doc, unit=unit, required=required)


def _count(name: str, doc: str, *, unit: str = "", required: bool = False) -> Column:
    return Column(name=name, type=pa.int64(), doc=doc, unit=unit, required=required)


def _flag(name: str, doc: str, *, required: bool = False) -> Column:
    return Column(name=name, type=pa.bool_(), doc=doc, required=required)


_LINEAGE = (
    _text("run_id", "the run that wrote the row; see `runs`"),
    _count("commit", "number of the journal entry that added the row; the highest counts", required=True),
    Column(name="created_at", type=pa.timestamp("us", tz="UTC"), doc="when the row was made"),
)

_CLIP_ID = _text("clip_id", "the clip", required=True)

_SHARD = _text("shard", "the shard that the row belongs to", required=True)

_TENSOR = (
    _SHARD,
    _text("product", "what was made; its settings stand in tensors/<product>/settings.json", required=True),
    _text("model_id", "the model that made it", required=True),
    _text("revision", "that model's revision, or a hash of its files", required=True),
    _text("settings_sha256", "hash of the product's settings", required=True),
    _text("dtype", "bf16, f16, f32, u8, or webp for encoded pictures", required=True),
    Column(name="shape", type=pa.list_(pa.int64()), doc="shape of the tensor", required=True),
    _text("file", "tensor file, relative to the catalog", required=True),
    _count("row_group", "row group in that file; it holds this row alone", required=True),
)

_TEXT_IN = (
    _text("captioner", "captioner of the text that went in"),
    _text("role", "role of the text that went in"),
    _text("text_sha256", "hash of the text that went in; another caption makes the row stale"),
)

_GEOMETRY = (
    _text("resize", "stretch or crop: how the picture came to its size; +linear behind it where frames were blended"),
    _count("pixel_height", "height of the picture that went in", unit="px"),
    _count("pixel_width", "width of the picture that went in", unit="px"),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            name="videos",
            one_row_is="a file or folder of frames, or an annotated span of one, that the dataset names",
            written_by="planning",
            key=("video_id",),
            columns=(
                _text("video_id", "<dataset>/<name>", required=True),
                _text("dataset", "name of the dataset in this catalog", required=True),
                _text("source", "plug-in that read it", required=True),
                _text("name", "the dataset's own id, or the relative path", required=True),
                _text("uri", "path relative to the root, percent-encoded where it is not plain text", required=True),
                _SHARD,
                _text("label", "the dataset's own class"),
                _text("license", "licence of the video, as the dataset states it"),
                _text("split", "train, validation or test", required=True),
                _text("split_group", "what no split may tear apart", required=True),
                _text("caption", "the dataset's text about this video"),
                _text("source_scores", "JSON object of the dataset's own numbers and labels"),
                _number("start_s", "start of the annotated span; null for the whole file", unit="s"),
                _number("end_s", "end of the annotated span; null for the whole file", unit="s"),
                _number("folder_fps", "rate at which a folder of frames is shown; null for a file, which states its own", unit="1/s"),
                _number("seconds", "length that the dataset states", unit="s"),
                _count("bytes", "size of the file, or of all frames in the folder, when it was planned", unit="B"),
                _text("parent_clip_id", "made videos: the clip it was made from"),
                _text("condition", "made videos: the semantic condition"),
                _text("provider", "made videos: who made it"),
                _count("seed", "made videos: the seed"),
                _text("parameters", "made videos: JSON object of what made it: its version, and the parameters drawn"),
                _text("neutral_caption", "made videos: the caption without the words about the condition"),
                _text("content_sha256", "made videos: hash of the decoded frames"),
                *_LINEAGE,
            ),
        ),
        Table(
            name="clips",
            one_row_is="a span of a video that exists",
            written_by="scan",
            key=("clip_id",),
            columns=(
                _CLIP_ID,
                _text("video_id", "the video it is a span of", required=True),
                _text("source", "name of the dataset in this catalog", required=True),
                _SHARD,
                _text("split", "train, validation or test", required=True),
                _number("start_s", "first frame, from the video's first shown frame", unit="s", required=True),
                _number("end_s", "when its last frame stops being shown", unit="s", required=True),
                _count("frames", "frames in the clip", required=True),
                _number("fps", "mean frame rate over the clip", unit="1/s", required=True),
                _count("width", "display width: rotated, square pixels", unit="px", required=True),
                _count("height", "display height: rotated, square pixels", unit="px", required=True),
                _text("codec", "codec of the video stream", required=True),
                _flag("whole", "it is all of what the dataset named", required=True),
                _flag("truncated", "decoding raised after it", required=True),
                *_LINEAGE,
            ),
        ),
        Table(
            name="scores",
            one_row_is="one filter's number, or label with confidence, for one clip",
            written_by="scan, score",
            key=("clip_id", "filter", "label"),
            columns=(
                _CLIP_ID,
                _SHARD,
                _text("filter", "name of the score", required=True),
                _number("value", "the number, or the label's confidence"),
                _text("label", "the label; null for a number"),
                _text("by", "filter plug-in, its settings and weights, or the dataset", required=True),
                _text("text_sha256", "hash of the text that went in, where one did"),
                *_LINEAGE,
            ),
        ),
        Table(
            name="captions",
            one_row_is="one text for one clip",
            written_by="scan, caption",
            key=("clip_id", "captioner", "role"),
            columns=(
                _CLIP_ID,
                _SHARD,
                _text("captioner", "who wrote it", required=True),
                _text("role", "source, source_parent, long, short, vap, instruction or neutral", required=True),
                _text("text", "the text", required=True),
                _text("text_sha256", "SHA-256 of its UTF-8 bytes", required=True),
                _text("model_id", "model that wrote it"),
                _text("revision", "that model's revision"),
                _text("prompt_version", "prompt it was asked with"),
                _count("frames_used", "frames that were shown to it"),
                _count("tokens", "tokens it answered"),
                _count("prompt_tokens", "tokens it was asked with, pictures included"),
                _number("cost", "what the answer cost, in the currency of the captioner's prices"),
                _number("seconds", "time it took", unit="s"),
                *_LINEAGE,
            ),
        ),
        Table(
            name="frames",
            one_row_is="a clip's picture: the thumbnail, or the first frame at a product's size",
            written_by="scan, encode",
            key=("product", "clip_id"),
            columns=(_CLIP_ID, *_TENSOR, *_GEOMETRY, *_LINEAGE),
        ),
        Table(
            name="masks",
            one_row_is="CLIP attention, MLP and fused masks (three grids, in this order) for a clip and a caption",
            written_by="encode",
            key=("product", "clip_id"),
            columns=(
                _CLIP_ID,
                *_TENSOR,
                *_TEXT_IN,
                *_GEOMETRY,
                _flag("text_truncated", "the caption had more tokens than the text tower reads"),
                *_LINEAGE,
            ),
        ),
        Table(
            name="latents",
            one_row_is="a VAE posterior, unscaled: mean, and log-variance behind it when the recipe says so",
            written_by="encode",
            key=("product", "clip_id"),
            columns=(
                _CLIP_ID,
                *_TENSOR,
                *_GEOMETRY,
                _text("kind", "video, first, noised or condition", required=True),
                _count("pixel_frames", "pixel frames that went in", required=True),
                _number("fps", "rate they were sampled at; null with short=slow, where a short clip has a rate of its own", unit="1/s"),
                _count("latent_frames", "latent frames that came out", required=True),
                _count("temporal_stride", "pixel frames per latent frame", required=True),
                _flag("first_alone", "the first latent frame covers one pixel frame", required=True),
                _flag("has_logvar", "log-variance follows the mean along the channels", required=True),
                *_LINEAGE,
            ),
        ),
        Table(
            name="texts",
            one_row_is="a text embedding; without clip: the empty and the negative prompt",
            written_by="encode",
            key=("product", "clip_id", "captioner", "role"),
            columns=(
                _text("clip_id", "the clip; null for the empty and negative prompts"),
                *_TENSOR,
                *_TEXT_IN,
                _count("length", "true tokens, end mark included; the other rows are padding", required=True),
                _flag("text_truncated", "the text had more tokens than fit"),
                *_LINEAGE,
            ),
        ),
        Table(
            name="features",
            one_row_is="image-encoder tokens of a clip's first frame, or keywords of its caption",
            written_by="encode",
            key=("product", "clip_id"),
            columns=(
                _CLIP_ID,
                *_TENSOR,
                *_TEXT_IN,
                *_GEOMETRY,
                _flag("text_truncated", "the caption had more tokens than were read; null where no text went in"),
                *_LINEAGE,
            ),
        ),
        Table(
            name="conditions",
            one_row_is="a clip shows a semantic condition",
            written_by="synthesize",
            key=("clip_id", "condition", "provider"),
            columns=(
                _CLIP_ID,
                _text("condition", "name of the condition", required=True),
                _text("category", "concept, style, motion or camera", required=True),
                _text("provider", "who found or made it", required=True),
                _number("score", "alignment, 0-100: 100 drawn, rendered or generated to show it, 90 a person's label, 70 a program's label or a word of the caption"),
                _text("refused", "why no pair has it as its target, e.g. low_score; null when one has"),
                _text("generation", "hash of settings and member ids"),
                *_LINEAGE,
            ),
        ),
        Table(
            name="pairs",
            one_row_is="a reference clip and a target clip that share a condition",
            written_by="synthesize",
            key=("pair_id",),
            columns=(
                _text("pair_id", "the pair", required=True),
                _text("condition", "what both show", required=True),
                _text("category", "concept, style, motion or camera", required=True),
                _text("reference_clip_id", "the reference", required=True),
                _text("target_clip_id", "the target", required=True),
                _text("split", "the target's split (its reference's is the same or train), or test where the whole condition is held out", required=True),
                _number("score", "alignment of the weaker side, 0-100"),
                _text("provider", "who found or made it", required=True),
                _text("generation", "hash of settings and member ids"),
                *_LINEAGE,
            ),
        ),
        Table(
            name="duplicates",
            one_row_is="a clip that was compared with all others by one method, and the clip that is kept in its place",
            written_by="dedup",
            key=("clip_id", "method"),
            columns=(
                _CLIP_ID,
                _text("method", "exact, near or semantic", required=True),
                _text("cluster", "those that are the same: the method and a hash of their ids; null for a clip that is like no other"),
                _text("keeper", "the clip to keep: of most pixels, then of most frames; itself where it is that, or like no other", required=True),
                _number("distance", "from the keeper: 0 exact; near: share of differing bits; semantic: 1 - cosine", required=True),
                _text("generation", "hash of settings and clip ids"),
                *_LINEAGE,
            ),
        ),
        Table(
            name="failures",
            one_row_is="a step that raised on a video or clip",
            written_by="any step",
            key=("video_id", "clip_id", "step"),
            columns=(
                _text("shard", "its shard; null when it has none yet"),
                _text("video_id", "the video; null for a table row that names none"),
                _text("clip_id", "the clip; null when the whole video failed"),
                _text("step", "plan, scan, or the step's name", required=True),
                _text("error", "error class", required=True),
                _text("message", "what, where, got and wanted, what to type", required=True),
                _count("attempts", "times it was tried so far", required=True),
                _flag("permanent", "the same bytes can only fail again; tried again by `vapdata retry` alone", required=True),
                *_LINEAGE,
            ),
        ),
        Table(
            name="runs",
            one_row_is="one invocation",
            written_by="any command that writes",
            key=("run_id",),
            columns=(
                _text("command", "what was typed", required=True),
                _text("recipe", "JSON of the resolved recipe"),
                _text("predicate", "the --where it ran with"),
                _text("constants", "JSON of the numbers that a catalog-wide predicate resolved to"),
                _text("versions", "JSON of package versions"),
                _text("counts", "JSON: per stage planned, kept, rejected, failed"),
                _text("stage_seconds", "JSON: busy seconds per stage"),
                _number("seconds", "wall time", unit="s"),
                _number("peak_bytes", "largest resident memory of any worker", unit="B"),
                _text("host", "machine that drove it"),
                *_LINEAGE,
            ),
        ),
    )
}

TENSOR_TABLES = ("frames", "masks", "latents", "texts", "features")
TEXT_TABLES = tuple(name for name in TENSOR_TABLES if any(column.name == "text_sha256" for column in TABLES[name].columns))
"""Tables whose rows may be made from a caption."""
