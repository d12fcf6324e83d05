"""The rows of the benchmark's table: what is trained for each, what is asked, and a contact sheet.

`TRIALS` names them by method. A new method is one function here and one line there; a function gets a `Bench` and returns rows.
Exercised by `pytest tests/train/miniature/test_bench.py`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from train.ablations.vap import TABLE as VAP_ABLATIONS
from train.full import Full
from train.method import Method, MethodModule
from train.miniature import masks
from train.miniature.commands import run
from train.miniature.scoring import score
from train.miniature.studio import Clip, Studio, World
from train.miniature.tiers import UNSEEN, Tier
from train.sheet import Row as Strip
from train.sheet import picked, sheet
from train.trained_run import CONFIG, open_run
from vapdata import tiny
from vapdata.scenes import CONDITIONS, caption

log = logging.getLogger("train")

SHOWN = 6
"""Clips on a row's contact sheet."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a name and its figures. Shares are 0 to 1."""

    name: str
    figures: Mapping[str, float]


class Bench:
    """One tier, one seed, one folder."""

    def __init__(self, tier: Tier, seed: int, folder: Path, backbone: str, device: str = "cpu") -> None:
        self.tier, self.seed, self.folder, self.backbone, self.device = tier, seed, folder, backbone, torch.device(device)
        self.world = World(folder=folder, backbone=backbone, clips=tier.clips, seed=seed)
        self.version = tiny.version(backbone)

    def ordered(self) -> "Bench":
        """The same with clips of two events, one after the other, in a catalog of their own."""
        made = Bench(self.tier, self.seed, self.folder / "ordered", self.backbone, str(self.device))
        made.world = replace(made.world, events=2)
        return made

    def studio(self, method: Method) -> Studio:
        """The catalog as it is now, for this method."""
        return Studio(self.world, method, seed=self.seed, steps=self.tier.denoising, device=self.device)

    def trained(self, method: str, *settings: str) -> tuple[Studio, MethodModule]:
        """A method trained on the catalog as it is now, or earlier in this folder, and what makes its clips; `settings` as --set takes them."""
        run = open_run(self.train(method, *settings), device=self.device, dtype=torch.float32)
        assert run.module is not None
        studio = self.studio(run.method)
        studio.backbone = run.backbone
        return studio, run.module

    def row(self, name: str, studio: Studio, made: Sequence[Clip], *, followed: bool = False, more: Mapping[str, float] | None = None) -> Row:
        """What the clips show, as a row; with `followed` measured against their references. Its contact sheet lies in the folder."""
        found = score(studio.seen(made, of="reference" if followed else "target"))
        figures = {key: value for key, value in asdict(found).items() if value is not None}
        self._sheet(name, studio, made)
        log.info("%-60s %s", name, "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
        return Row(name=name, figures={**figures, **(more or {})})

    def train(self, method: str, *settings: str) -> Path:
        """Trains a method beside the backbone that ships, or goes on where that was stopped; the run's folder."""
        out = self.folder / "-".join((method, *settings, self.version))
        if not (out / "export").is_dir():
            more = [*(("--steps", str(self.tier.steps)) if self.tier.steps else ()), *(("--resume",) if (out / CONFIG).is_file() else ())]
            more += [word for setting in settings for word in ("--set", setting)]
            words = ["-m", f"train.{method}", "--catalog", self.world.catalog, "--backbone", self.backbone, "--recipe", f"{method}-miniature", "--out", str(out)]
            run([*words, "--seed", str(self.seed), "--device", str(self.device), *more], self.folder)
        return out

    def _sheet(self, name: str, studio: Studio, made: Sequence[Clip]) -> None:
        """Reference, rendered truth and result of some of the clips: of the first round of conditions, so that each is another."""
        chosen = [made[place] for place in picked(min(len(made), len(CONDITIONS)), SHOWN)]
        strips = []
        for clip in chosen:
            known = self.world.made(clip.target)
            truth = known.rendered(frames=len(clip.frames), height=clip.frames.shape[1], width=clip.frames.shape[2])
            shown = [self.world.made(each).rendered(frames=len(truth), height=truth.shape[1], width=truth.shape[2]) for each in clip.references]
            strips.append(Strip(label=clip.target, text=caption(known.scene, known.condition), videos=(*shown, truth, clip.frames)))
        path = self.folder / "sheets" / f"{name.replace(',', '').replace(' ', '-')}.png"
        path.parent.mkdir(exist_ok=True)
        sheet((*(["reference"] * len(chosen[0].references)), "target", "result"), strips).save(path)


def of_masks(bench: Bench) -> list[Row]:
    """The tiny CLIP's masks and what the visual prompt does."""
    judge = masks.Judge(masks.scenes(bench.seed, bench.tier.scenes))
    prompted = judge.prompted()
    rows = [Row(name=f"mask {each.kind}", figures={"pointing": each.pointing, "iou": each.iou}) for each in judge.found()]
    return [*rows, Row(name="visual prompt", figures=asdict(prompted))]


def of_full(bench: Bench) -> list[Row]:
    """The backbone that ships, told by captions that say what happens, then by captions that do not. Leaves the catalog with neutral ones."""
    bench.world.build("full")
    studio = bench.studio(Full())
    samples = studio.samples("validation", bench.tier.judged)
    rows = [bench.row("full target through the VAE", studio, studio.targets(samples))]
    for guidance in (1.0, 2.0):
        rows.append(bench.row(f"full caption, guidance {guidance:g}", studio, studio.clips(samples, None, guidance=guidance)))
    bench.world.build("neutral")
    studio = bench.studio(Full())
    return [*rows, bench.row("full neutral caption", studio, studio.clips(samples, None))]


def of_vap(bench: Bench) -> list[Row]:
    """Video-As-Prompt on neutral captions: only the reference can tell what happens. Some conditions are never trained on."""
    bench.world.build("neutral")
    bench.world.pair(UNSEEN)
    studio, expert = bench.trained("vap")
    seen, unseen = studio.samples("validation", bench.tier.judged), studio.samples("test", bench.tier.judged)
    rows = []
    for guidance in (None, 2.0):
        told = f", reference guidance {guidance:g}" if guidance else ""
        rows.append(bench.row(f"vap right reference{told}", studio, studio.clips(seen, expert, reference_guidance=guidance)))
        shuffled = studio.clips(seen, expert, reference_guidance=guidance, references="shuffled")
        rows.append(bench.row(f"vap shuffled reference{told}", studio, shuffled))
        rows.append(bench.row(f"vap shuffled reference{told}, followed", studio, shuffled, followed=True))
    if unseen:
        rows.append(bench.row("vap unseen conditions, reference guidance 2", studio, studio.clips(unseen, expert, reference_guidance=2.0)))
    silent, stock = (studio.clips(seen, module, references="none") for module in (expert, None))
    same = float(np.mean([np.array_equal(one.frames, other.frames) for one, other in zip(silent, stock, strict=True)]))
    return [*rows, bench.row("vap no reference", studio, silent, more={"stock": same})]


def of_ablation(bench: Bench) -> list[Row]:
    """The variants of Video-As-Prompt's structure that its paper compares, each trained as Video-As-Prompt is; in tiers that have them."""
    if not bench.tier.ablation:
        log.info("ablation: no rows in tier %s. Type --tier gpu", bench.tier.name)
        return []
    bench.world.build("neutral")
    bench.world.pair(UNSEEN)
    rows = []
    for variant in (each for each in VAP_ABLATIONS.rows if each.settings):
        studio, module = bench.trained("vap", *variant.settings)
        samples = studio.samples("validation", bench.tier.judged)
        for told in ("right", "shuffled"):
            clips = studio.clips(samples, module, reference_guidance=2.0, references=told)
            rows.append(bench.row(f"vap as {variant.name}, {told} reference", studio, clips))
    return rows


OWN = {"fca": ("words", "words_mask", "image_tokens"), "ssg": ("picture", "masks"), "fg": ("keyword_maps", "keyword_anchors", "keyword_spans", "keyword_mask")}
"""Method -> what it alone reads of a clip, beside what its backbone reads."""


def _of_told(method: str) -> Callable[[Bench], list[Row]]:
    """Rows of a method on captions that say what happens: as it is meant, with its own inputs of another clip, and the backbone alone on the same clips.

    FCA, whose text differs from frame to frame, is asked for two events in their order.
    """

    def rows(bench: Bench) -> list[Row]:
        bench = bench.ordered() if method == "fca" else bench
        if bench.backbone not in MADE_FOR[method]:
            log.info("%s: no rows, it is made for %s. Type --backbone %s", method, " and ".join(MADE_FOR[method]), MADE_FOR[method][0])
            return []
        bench.world.build("full", methods=True)
        studio, module = bench.trained(method)
        samples = studio.samples("validation", bench.tier.judged)
        made = {
            "the backbone alone": studio.clips(samples, None, guidance=2.0),
            "caption, guidance 2": studio.clips(samples, module, guidance=2.0),
            "another clip's inputs, guidance 2": studio.clips(samples, module, guidance=2.0, exchanged=OWN[method]),
        }
        return [bench.row(f"{method} {told}", studio, clips) for told, clips in made.items()]

    return rows


MADE_FOR: Mapping[str, tuple[str, ...]] = {"fca": ("tiny-cogvideox",), "ssg": ("tiny-wan", "tiny-cogvideox"), "fg": ("tiny-wan",)}
"""Method -> backbones that it works on, of those that are trained here."""

TRIALS: Mapping[str, Callable[[Bench], list[Row]]] = {"masks": of_masks, "full": of_full, "vap": of_vap, "ablation": of_ablation, **{method: _of_told(method) for method in OWN}}
"""Name of a part of the table -> what makes its rows, in the order of the table."""
