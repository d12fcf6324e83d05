"""Which blocks of a backbone lose sight of the caption's keywords: Focal Guidance's diagnosis, on clips of a catalog.

    python -m train.fg diagnose --catalog C --backbone NAME [--weights RUN] [--samples 50] --out DIR

For every block: the similarity of its tokens with each keyword's value (train/focus.py), averaged over keywords; of each frame
of that map Moran's I and the standard deviation between its least and highest value taken as 0 and 1; the mean over
frames, timesteps and clips. Weak are the blocks of lowest I. Writes layers.csv, layers.parquet, heatmaps.parquet and layers.png.
Exercised by `pytest tests/train/test_diagnose.py`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from train.launch import CATALOG, guarded, only_backbone
from vapdata.errors import CallError, RunError

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    import torch
    from torch import Tensor

    from train.data import Loader
    from train.fg import FgModule
    from train.method import Backbone

WEAK_SHARE = 0.4
"""Of the blocks: the paper's sets are 16 of 40 on either backbone."""
SHOWN = 12
"""Heat maps on the picture, at most."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What was measured of one block."""

    block: int
    """Its number, as `fg.weak_layers` takes it."""
    name: str
    moran: float
    """Mean over clips, timesteps and frames."""
    moran_se: float
    """Standard error over clips."""
    std: float
    std_se: float
    constant: int
    """Maps that were constant, and counted as 0."""
    weak: bool = False
    """Whether it is proposed as weak."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found."""

    layers: tuple[Layer, ...]
    clips: tuple[str, ...]
    """Those that were looked at; clips without keywords are passed over."""
    heat: "Tensor"
    """(layers, h, w): the first clip's map of each block in the middle frame, between 0 and 1."""

    @property
    def weak(self) -> tuple[int, ...]:
        """Numbers of the blocks that are proposed."""
        return tuple(layer.block for layer in self.layers if layer.weak)


@click.command(context_settings={"max_content_width": 160, "help_option_names": ["-h", "--help"]})
@click.option("--catalog", default=CATALOG, show_default=True, help="The catalog whose clips are looked at.")
@click.option("--backbone", help="Left out: the only one the catalog has latents of.")
@click.option("--weights", help="A diffusers folder, or a finished run of train.full, whose transformer replaces the backbone's.")
@click.option("--run", help="A run of train.fg: measured with what it learned and its guidance.")
@click.option("--samples", type=click.IntRange(1), default=50, show_default=True, help="Clips with keywords to look at (the paper: 50).")
@click.option("--timesteps", type=click.IntRange(1), default=4, show_default=True, help="Levels of noise for each: the mid-points of equal parts of the range.")
@click.option("--weak", type=click.IntRange(1), help="How many blocks are proposed.  [default: 2 in 5, as in the paper]")
@click.option("--where", default="true", help="Which clips: SQL over clips_wide, as for vapdata build.")
@click.option("--product", help="The latents, when the catalog has several grids of the backbone's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides clips and noise.")
@click.option("--device", help="cpu, cuda or cuda:N; left out: the GPU when there is one.")
@click.option("--out", required=True, help="Folder for table and picture.")
def command(**given: Any) -> None:
    """Measures how well each block sees the captions' keywords, and proposes the weak ones."""
    raise SystemExit(guarded(lambda: _diagnose(given)))


def _diagnose(given: Mapping[str, Any]) -> int:
    _check_plot()
    from train.world import world

    with world(given["device"]) as here:
        module, backbone, loader = _opened(given, here.device)
        found = diagnose(module, backbone, loader, samples=given["samples"], timesteps=given["timesteps"], seed=given["seed"], weak=given["weak"])
        click.echo(write(Path(given["out"]), found, title=f"{backbone.facts.name}, {len(found.clips)} clips"))
    return 0


def _opened(given: Mapping[str, Any], device: "torch.device") -> "tuple[FgModule, Backbone, Loader]":
    """What is measured and on which clips."""
    import torch

    from catalogs.store import Catalog
    from train.backbones import load_backbone
    from train.begin import trained_weights
    from train.data import Loader
    from train.fg import Fg, FgModule
    from train.index import build_index
    from train.method import unwrapped
    from train.trained_run import open_run
    from vapdata import backbones

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if given["run"]:
        run = open_run(Path(given["run"]), device=device, dtype=dtype, weights=given["weights"])
        if not isinstance(run.module, FgModule):
            raise CallError(f"--run {given['run']}: is a run of train.{run.method.name}. Name one of train.fg, or give a run of train.full as --weights")
        module, backbone = run.module, run.backbone
    else:
        facts = backbones.backbone(given["backbone"] or only_backbone(given["catalog"], "fg"))
        folder = trained_weights(given["weights"], facts.name) if given["weights"] else None
        backbone = load_backbone(facts, dtype=dtype, device=device, folder=folder)
        module = Fg(mode="zero_shot", fsg_text=False, fsg_latent=False, ac=False).attach(backbone, unwrapped)
    reads = Fg().reads(backbone.facts) | backbone.reads()
    index = build_index(Catalog.open(given["catalog"]), backbone.facts, reads, where=given["where"], product=given["product"], method="fg")
    return module, backbone, Loader(index, backbone.facts, backbone.objective, seed=given["seed"], global_batch=1, micro_batch=1)


def diagnose(module: "FgModule", backbone: "Backbone", loader: "Loader", *, samples: int, timesteps: int = 4, seed: int = 0, weak: int | None = None) -> Diagnosis:
    """Measures `module`'s blocks on `samples` clips of the loader's index. Raises CallError when no clip has a keyword."""
    import torch

    from train import moran, order
    from train.objective import seed_of

    index, device = loader.index, next(backbone.transformer.parameters()).device
    every = len(index.samples)
    figures: dict[int, list[tuple[float, float]]] = {}
    constant: dict[int, int] = {}
    clips: list[str] = []
    heat: list[Tensor] = []
    module.eval()
    for number in order.some(every, every, "diagnosis", seed):
        if len(clips) == samples:
            break
        clip = index.samples[int(number)].target
        noise = [seed_of(seed, place, 0, clip) for place in range(timesteps)]
        batch = loader.grid([int(number)] * timesteps, backbone.objective.grid(timesteps).float(), noise).to(device)
        if batch.target.keyword_mask is None or not batch.target.keyword_mask.any() or clip in clips:
            continue
        clips.append(clip)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            seen = module.maps(backbone.objective.noisy(batch.target.video, batch.noise, batch.timesteps), batch.timesteps, batch.target)
        for block, maps in seen.items():
            mean = maps.float().mean(dim=1)  # over keywords: one clip's, so none is padding
            figures.setdefault(block, []).append((float(moran.moran(mean).mean()), float(moran.deviation(mean).mean())))
            constant[block] = constant.get(block, 0) + int(moran.constant(mean).sum())
            if len(clips) == 1:
                heat.append(_scaled(mean[timesteps // 2, mean.shape[1] // 2]).cpu())
    if not clips:
        raise CallError(f"none of {every} clips of {index.catalog} has a keyword. Build them with --set keywords.minimum=1, or choose others by --where")
    lowest = sorted(figures, key=lambda block: sum(one for one, _ in figures[block]))[: weak or max(1, round(WEAK_SHARE * len(figures)))]
    layers = tuple(_layer(backbone, block, rows, constant[block], block in lowest) for block, rows in sorted(figures.items()))
    return Diagnosis(layers=layers, clips=tuple(clips), heat=torch.stack(heat))


def write(folder: Path, found: Diagnosis, *, title: str) -> str:
    """The table and the picture in `folder`; what the table says, and what to type."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    rows = pa.Table.from_pylist([asdict(layer) for layer in found.layers])
    heat = pa.table({"block": [layer.block for layer in found.layers], "map": [each.flatten().tolist() for each in found.heat], "width": [found.heat.shape[2]] * len(found.heat)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pa.csv.write_csv(rows, folder / "layers.csv")
        pq.write_table(rows, folder / "layers.parquet")
        pq.write_table(heat, folder / "heatmaps.parquet")
        (folder / "diagnosis.json").write_text(json.dumps({"title": title, "clips": found.clips, "weak": found.weak}, indent=1))
        plot(folder / "layers.png", found, title)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}). Give an --out that can") from error
    lines = [f"{'block':>5}  {'name':32} {'Moran I':>8} {'error':>7} {'std':>7} {'error':>7}"]
    for layer in found.layers:
        flag = f"  {layer.constant} constant maps" if layer.constant else ""
        lines.append(f"{layer.block:5}  {layer.name:32} {layer.moran:8.4f} {layer.moran_se:7.4f} {layer.std:7.4f} {layer.std_se:7.4f}{'  weak' if layer.weak else ''}{flag}")
    typed = ",".join(map(str, found.weak))
    lines.append(f"weak: {typed}  ({len(found.weak)} of {len(found.layers)}, those of the lowest Moran's I); use them: --set fg.weak_layers={typed}")
    return "\n".join([*lines, f"picture: {folder / 'layers.png'}"])


def plot(path: Path, found: Diagnosis, title: str) -> None:
    """Both figures per block, weak blocks shaded, over heat maps of blocks from first to last."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = _evenly(len(found.layers), SHOWN)
    rows = math.ceil(len(places) / (SHOWN // 2))
    columns = math.ceil(len(places) / rows)
    figure = Figure(figsize=(11, 4.6 + 1.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1, height_ratios=(4.0, 1.6 * rows))
    axes = above.subplots()
    blocks = [layer.block for layer in found.layers]
    for block in found.weak:
        axes.axvspan(block - 0.5, block + 0.5, color="0.9", lw=0, label="proposed as weak", zorder=0)
    other = axes.twinx()
    style: dict[str, Any] = {"ms": 4, "capsize": 2}
    drawn = axes.errorbar(blocks, [each.moran for each in found.layers], [each.moran_se for each in found.layers], color="tab:blue", marker="o", label="Moran's I", **style)
    spread = [each.std for each in found.layers], [each.std_se for each in found.layers]
    second = other.errorbar(blocks, *spread, color="tab:orange", marker="s", label="standard deviation", **style)
    axes.set(xlabel="block", ylabel="Moran's I", title=title)
    other.set_ylabel("standard deviation")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(handles=[drawn, second, *axes.patches[:1]], loc="best", fontsize="small")
    grids = below.subplots(rows, columns, squeeze=False).flatten()
    for axis in grids:
        axis.set_axis_off()
    for axis, place in zip(grids, places, strict=False):
        layer = found.layers[place]
        axis.imshow(found.heat[place].numpy(), cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(f"{layer.block}{' weak' if layer.weak else ''}: I = {layer.moran:.2f}", fontsize="small")
    below.suptitle(f"similarity with the keywords of {found.clips[0]}, middle frame", fontsize="small")
    figure.savefig(path, dpi=110)


def _layer(backbone: "Backbone", block: int, rows: Sequence[tuple[float, float]], constant: int, weak: bool) -> Layer:
    import torch

    from train.evaluate import paired

    (moran, moran_se), (std, std_se) = (paired(torch.tensor(each, dtype=torch.float64)) for each in zip(*rows, strict=True))
    return Layer(block=block, name=backbone.block_name(block), moran=moran, moran_se=moran_se, std=std, std_se=std_se, constant=constant, weak=weak)


def _scaled(maps: "Tensor") -> "Tensor":
    """Between the least and the highest value."""
    low, high = maps.min(), maps.max()
    return (maps - low) / (high - low).clamp_min(1e-12)


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` places from the first to the last of `count`."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _check_plot() -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise CallError("diagnose draws with matplotlib, which is not installed. Type: pip install -e '.[train]'")
