"""Named complete runs, as functions: a recipe is a list that a film editor could read.

    vapdata build --recipe tiny            the embedded default: small models, CPU, no network
    vapdata build --recipe mine.py:night   a function in a file of your own that returns a Recipe

`backbone_recipes.py` has one for each backbone, `dataset_recipes.py` those of a paper's dataset, `quality_recipes.py` those
that keep the better clips. Thresholds are SQL
(`where`), so moving one touches no video. Exercised by `pytest tests/pipelines/test_recipes.py`.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from pipelines import backbone_recipes, dataset_recipes, quality_recipes
from pipelines.recipe import EncodeStage, LookStage, Recipe, with_settings
from vapdata.errors import CallError
from vapdata.registry import did_you_mean

__all__ = ["RECIPES", "EncodeStage", "LookStage", "Recipe", "own_modules", "recipe", "with_settings"]

RECIPES: dict[str, Callable[[], Recipe]] = {
    "tiny": backbone_recipes.tiny,
    "tiny-cogvideox": backbone_recipes.tiny,
    "tiny-wan": backbone_recipes.tiny_wan,
    "tiny-hunyuan": backbone_recipes.tiny_hunyuan,
    "miniature": backbone_recipes.miniature,
    "miniature-wan": backbone_recipes.miniature_wan,
    "miniature-large": backbone_recipes.miniature_large,
    "miniature-methods": backbone_recipes.miniature_methods,
    "miniature-wan-methods": backbone_recipes.miniature_wan_methods,
    "cogvideox-2b": backbone_recipes.cogvideox_2b,
    "cogvideox-5b-i2v": backbone_recipes.cogvideox_5b_i2v,
    "wan2.1-t2v-1.3b": backbone_recipes.wan_t2v_1_3b,
    "wan2.1-t2v-14b": backbone_recipes.wan_t2v_14b,
    "wan2.1-i2v-14b-480p": backbone_recipes.wan_i2v_14b_480p,
    "hunyuanvideo-i2v": backbone_recipes.hunyuanvideo_i2v,
    "fca-ssv2": dataset_recipes.fca_ssv2,
    "fca-bridge": dataset_recipes.fca_bridge,
    "fca-epic": dataset_recipes.fca_epic,
    "vap-cogvideox": dataset_recipes.vap_cogvideox,
    "vap-wan": dataset_recipes.vap_wan,
    "ssg-openvidhd-33k": dataset_recipes.ssg_openvidhd_33k,
    "fg-12k": dataset_recipes.fg_12k,
    "fg-12k-hunyuan": dataset_recipes.fg_12k_hunyuan,
    "quality-quantiles": quality_recipes.quality_quantiles,
    "quality-constants": quality_recipes.quality_constants,
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`, or the one that `file.py:function` returns. Raises CallError."""
    if name in RECIPES:
        return RECIPES[name]()
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return _from_file(Path(path), function)
    raise CallError(f"{name!r} is no recipe{did_you_mean(name, RECIPES)}. Known: {', '.join(RECIPES)}; or give one of your own as file.py:function.")


def own_modules() -> tuple[ModuleType, ...]:
    """Modules that `file.py:function` recipes were loaded from: workers cannot import these by name."""
    return tuple(_OWN_MODULES.values())


_OWN_MODULES: dict[str, ModuleType] = {}


def _from_file(path: Path, function: str) -> Recipe:
    if not path.is_file():
        raise CallError(f"recipe file {path} is not there; give the path of a Python file, then a colon and a function in it")
    name = f"vapdata_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CallError(f"recipe file {path} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    _OWN_MODULES[name] = module
    if not callable(getattr(module, function, None)):
        raise CallError(f"{path} has no function {function!r} that returns a Recipe")
    made = getattr(module, function)()
    if not isinstance(made, Recipe):
        raise CallError(f"{path}:{function} returned {type(made).__name__}, wanted pipelines.recipes.Recipe")
    return made
