"""Who may import whom. The README draws these arrows; this file enforces them, plug-in folders' inner ones too.

Imports are read from the syntax tree, so those inside functions and under `if TYPE_CHECKING` count as well, and
nothing is imported to find out. The second half checks that what registries and packaging name is there.
"""

import ast
import dataclasses
import importlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGES = ("catalogs", "pipelines", "train", "vapdata")
PLUGIN_FOLDERS = ("sources", "filters", "captioners", "encoders", "conditions")
PLUGINS_MAY_READ = ("clip", "condition", "device", "step", "video", "backbones", "weights", "scenes", "shapes", "servers", "errors")
SCAN_MAY_READ = ("clip", "step", "video", "errors")
TOP = ("vapdata.cli", "vapdata.commands")
"""The command line: it sits on top, calls everybody, and nobody imports it."""

LIGHT = ("vapdata.cli", "vapdata", "vapdata.errors", "vapdata.explain", "vapdata.screen", "vapdata.settings", "vapdata.registry")
"""What the command line may load before a command runs."""

DECODERS = ("vapdata.video", "vapdata.vectors", "vapdata.video_file", "vapdata.opened", "vapdata.sequence", "vapdata.decoder")
"""The files that touch PyAV: video.py, writing and the open file or folder beneath it, and the child process beside it."""

BARRED_NAMES = {"utils", "util", "base", "common", "core", "manager", "helpers", "misc"}


@dataclass(frozen=True)
class Import:
    """`module` imports `target`, at `line`. `top`: it runs as soon as the module is imported."""

    module: str
    target: str
    line: int
    top: bool


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _modules(root: Path) -> dict[str, Path]:
    return {_module_name(path, root): path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))}


def _imports(name: str, source: str, *, known: frozenset[str] = frozenset(), is_package: bool = False) -> Iterator[Import]:
    """Every import of a module; `from a import b` gives `a.b` where that is a module, else `a`."""
    tree = ast.parse(source)
    inside = {id(each) for node in ast.walk(tree) if _waits(node) for each in ast.walk(node)}
    for node in ast.walk(tree):
        for target in _targets(node, name, known, is_package):
            yield Import(name, target, getattr(node, "lineno", 0), id(node) not in inside)


def _waits(node: ast.AST) -> bool:
    """Whether what stands in `node` is not run when the module is imported."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _targets(node: ast.AST, name: str, known: frozenset[str], is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _base(node, name, is_package)
        full = [f"{base}.{alias.name}" for alias in node.names]
        return [each if each in known or base in PACKAGES else base for each in full]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
        first = node.args[0] if node.args else None
        return [str(first.value) if isinstance(first, ast.Constant) else "<computed>"]
    return []


def _base(node: ast.ImportFrom, name: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    up = node.level - 1 if is_package else node.level
    parent = name.split(".")[: len(name.split(".")) - up]
    return ".".join([*parent, *([node.module] if node.module else [])])


def _within(target: str, *prefixes: str) -> bool:
    return any(target == prefix or target.startswith(prefix + ".") for prefix in prefixes)


def why_not(each: Import) -> str | None:
    """The arrow that `each` breaks, in words; None when it breaks none."""
    if _within(each.target, *PACKAGES):
        return _why_not_ours(each)
    return _why_not_theirs(each)


def _why_not_ours(each: Import) -> str | None:
    module, target = each.module, each.target
    package = module.partition(".")[0]
    if _within(module, *TOP):
        return None
    if _within(target, *TOP):
        return "nobody imports the command line"
    if package == "catalogs" and not _within(target, "catalogs", "vapdata.errors"):
        return "catalogs knows of ours only vapdata.errors"
    if package == "vapdata" and not _within(target, "vapdata"):
        return "of vapdata only vapdata/cli.py and vapdata/commands import storage, pipelines or training"
    if package == "pipelines" and _within(target, "train"):
        return "pipelines does not know training"
    if package == "train":
        return None if _train_may(target) else "train knows neither decoding, filtering nor pipelines"
    if package == "vapdata":
        return _why_not_within_vapdata(module, target)
    return None


def _train_may(target: str) -> bool:
    decoding = ("vapdata.video", "vapdata.decoder", "vapdata.scan", "vapdata.sources", "vapdata.filters", "vapdata.captioners")
    return not _within(target, "pipelines", *decoding)


def _why_not_within_vapdata(module: str, target: str) -> str | None:
    folder = next((folder for folder in PLUGIN_FOLDERS if _within(module, f"vapdata.{folder}")), None)
    if folder is not None:
        if module == f"vapdata.{folder}":
            return "a registry imports nothing: its entries are strings"
        if not _within(target, f"vapdata.{folder}", *(f"vapdata.{name}" for name in PLUGINS_MAY_READ)):
            return f"plug-ins read only vapdata.{{{','.join(PLUGINS_MAY_READ)}}} and their own folder"
        return None
    if any(_within(target, f"vapdata.{folder}") for folder in PLUGIN_FOLDERS):
        return "only vapdata/commands looks plug-ins up"
    if _within(target, "vapdata.opened") and module not in DECODERS:
        return "vapdata/opened.py lies beneath video.py: ask that"
    if module == "vapdata.scan" and not _within(target, *(f"vapdata.{name}" for name in SCAN_MAY_READ)):
        return f"scan reads only vapdata.{{{','.join(SCAN_MAY_READ)}}}"
    return None


def _why_not_theirs(each: Import) -> str | None:
    module, target = each.module, each.target
    package = module.partition(".")[0]
    if _within(target, "ray") and module not in ("pipelines.run", "train.workers"):
        return "only pipelines/run.py and train/workers.py import ray"
    if _within(target, "ray.data") and package == "train":
        return "train knows no Ray Data"
    if _within(target, "av", "decord") and module not in DECODERS:
        return "only vapdata/video.py, what lies beneath it and vapdata/decoder.py touch a decoder"
    if _within(target, "duckdb") and package in ("vapdata", "train"):
        return "questions are asked through catalogs"
    if _within(target, "torch", "cv2", "PIL", "diffusers", "transformers", "open_clip") and package == "catalogs":
        return "catalogs knows neither video nor torch"
    if _within(target, "diffusers", "transformers", "open_clip", "cv2") and package == "pipelines":
        return "pipelines knows no model"
    if target == "<computed>" and module != "vapdata.registry":
        return "only vapdata/registry.py imports by a computed name"
    if _within(target, "pickle", "dill", "joblib", "shelve"):
        return "no pickle: data must not be able to run code"
    return None


def _broken(root: Path) -> list[str]:
    modules = _modules(root)
    known = frozenset(modules)
    found = []
    for name, path in modules.items():
        for each in _imports(name, path.read_text(), known=known, is_package=path.name == "__init__.py"):
            reason = why_not(each)
            if reason:
                found.append(f"{path.relative_to(root)}:{each.line} imports {each.target}: {reason}")
    return found


@pytest.mark.slow
def test_every_import_follows_an_arrow(repository: Path) -> None:
    assert _broken(repository) == []


@pytest.mark.parametrize(
    ("module", "line", "reason"),
    [
        ("catalogs.store", "import ray", "only pipelines/run.py"),
        ("catalogs.store", "from vapdata.clip import Clip", "only vapdata.errors"),
        ("catalogs.verify", "from vapdata import step", "only vapdata.errors"),
        ("catalogs.verify", "import torch", "neither video nor torch"),
        ("vapdata.filters.motion", "from vapdata.sources.folder import Folder", "own folder"),
        ("vapdata.filters.motion", "from ..encoders import vae", "own folder"),
        ("vapdata.filters.motion", "def f():\n    import vapdata.encoders.vae", "own folder"),
        ("vapdata.filters.motion", "from vapdata.registry import load", "own folder"),
        ("vapdata.filters", "from vapdata.filters.motion import Motion", "strings"),
        ("vapdata.scan", "from vapdata.filters.cuts import Cuts", "looks plug-ins up"),
        ("vapdata.scan", "from vapdata.weights import find", "scan reads only"),
        ("vapdata.weights", "from vapdata import encoders", "looks plug-ins up"),
        ("vapdata.weights", "from catalogs.store import Catalog", "only vapdata/cli.py"),
        ("vapdata.weights", "from vapdata.cli import main", "nobody imports the command line"),
        ("pipelines.prepare", "from vapdata.commands.options import said", "nobody imports the command line"),
        ("vapdata.scan", "import av", "touch a decoder"),
        ("vapdata.scan", "import decord", "touch a decoder"),
        ("vapdata.weights", "from vapdata.opened import Opened", "beneath video.py"),
        ("vapdata.weights", "import importlib\nimportlib.import_module('ray')", "only pipelines/run.py"),
        ("vapdata.weights", "import importlib\nimportlib.import_module(name)", "computed name"),
        ("pipelines.prepare", "import ray.data", "only pipelines/run.py"),
        ("pipelines.prepare", "from train.loop import fit", "does not know training"),
        ("train.loop", "from pipelines.run import stream", "neither decoding"),
        ("train.workers", "import ray.data", "no Ray Data"),
        ("train.launch", "import ray.train", "only pipelines/run.py"),
        ("train.data", "from vapdata.video import frames", "neither decoding"),
        ("train.miniature.world", "from vapdata.sources.miniature import Miniature", "neither decoding"),
        ("train.checkpoint", "import pickle", "no pickle"),
    ],
)
def test_a_planted_import_against_the_arrows_is_caught(module: str, line: str, reason: str) -> None:
    known = frozenset({"vapdata.filters", "vapdata.encoders", "vapdata.encoders.vae", "vapdata.filters.motion", "vapdata.step"})
    reasons = [why_not(each) for each in _imports(module, line, known=known, is_package=module == "vapdata.filters")]
    assert any(each and reason in each for each in reasons), reasons


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("catalogs.store", "from vapdata.errors import CallError"),
        ("vapdata.filters.motion", "from vapdata.clip import Clip\nfrom vapdata.filters.cuts import Cuts\nimport cv2"),
        ("vapdata.cli", "from vapdata.commands.preparing import build"),
        ("vapdata.commands.preparing", "def f():\n    from pipelines.prepare import build"),
        ("pipelines.run", "import ray"),
        ("train.workers", "import ray.train"),
        ("vapdata.video", "import av"),
        ("train.sample", "from vapdata.video_file import write"),
        ("train.miniature.world", "from vapdata.scenes import render"),
        ("vapdata.sources.miniature", "from vapdata.scenes import render"),
    ],
)
def test_an_import_along_an_arrow_passes(module: str, line: str) -> None:
    assert [why_not(each) for each in _imports(module, line)] == [None] * len(list(_imports(module, line)))


def test_the_command_line_imports_nothing_heavy_before_a_command_runs(repository: Path) -> None:
    heavy = set()
    light = [name for name in _modules(repository) if name in LIGHT or _within(name, "vapdata.commands")]
    for name in light:
        path = _modules(repository)[name]
        targets = [each.target.partition(".")[0] for each in _imports(name, path.read_text(), known=frozenset(_modules(repository))) if each.top]
        heavy |= {target for target in targets if target in ("torch", "ray", "duckdb", "numpy", "pyarrow", "cv2", "rich", *PACKAGES[:3])}
    assert heavy == set()


def test_no_file_is_named_after_nothing(repository: Path) -> None:
    assert [name for name in _modules(repository) if name.rpartition(".")[2] in BARRED_NAMES] == []


def test_packaging_lists_every_package_by_name(repository: Path) -> None:
    listed = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {name for name, path in _modules(repository).items() if path.name == "__init__.py"}
    folders = {_module_name(path / "__init__.py", repository) for path in (each.parent for each in _modules(repository).values())}
    assert sorted(listed) == sorted(there)
    assert folders == there, "a folder of modules without __init__.py is not installed"


def _registries() -> list[tuple[str, str, str]]:
    entries = []
    for folder, named in (*((each, each.upper()) for each in ("sources", "filters", "captioners", "encoders")), ("conditions", "PROVIDERS")):
        registry = getattr(importlib.import_module(f"vapdata.{folder}"), named)
        entries += [(folder, name, address) for name, address in registry.items()]
    return entries


@pytest.mark.parametrize(("folder", "name", "address"), _registries(), ids=lambda each: each if ":" not in each else "")
def test_a_registry_entry_names_a_frozen_dataclass_in_its_own_folder(folder: str, name: str, address: str) -> None:
    module, _, attribute = address.partition(":")
    plugin = getattr(importlib.import_module(module), attribute)
    assert module.startswith(f"vapdata.{folder}.")
    assert plugin.name == name
    assert dataclasses.is_dataclass(plugin)
    assert plugin.__dataclass_params__.frozen, "a spec is frozen"


@pytest.mark.parametrize(("folder", "name", "address"), _registries(), ids=lambda each: each if ":" not in each else "")
def test_a_plug_in_explains_itself_under_the_fixed_heads(folder: str, name: str, address: str) -> None:
    module, _, attribute = address.partition(":")
    text = getattr(importlib.import_module(module), attribute).__doc__ or ""
    missing = [head for head in ("What", "Reads", "Writes", "Default", "Cost", "Fails when", "Source") if f"{head}:" not in text]
    assert missing == [], f"vapdata explain {name} prints these heads"
