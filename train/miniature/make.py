"""Makes the weights of tiny models that ship with the package again, from nothing: `make tiny-models`.

    python -m train.miniature.make [--work FOLDER] [--part NAME ...] [--seed N] [--device cuda]

Each part is a command of this project in a process of its own, one thread each, two at a time: VAEs and CLIP learn straight from the
world's formulas; then `vapdata build --source miniature` makes a catalog with what was learned, and `train.full` trains the
transformers from it. A part's weights and its card go to vapdata/trained/. Exercised by `pytest tests/train/miniature/test_make.py`.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from train.miniature.commands import run
from train.miniature.studio import World
from vapdata import tiny_trained

log = logging.getLogger("train")

@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much goes into the models on one kind of device."""

    counts: Mapping[str, tuple[int, int]]
    """Backbone -> clips of one object and of two that its catalog lists. Wan's encoders take three times as long, its steps twice."""
    more: Mapping[str, tuple[tuple[str, ...], ...]]
    """Part, as `model/part` -> what is added to the command that trains it; of several, each goes on from the one before."""


BUDGETS = {
    "cpu": Budget(
        counts={"tiny-cogvideox": (2600, 780), "tiny-wan": (1040, 260)},
        more={
            "tiny-cogvideox/vae": (("--steps", "1850"),),
            "tiny-cogvideox/clip": (("--steps", "2200"),),
            "tiny-cogvideox/transformer": (("--steps", "6000"),),
            "tiny-wan/transformer": (("--steps", "900"),),
        },
    ),
    "cuda": Budget(
        counts={"tiny-cogvideox": (4160, 1040), "tiny-wan": (780, 260)},
        more={
            "tiny-cogvideox/vae": (("--steps", "2060", "--batch", "64", "--workers", "5"),),
            "tiny-wan/vae": (("--steps", "1110", "--batch", "64", "--workers", "5"), ("--steps", "1120", "--batch", "64", "--workers", "5", "--lr", "2e-3")),
            "tiny-cogvideox/clip": (("--steps", "3270", "--batch", "256", "--workers", "6"),),
            "tiny-cogvideox/transformer": (
                ("--steps", "1690", "--global-batch", "128", "--micro-batch", "128"),
                ("--steps", "2500", "--global-batch", "128", "--micro-batch", "128", "--lr", "1.5e-3", "--set", "run.compute=f32"),
            ),
            "tiny-wan/transformer": (("--steps", "1000", "--global-batch", "128", "--micro-batch", "128", "--set", "run.compute=f32"),),
        },
    ),
}
"""Kind of device -> budget: about an hour on two cores, or a quarter of an hour on one GPU beside what its cores encode."""
WHERE = "split = 'train' or clip_id like '%7.mp4'"
"""Which of them are encoded: those that are trained on, and one in ten of the others to be judged on."""
TURN = 20.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of weights."""

    name: str
    """The tiny model."""
    part: str
    after: tuple[str, ...] = ()
    """Parts, as `model/part`, that it is made with."""

    @property
    def path(self) -> str:
        """`model/part`."""
        return f"{self.name}/{self.part}"


PARTS = (
    Part(name="tiny-cogvideox", part="vae"),
    Part(name="tiny-cogvideox", part="clip"),
    Part(name="tiny-wan", part="vae"),
    Part(name="tiny-cogvideox", part="transformer", after=("tiny-cogvideox/vae", "tiny-cogvideox/clip")),
    Part(name="tiny-wan", part="transformer", after=("tiny-wan/vae",)),
)
"""In the order in which they are begun."""


def make(part: Part, work: Path, seed: int, *, steps: int | None = None, device: str = "cpu") -> Path:
    """Trains one part in `work` and puts its weights among those that ship; the file's path. `steps`: so few, for a test."""
    began, folder = time.perf_counter(), work / part.name / part.part
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for suffix in ("safetensors", "json"):
        (tiny_trained.FOLDER / part.name / f"{part.part}.{suffix}").unlink(missing_ok=True)
    commands = _commands(part, folder, seed, steps, device)
    for command in commands:
        run(command, folder)
    trained, drawn, figures = _READERS[part.part](part, folder)
    minutes = (time.perf_counter() - began) / 60
    return tiny_trained.save(trained, drawn, part.name, part.part, told(part, commands, seed, minutes, device_words(device), trained, figures))


def told(part: Part, commands: Sequence[Sequence[str]], seed: int, minutes: float, device: str, trained: Any, figures: Mapping[str, Any]) -> Mapping[str, Any]:
    """The card of a part."""
    return {
        "model": part.name,
        "part": part.part,
        "class": type(trained).__name__,
        "made": ["python " + " ".join(each) for each in commands],
        "seed": seed,
        "device": device,
        "minutes": round(minutes, 1),
        "figures": figures,
        "license": "Apache-2.0; trained on pictures drawn by vapdata/scenes.py alone",
    }


def device_words(device: str) -> str:
    """As a card names it."""
    import torch

    return "one core" if device == "cpu" else f"one {torch.cuda.get_device_name(device)}"


def _commands(part: Part, folder: Path, seed: int, steps: int | None, device: str) -> list[list[str]]:
    """What is typed to make a part, without the interpreter."""
    budget = BUDGETS[device.partition(":")[0]]
    further = [("--steps", str(steps))] if steps else list(budget.more.get(part.path, ((),)))
    whole = part.part == "transformer"
    outs = [*(folder / f"stage{number}" for number in range(1, len(further))), folder / "run" if whole else folder]
    starts = [(), *(("--weights", str(out / "export")) if whole else ("--start", str(out)) for out in outs)]
    if whole:
        counts = [min(count, 26 * steps) if steps else count for count in budget.counts[part.name]]
        worlds = [
            World(folder=folder, backbone=part.name, clips=count, seed=seed, pairs=two, turn=TURN, where=WHERE, on_ray=False)
            for count, two in zip(counts, (False, True), strict=True)
        ]
        before = [each.building("full") for each in worlds]
        begins = ["-m", "train.full", "--catalog", worlds[0].catalog, "--backbone", part.name, "--recipe", "full-miniature", "--where", WHERE]
    else:
        before, begins = [], ["-m", f"train.miniature.{part.part}", *([part.name] if part.part == "vae" else [])]
    ends = [("--seed", str(seed + number), "--device", device) for number in range(len(outs))]
    return [*before, *([*begins, "--out", str(out), *start, *words, *end] for out, start, words, end in zip(outs, starts, further, ends, strict=False))]


def _vae(part: Part, folder: Path) -> tuple[Any, Any, Mapping[str, Any]]:
    import diffusers

    from train.miniature.vae import new

    drawn = new(part.name)
    trained = getattr(diffusers, type(drawn).__name__).from_pretrained(folder / "vae", local_files_only=True)
    return trained, drawn, json.loads((folder / "quality.json").read_text())


def _clip(part: Part, folder: Path) -> tuple[Any, Any, Mapping[str, Any]]:
    import open_clip
    from safetensors.torch import load_file

    from vapdata import tiny, tiny_draw

    drawn, trained = open_clip.CLIP(**tiny.CLIP), open_clip.CLIP(**tiny.CLIP)
    tiny_draw.fill(drawn, "clip")
    trained.load_state_dict(load_file(folder / "clip" / "open_clip_model.safetensors"))
    return trained, drawn, json.loads((folder / "quality.json").read_text())


def _transformer(part: Part, folder: Path) -> tuple[Any, Any, Mapping[str, Any]]:
    import diffusers

    from vapdata import tiny_transformer

    kind = getattr(diffusers, tiny_transformer.CLASSES[part.name][0])
    drawn = kind(**tiny_transformer.TRANSFORMERS[part.name])
    tiny_transformer.draw(drawn, "transformer")
    trained = kind.from_pretrained(folder / "run" / "export" / "transformer", local_files_only=True)
    stages = sorted(folder.glob("*/metrics.jsonl"), key=lambda path: (path.parent.name == "run", path))
    asked = [[row for row in map(json.loads, path.read_text().splitlines()) if "eval_loss" in row] for path in stages]
    steps = sum(rows[-1]["step"] for rows in asked)
    return trained, drawn, {"steps": steps, "eval_loss_before": asked[0][0]["eval_loss"], "eval_loss": asked[-1][-1]["eval_loss"]}


_READERS: Mapping[str, Callable[[Part, Path], tuple[Any, Any, Mapping[str, Any]]]] = {"vae": _vae, "clip": _clip, "transformer": _transformer}


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.option("--work", type=click.Path(path_type=Path), default=Path("tiny-models"), show_default=True, help="Folder for catalogs, runs and logs.")
@click.option("--part", "chosen", multiple=True, type=click.Choice([each.path for each in PARTS]), help="Make this part alone, with the others as they ship; may be repeated.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:0. A GPU gets larger batches and more clips: what ships was trained on one.")
def command(work: Path, chosen: Sequence[str], seed: int, device: str) -> None:
    """Makes the trained weights of tiny models from nothing; device and minutes of each part stand on its card."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    wanted = [each for each in PARTS if not chosen or each.path in chosen]
    begun: dict[str, Any] = {}
    with ThreadPoolExecutor(2) as pool:
        for part in wanted:
            begun[part.path] = pool.submit(_after, [begun[path] for path in part.after if path in begun], part, work, seed, device)
    for path, future in begun.items():
        log.info("%s  %s  %.2f MB", path, future.result(), future.result().stat().st_size / 1e6)


def _after(earlier: Sequence[Any], part: Part, work: Path, seed: int, device: str) -> Path:
    for each in earlier:
        each.result()
    return make(part, work, seed, device=device)


if __name__ == "__main__":
    command(prog_name="python -m train.miniature.make")
