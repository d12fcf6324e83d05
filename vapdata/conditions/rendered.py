"""Conditions that programs render. Exercised by `pytest tests/pipelines/test_render.py`."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vapdata.condition import EXACT, Facts, Member
from vapdata.conditions.procedural import PROGRAMS, Program
from vapdata.conditions.subject import subject_of
from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class Procedural:
    """Clips that a program renders from a filmed clip, so that they show a condition exactly.

    What: each program of `vapdata/conditions/procedural.py` (camera moves, styles, motions, concepts), applied to the first
        frame or the frames of some filmed clips, at the size, rate and length of the recipe; written as H.264 under the
        catalog's `media/` and built like any other dataset, under the name `vap`. Programs that act on the subject take it
        from the clip's CLIP mask where the catalog has one, else the middle of the picture.
    Reads: files of filmed clips that are as long as the recipe's; `masks`; captions.
    Writes: videos of dataset `vap` with parent, seed and parameters; members with score 100.
    Default: per condition four clips of training and one of each other split, from 64 clips of different content.
    Cost: see benchmarks/RESULTS.md for the frames per second of every program.
    Fails when: a clip's file is not where `--root` says (CallError), or cannot be decoded (a row of `failures`).
    Source: ours.
    """

    name: ClassVar[str] = "procedural"
    seed: int = 0
    each: int = 4
    """Training clips per condition; a condition needs four for three references each."""
    each_held_out: int = 1
    """Clips per condition of each other split."""
    sources: int = 64
    """Training clips that all conditions choose from."""
    only: tuple[str, ...] = ()
    """Conditions to render; none named: all."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in PROGRAMS]
        if unknown:
            raise CallError(f"procedural.only: there is no condition {unknown[0]!r}. There are {', '.join(PROGRAMS)}.")
        if self.each < 1 or self.each_held_out < 0 or self.sources < self.each:
            raise CallError(f"procedural: got each={self.each} each_held_out={self.each_held_out} sources={self.sources}; wanted 1, 0 and `each` or more")

    def programs(self) -> Mapping[str, Program]:
        """The programs that this provider runs, by condition."""
        return {name: program for name, program in PROGRAMS.items() if not self.only or name in self.only}

    def reads(self) -> tuple[str, ...]:
        """No scores."""
        return ()

    def members(self, clips: Iterable[Facts]) -> Iterator[Member]:
        """The clips that programs of today's version rendered."""
        programs = self.programs()
        for clip in clips:
            program = programs.get(clip.condition or "") if clip.provider == self.name else None
            if program is not None and clip.version == program.version:
                yield Member(clip_id=clip.clip_id, condition=program.name, category=program.category, score=EXACT)


def seed_of(seed: int, condition: str, clip_id: str) -> int:
    """The seed of one render, 31 bits: the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x1f{condition}\x1f{clip_id}".encode()).digest()[:4], "big") >> 1


def told(caption: str | None, sentence: str) -> str:
    """A clip's caption, then what happens in it."""
    text = (caption or "").strip()
    return f"{text}{'' if text.endswith(('.', '!', '?')) else '.'} {sentence}" if text else sentence


def render(
    program: Program, frames: UInt8[np.ndarray, "t h w 3"], mask_grid: Float[np.ndarray, "rows columns"] | None, parameters: Mapping[str, float]
) -> UInt8[np.ndarray, "t h w 3"]:
    """As many frames as go in. One thread of OpenCV: workers share the cores among them, and sums keep their order."""
    cv2.setNumThreads(1)
    subject = subject_of(mask_grid, frames.shape[1], frames.shape[2], frames[0]) if program.needs_subject else None
    return program.render(frames, subject, parameters, len(frames))
