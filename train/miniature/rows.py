"""The rows of the benchmark's table: what is trained for each, what is asked, and a contact sheet.

`TRIALS` names them by method. A new method is one function here, one line there, and its name in `tiers.TABLE` and `tiers.LANES`; a function
gets a `Bench` and returns rows.
Exercised by `pytest tests/train/miniature/test_bench.py`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.ablations.vap import TABLE as VAP_ABLATIONS
from train.full import Full
from train.method import Method, MethodModule
from train.miniature import masks
from train.miniature.commands import run
from train.miniature.scoring import score
from train.miniature.studio import Clip, Studio, World
from train.miniature.tiers import UNSEEN, Row, Tier
from train.sheet import Row as Strip
from train.sheet import picked, sheet
from train.trained_run import CONFIG, open_run
from vapdata import tiny
from vapdata.scenes import CONDITIONS, caption

log = logging.getLogger("train")

SHOWN = 6
"""Clips on a row's contact sheet."""


class Bench:
    """One tier, one seed, one folder."""

    def __init__(self, tier: Tier, seed: int, folder: Path, backbone: str, device: str = "cpu") -> None:
        self.tier, self.seed, self.folder, self.backbone, self.device = tier, seed, folder, backbone, torch.device(device)
        self.world = World(folder=folder, backbone=backbone, clips=tier.clips, seed=seed, on_ray=tier.on_ray)
        self.version = tiny.version(backbone)

    def ordered(self) -> "Bench":
        """The same with clips of two events, one after the other, in a catalog of their own."""
        return self._elsewhere("ordered", events=2)

    def large(self) -> "Bench":
        """The same with four times as many tokens, in a catalog of their own."""
        return self._elsewhere("large", large=True, clips=self.tier.large)

    def _elsewhere(self, name: str, **changes: Any) -> "Bench":
        """The same in a folder within this one, its world changed."""
        made = Bench(self.tier, self.seed, self.folder / name, self.backbone, str(self.device))
        made.world = replace(made.world, **changes)
        return made

    def studio(self, method: Method) -> Studio:
        """The catalog as it is now, for this method."""
        return Studio(self.world, method, seed=self.seed, steps=self.tier.denoising, device=self.device)

    def trained(self, method: str, *settings: str, weights: Path | None = None) -> tuple[Studio, MethodModule | None]:
        """A method trained on the catalog as it is now, or earlier in this folder, and what makes its clips: None for the backbone itself, trained.

        `settings` as --set takes them, `weights` as --weights.
        """
        run = open_run(self.train(method, *settings, weights=weights), device=self.device, dtype=torch.float32)
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

    def train(self, method: str, *settings: str, weights: Path | None = None) -> Path:
        """Trains a method beside the backbone that ships, or another, or goes on where that was stopped; the run's folder."""
        out = self.folder / "-".join((method, *settings, self.version))
        if not (out / "export").is_dir():
            steps = None if method == "full" else self.tier.steps  # a tier says how long methods train, LARGE how long the backbone
            more = [*(("--steps", str(steps)) if steps else ()), *(("--weights", str(weights)) if weights else ()), *(("--resume",) if (out / CONFIG).is_file() else ())]
            more += [word for setting in settings for word in ("--set", setting)]
            words = ["-m", f"train.{method}", "--catalog", self.world.catalog, "--backbone", self.backbone, "--recipe", f"{method}-miniature", "--out", str(out)]
            run([*words, "--seed", str(self.seed), "--device", str(self.device), *more], self.folder / "logs" / out.name)
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
    """The backbone that ships, told by captions that say what happens."""
    bench.world.build("full")
    studio = bench.studio(Full())
    samples = studio.samples("validation", bench.tier.judged)
    rows = [bench.row("full target through the VAE", studio, studio.targets(samples))]
    for guidance in (1.0, 2.0):
        rows.append(bench.row(f"full caption, guidance {guidance:g}", studio, studio.clips(samples, None, guidance=guidance)))
    return rows


def of_neutral(bench: Bench) -> list[Row]:
    """The same on captions that do not say what happens."""
    bench.world.build("neutral")
    studio = bench.studio(Full())
    return [bench.row("full neutral caption", studio, studio.clips(studio.samples("validation", bench.tier.judged), None))]


def of_vap(bench: Bench) -> list[Row]:
    """Video-As-Prompt on neutral captions: only the reference can tell what happens. Some conditions are never trained on."""
    bench.world.build("neutral")
    bench.world.pair(UNSEEN)
    studio, expert = bench.trained("vap")
    return _steered(bench, "vap", studio, expert, (None, 2.0))


def _steered(bench: Bench, name: str, studio: Studio, expert: MethodModule | None, guidances: Sequence[float | None]) -> list[Row]:
    """Clips made by the right reference, by a shuffled one, and without."""
    seen, unseen = studio.samples("validation", bench.tier.judged), studio.samples("test", bench.tier.judged)
    rows = []
    for guidance in guidances:
        told = f", reference guidance {guidance:g}" if guidance else ""
        rows.append(bench.row(f"{name} right reference{told}", studio, studio.clips(seen, expert, reference_guidance=guidance)))
        shuffled = studio.clips(seen, expert, reference_guidance=guidance, references="shuffled")
        rows.append(bench.row(f"{name} shuffled reference{told}", studio, shuffled))
        rows.append(bench.row(f"{name} shuffled reference{told}, followed", studio, shuffled, followed=True))
    if unseen:
        rows.append(bench.row(f"{name} unseen conditions, reference guidance 2", studio, studio.clips(unseen, expert, reference_guidance=2.0)))
    silent, stock = (studio.clips(seen, module, references="none") for module in (expert, None))
    same = float(np.mean([np.array_equal(one.frames, other.frames) for one, other in zip(silent, stock, strict=True)]))
    return [*rows, bench.row(f"{name} no reference", studio, silent, more={"stock": same})]


def of_ablation(bench: Bench) -> list[Row]:
    """The variants of Video-As-Prompt's structure that its paper compares, each trained as Video-As-Prompt is; in tiers that have them."""
    if not bench.tier.ablation:
        log.info("ablation: no rows in tier %s. Type --tier gpu", bench.tier.name)
        return []
    bench.world.build("neutral")
    bench.world.pair(UNSEEN)
    variants = [each for each in VAP_ABLATIONS.rows if each.settings]
    with ThreadPoolExecutor(len(variants)) as pool:  # each training is a process of its own
        list(pool.map(lambda variant: bench.train("vap", *variant.settings), variants))
    rows = []
    for variant in variants:
        studio, module = bench.trained("vap", *variant.settings)
        samples = studio.samples("validation", bench.tier.judged)
        for told in ("right", "shuffled"):
            clips = studio.clips(samples, module, reference_guidance=2.0, references=told)
            rows.append(bench.row(f"vap as {variant.name}, {told} reference", studio, clips))
    return rows


LARGE = ("run.steps=1000", "run.global_batch=128", "run.micro_batch=128", "run.compute=f32")
"""How the backbone that ships is trained on for more tokens."""


def of_tokens(bench: Bench) -> list[Row]:
    """The backbone that ships on four times as many tokens, as it is and trained on for them; then Video-As-Prompt beside the latter. In tiers that have them."""
    if not bench.tier.large or bench.backbone != "tiny-cogvideox":
        log.info("tokens: no rows in tier %s with %s. Type --tier gpu", bench.tier.name, bench.backbone)
        return []
    bench = bench.large()
    bench.world.build("full")
    stock = bench.studio(Full())
    samples = stock.samples("validation", bench.tier.judged)
    rows = [
        bench.row("large target through the VAE", stock, stock.targets(samples)),
        bench.row("large caption, guidance 2, as it ships", stock, stock.clips(samples, None, guidance=2.0)),
    ]
    trained = bench.train("full", *LARGE)
    studio, _ = bench.trained("full", *LARGE)
    rows.append(bench.row("large caption, guidance 2", studio, studio.clips(samples, None, guidance=2.0)))
    bench.world.build("neutral")
    bench.world.pair(UNSEEN)
    studio, expert = bench.trained("vap", weights=trained)
    return [*rows, *_steered(bench, "large vap", studio, expert, (2.0,))]


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

TRIALS: Mapping[str, Callable[[Bench], list[Row]]] = {
    "masks": of_masks,
    "full": of_full,
    "neutral": of_neutral,
    "vap": of_vap,
    "ablation": of_ablation,
    "tokens": of_tokens,
    **{method: _of_told(method) for method in OWN},
}
"""Name of a part of the table -> what makes its rows."""
