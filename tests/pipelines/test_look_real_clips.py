"""Real clips: every filter by a model answers, and each is found again re-encoded, nothing else taken for it."""

import csv
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from pipelines.dedup import Comparing, nearly_equal
from vapdata import video
from vapdata.clip import Caption, Sample
from vapdata.filters.aesthetic import Aesthetic
from vapdata.filters.embedding import Embedding
from vapdata.filters.fingerprint import Fingerprint
from vapdata.filters.nsfw import Nsfw
from vapdata.filters.temporal_consistency import TemporalConsistency
from vapdata.filters.text_match import TextMatch
from vapdata.filters.watermark import Watermark
from vapdata.step import Judge, Judged, OpenJudge

pytestmark = pytest.mark.slow

COPY = " (copy)"
LONGEST = 330
"""Frames of a clip that is encoded anew, at most: all but three of the 59."""
CAPTION = Caption(text="what is seen here", captioner="source", role="source")


def _seen(path: Path, name: str, steps: Sequence[Judge]) -> list[Judged]:
    """What each step says of a file, from one decode."""
    looks = list(dict.fromkeys(step.look for step in steps))
    shown = dict(zip(looks, video.look(path, 0.0, video.probe(path).duration_s, looks), strict=True))
    return [_open(step).judge([Sample(clip_id=name, frames=shown[step.look], caption=CAPTION)])[name] for step in steps]


@cache
def _open(step: Judge) -> OpenJudge:
    return step.open("cpu")


@pytest.fixture(scope="module", autouse=True)
def closed(judges: tuple[Judge, ...]) -> Iterator[None]:
    """In the end what was opened is closed: a process has one CLIP, and the next file's tests count what it is asked."""
    yield
    for step in judges:
        _open(step).close()
    _open.cache_clear()


def _copy(path: Path, codec: str, into: Path) -> Path:
    """Another codec, half the size and half the rate (24 -> 12), 5 frames trimmed, 10 % brighter."""
    shown = video.probe(path)
    height, width = (max(16, side // 4 * 2) for side in (shown.height, shown.width))
    frames = [frame.image for frame in video.frames(path, video.Fit(height=height, width=width))]
    kept = frames[5 if len(frames) > 10 else 1 :: 2] or frames[-1:]
    name = into / f"{path.name}.mp4"
    with av.open(str(name), "w") as container:
        stream = container.add_stream("mpeg4" if codec != "mpeg4" else "libx264", rate=max(1, round(shown.fps / 2)))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 800_000
        for image in kept:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(cv2.convertScaleAbs(image, alpha=1.1), "rgb24")))
        container.mux(stream.encode())
    return name


@pytest.fixture(scope="module")
def rows(real_clips: Path) -> list[dict[str, str]]:
    with (real_clips / "clips" / "clips.csv").open() as table:
        return list(csv.DictReader(table))


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> tuple[Judge, ...]:
    """Every filter by a model, with tiny weights of the real classes."""
    folder = tmp_path_factory.mktemp("weights")
    save_file({"weight": torch.linspace(-1, 1, 32)[None], "bias": torch.tensor([5.0])}, folder / "head.safetensors")
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8, num_labels=2)
    ViTForImageClassification(config).save_pretrained(folder, safe_serialization=True)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    clip = {"model": "tiny-cogvideox"}
    by_clip = (Embedding(**clip), Aesthetic(**clip, head=str(folder / "head.safetensors")), TemporalConsistency(**clip), TextMatch(**clip))
    return (Fingerprint(), *by_clip, Watermark(model=str(folder)), Nsfw(model=str(folder)))


@pytest.fixture(scope="module")
def seen(real_clips: Path, rows: list[dict[str, str]], judges: tuple[Judge, ...]) -> dict[str, list[Judged]]:
    """What each filter says of each clip."""
    return {row["file"]: _seen(real_clips / "clips" / row["file"], row["file"], judges) for row in rows}


def test_every_filter_by_a_model_is_finite_on_every_clip(seen: dict[str, list[Judged]], judges: tuple[Judge, ...]) -> None:
    assert len(seen) == 59
    for name, answers in seen.items():
        for step, answer in zip(judges, answers, strict=True):
            assert answer.failure is None, (name, step.name, answer.failure)
            assert [score.filter for score in answer.scores] == list(step.writes()), (name, step.name)
            assert len(answer.cells) == len(step.products()), (name, step.name)
            assert all(np.isfinite(score.value) for score in answer.scores), (name, step.name)
            assert all(np.isfinite(cell.data).all() for cell in answer.cells), (name, step.name)


def test_each_clip_is_found_again_and_no_other_is_taken_for_it(real_clips: Path, rows: list[dict[str, str]], seen: dict[str, list[Judged]], tmp_path: Path) -> None:
    same = {row["file"]: tag.partition(":")[2].split(" ")[0] for row in rows for tag in row["tags"].split(";") if tag.startswith("duplicate-of:")}
    cells = {name: answers[0].cells[0].data for name, answers in seen.items()}
    copied = [row for row in rows if int(row["frames"]) <= LONGEST]
    for row in copied:
        copy = _copy(real_clips / "clips" / row["file"], row["codec"], tmp_path)
        cells[row["file"] + COPY] = _seen(copy, row["file"], [Fingerprint()])[0].cells[0].data
        copy.unlink()
    near, compared = nearly_equal(cells, Comparing())

    def origin(name: str) -> str:
        name = name.removesuffix(COPY)
        return same.get(name, name)

    true = {(one, other) for one in cells for other in cells if one < other and origin(one) == origin(other)}
    found = {(one, other) for one, others in near.items() for other in others if one < other}
    assert compared == set(cells), "every clip shows enough to be compared"
    assert found - true == set(), "precision"
    assert len(found & true) >= 0.95 * len(true), f"recall {len(found & true)} of {len(true)}; lost: {sorted(true - found)}"
    lost = [row["file"] for row in copied if row["file"] + COPY not in near.get(row["file"], {})]
    assert len(copied) > 0.9 * len(rows) and len(lost) <= 0.05 * len(copied), lost
    largest = max(distance for others in near.values() for distance in others.values())
    print(f"{len(found & true)} of {len(true)} pairs, {len(copied) - len(lost)} of {len(copied)} copies; largest distance {largest:.3f}")
