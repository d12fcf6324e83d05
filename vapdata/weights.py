"""Where model files are, and what to type when they are not: local folders and the hub cache, never the network.

A `Weight` names one model's files. `find` gives the folder that holds them; `missing` says at once, without
loading anything, which files a recipe still needs. Weights are safetensors only; a pickle is never opened.
Exercised by `pytest tests/vapdata/test_weights.py` and `vapdata models`.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vapdata import tiny
from vapdata.errors import MissingWeights

HEADER_BYTES = 1 << 20
"""How much of a safetensors file a fingerprint reads: its header and the first tensors."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """The files of one model: a folder of a hub repository, a local folder, or a model made here."""

    repo: str
    """Hub id (`zai-org/CogVideoX-2b`), path of a local folder, or the name of a tiny model."""
    subfolder: str = ""
    files: tuple[str, ...] = ("config.json",)
    """Files that must be there; `a|b` is satisfied by either."""
    stem: str | None = None
    """Tensors: `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` lists. None: has no tensors."""
    hub_files: tuple[str, ...] = ()
    """The tensor files as the hub names them, for the message; default `<stem>.safetensors`."""
    bytes: int | None = None
    """About how much there is to download."""
    aliases: tuple[str, ...] = ()
    """Earlier hub ids of the same repository."""
    revision: str | None = None
    """Commit, tag or branch on the hub; None takes what the cache calls `main`."""
    alone: bool = False
    """The folder holds other models too: only `files` tell this one's version."""

    @property
    def model_id(self) -> str:
        """The hub id, or the local folder's own name: never a path of this machine."""
        if is_local(self.repo):
            return Path(self.repo).expanduser().resolve().name
        return self.repo

    @property
    def how(self) -> str:
        """What to type to get the files."""
        if is_local(self.repo):
            return f"put the files into {self.repo}, or name a folder that holds them"
        include = f' --include "{self.subfolder}/*"' if self.subfolder else ""
        revision = f" --revision {self.revision}" if self.revision else ""
        # A few small files out of a repository whose tensors nobody asked for.
        files = "" if self.stem or self.subfolder else "".join(f" {names.split('|')[0]}" for names in self.files)
        return f"hf download {self.repo}{files}{include}{revision}"


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A file that a recipe needs and that is not on this machine."""

    weight: Weight
    file: str
    """Path inside the repository or folder."""

    def __str__(self) -> str:
        return f"{self.weight.repo}: {self.file}. Get it: {self.weight.how}"


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One file of a model."""

    name: str
    """Path inside the repository or folder."""
    here: bool
    bytes: int | None = None
    """Its size when it is here; else its share of what there is to download, None for a small file."""


def is_local(repo: str) -> bool:
    """Whether `repo` names a folder rather than a hub repository (a folder of that name counts when it exists)."""
    return repo.startswith((".", "/", "~")) or (os.path.isdir(repo) and repo not in tiny.NAMES)


def is_tiny(weight: Weight) -> bool:
    """Whether the model is made here on first use, so that nothing can be missing."""
    return weight.repo in tiny.NAMES


def find(weight: Weight) -> Path:
    """The folder that holds the weight's files, making a tiny model on first use.

    Raises MissingWeights naming each absent file and what to type.
    """
    if is_tiny(weight):
        return tiny.folder(weight.repo) / weight.subfolder
    for folder in _candidates(weight):
        if not _absent(weight, folder):
            return folder
    require([weight])
    raise AssertionError("require() raises for an absent weight")


def missing(weights: Iterable[Weight]) -> list[Missing]:
    """Every file of `weights` that is not on this machine, each once, in order. Loads nothing, asks no server."""
    found: dict[tuple[str, str], Missing] = {}
    for weight in weights:
        if is_tiny(weight):
            continue
        absences = [_absent(weight, folder) for folder in _candidates(weight)]
        if not all(absences):
            continue
        # The candidate that lacks least is the half-finished download that the user means.
        for name in min(absences, key=len, default=_all_files(weight)):
            file = f"{weight.subfolder}/{name}" if weight.subfolder else name
            found.setdefault((weight.repo, file), Missing(weight=weight, file=file))
    return list(found.values())


def files(weight: Weight) -> list[WeightFile]:
    """Every file of `weight` by name, here or not, the tensors last. Not for tiny models, which are made whole."""
    folders = _candidates(weight)
    folder = min(folders, key=lambda each: len(_absent(weight, each)), default=None)
    tensors = _tensor_names(weight, folder)
    configs = [_present(names.split("|"), folder) for names in weight.files]
    index = f"{weight.stem}.safetensors.index.json"
    if index not in tensors and len(tensors) > 1:
        configs.append(index)
    weighty = [name for name in tensors if not name.endswith(".json")]
    share = None if weight.bytes is None else weight.bytes // max(len(weighty), 1)
    return [_file(weight, name, folder, share if name in weighty else None) for name in (*configs, *tensors)]


def require(weights: Iterable[Weight]) -> None:
    """Raises MissingWeights that lists every absent file and the commands that get them; else returns."""
    absent = missing(weights)
    if not absent:
        return
    commands = dict.fromkeys(one.weight.how for one in absent)
    files = "\n".join(f"  {one.weight.repo}: {one.file}" for one in absent)
    raise MissingWeights(
        f"{len(absent)} model files are not on this machine:\n{files}\n"
        f"Looked in local folders and the hub cache {_hub_cache()}. Get them:\n" + "\n".join(f"  {how}" for how in commands)
    )


def revision(weight: Weight) -> str:
    """What tells one version of the files from another: the hub commit, a tiny model's version, or a fingerprint.

    The fingerprint of a local folder is a SHA-256 over name, size and first MiB of each of the weight's files: cheap for
    10 GB, and any other training run differs in the first MiB. Absent weights give `absent`: a plan may still be shown.
    """
    if is_tiny(weight):
        return tiny.version(weight.repo, weight.subfolder)
    for folder in _candidates(weight):
        if not _absent(weight, folder):
            return fingerprint(folder, weight.files if weight.alone else None) if is_local(weight.repo) else folder.relative_to(_snapshots(folder)).parts[0]
    return "absent"


def fingerprint(folder: Path, only: Sequence[str] | None = None) -> str:
    """SHA-256 (first 16 hex digits) over the model files of `folder`, or some of its files: names, sizes and first MiB each."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir() if only is None else (folder / name for name in only)):
        if path.is_file() and (only is not None or path.suffix in (".safetensors", ".json", ".model", ".txt")):
            with path.open("rb") as file:
                digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
                digest.update(file.read(HEADER_BYTES))
    return digest.hexdigest()[:16]


def _candidates(weight: Weight) -> list[Path]:
    """Folders that may hold the weight, best first."""
    if is_local(weight.repo):
        root = Path(weight.repo).expanduser()
        return [root / weight.subfolder, root] if weight.subfolder else [root]
    return [
        snapshot / weight.subfolder
        for repo in (weight.repo, *weight.aliases)
        for snapshot in _cached_snapshots(repo, weight.revision)
    ]


def _cached_snapshots(repo: str, revision: str | None) -> list[Path]:
    """Snapshot folders of `repo` in the hub cache: that revision's, or main's, or the newest when main is unknown."""
    base = _hub_cache() / ("models--" + repo.replace("/", "--"))
    reference = base / "refs" / (revision or "main")
    if reference.is_file():
        return [base / "snapshots" / reference.read_text().strip()]
    if revision is not None:
        return [base / "snapshots" / revision]
    found = [path for path in (base / "snapshots").glob("*") if path.is_dir()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _snapshots(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.name == "snapshots")


def _hub_cache() -> Path:
    """The hub's cache folder, read from the environment now rather than when huggingface_hub was imported."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))).expanduser() / "hub"


def _all_files(weight: Weight) -> list[str]:
    tensors = weight.hub_files or ((f"{weight.stem}.safetensors",) if weight.stem else ())
    return [name.split("|")[0] for name in weight.files] + list(tensors)


def _absent(weight: Weight, folder: Path) -> list[str]:
    """Files of the weight that `folder` lacks."""
    lacking = [names.split("|")[0] for names in weight.files if not _any(folder, names.split("|"))]
    return lacking + (_absent_tensors(weight, folder) if weight.stem else [])


def _absent_tensors(weight: Weight, folder: Path) -> list[str]:
    if (folder / f"{weight.stem}.safetensors").is_file():
        return []
    index = folder / f"{weight.stem}.safetensors.index.json"
    if not index.is_file():
        return list(weight.hub_files or (f"{weight.stem}.safetensors",))
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError):  # half-written: as good as absent
        return [index.name]
    return sorted(name for name in shards if not (folder / name).is_file())


def _file(weight: Weight, name: str, folder: Path | None, share: int | None) -> WeightFile:
    inside = f"{weight.subfolder}/{name}" if weight.subfolder else name
    if folder is None or not (folder / name).is_file():
        return WeightFile(name=inside, here=False, bytes=share)
    return WeightFile(name=inside, here=True, bytes=(folder / name).stat().st_size)


def _tensor_names(weight: Weight, folder: Path | None) -> list[str]:
    """The tensor files, as they lie in `folder`, or else as the hub names them."""
    if weight.stem is None:
        return []
    index = None if folder is None else folder / f"{weight.stem}.safetensors.index.json"
    if index is not None and index.is_file():
        try:
            return sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):  # half-written: as good as absent
            return list(weight.hub_files or (f"{weight.stem}.safetensors",))
    if folder is not None and (folder / f"{weight.stem}.safetensors").is_file():
        return [f"{weight.stem}.safetensors"]
    return list(weight.hub_files or (f"{weight.stem}.safetensors",))


def _present(names: Sequence[str], folder: Path | None) -> str:
    """Of names that do as well, the one that is there, else the first."""
    return next((name for name in names if folder is not None and (folder / name).is_file()), names[0])


def _any(folder: Path, names: Sequence[str]) -> bool:
    return any((folder / name).is_file() for name in names)
