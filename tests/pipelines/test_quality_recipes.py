"""The thresholds that ship: what they keep of a catalog whose scores are known."""


import numpy as np
import pytest

from catalogs.queries import conjuncts, resolve, selected
from catalogs.store import Catalog
from pipelines.quality_recipes import CONSTANTS, OPENVID_QUANTILES
from pipelines.recipes import recipe

COUNT = 50
COMMON = {"source": "d", "shard": "d-000000", "split": "train", "fps": 8.0, "width": 64, "height": 48, "codec": "h264", "whole": True, "truncated": False}
SCORES = ("aesthetic", "temporal_consistency", "motion", "clarity", "watermark", "nsfw", "duration_s")


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    """Scores of 50 clips, spread over what the thresholds part."""
    rng = np.random.default_rng(0)
    spans = {"aesthetic": (3, 7), "temporal_consistency": (0.6, 1), "motion": (0, 25), "clarity": (0, 9), "watermark": (0, 1), "nsfw": (0, 0.7), "duration_s": (1, 70)}
    return {name: rng.uniform(*spans[name], COUNT) for name in SCORES}


@pytest.fixture(scope="module")
def catalog(values: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    made = Catalog.open(str(tmp_path_factory.mktemp("quality") / "catalog"), create=True)
    ids = [f"d/{number:02d}" for number in range(COUNT)]
    rows = {
        "videos": [{"video_id": each, "dataset": "d", "source": "d", "name": each[2:], "uri": each[2:], "shard": "d-000000", "split": "train", "split_group": "g"} for each in ids],
        "clips": [{**COMMON, "clip_id": each, "video_id": each, "start_s": 0.0, "end_s": 9.0, "frames": 72} for each in ids],
        "scores": [{"clip_id": each, "shard": "d-000000", "filter": name, "value": float(values[name][k]), "by": name} for k, each in enumerate(ids) for name in SCORES],
    }
    with made.lock("test"):
        made.recover()
        made.append(rows)
    return made


@pytest.mark.slow
def test_the_quantile_chain_keeps_what_numpys_quantiles_keep(catalog: Catalog, values: dict[str, np.ndarray]) -> None:
    def within(name: str, low: float, high: float) -> np.ndarray:
        return (values[name] >= np.quantile(values[name], low)) & (values[name] <= np.quantile(values[name], high))

    chain = within("aesthetic", 0.8, 1) & within("temporal_consistency", 0.1, 0.9) & within("motion", 0.1, 0.9) & within("clarity", 0.7, 1)
    assert selected(catalog, OPENVID_QUANTILES) == [f"d/{k:02d}" for k in np.flatnonzero(chain)]
    assert chain.any()
    resolved = resolve(catalog, OPENVID_QUANTILES)
    asked = [("aesthetic", 0.8), ("clarity", 0.7), *((name, share) for name in ("temporal_consistency", "motion") for share in (0.1, 0.9))]
    assert sorted(resolved.constants.values()) == pytest.approx(sorted(np.quantile(values[name], share) for name, share in asked))
    assert selected(catalog, resolved.text) == selected(catalog, OPENVID_QUANTILES)


def test_the_constants_keep_what_they_say(catalog: Catalog, values: dict[str, np.ndarray]) -> None:
    v = values
    kept = (v["aesthetic"] >= 4.5) & (v["temporal_consistency"] >= 0.8) & (v["motion"] >= 0.3) & (v["motion"] <= 20)
    kept &= (v["watermark"] < 0.8) & (v["nsfw"] < 0.5) & (v["duration_s"] >= 2) & (v["duration_s"] <= 60)
    assert selected(catalog, CONSTANTS) == [f"d/{k:02d}" for k in np.flatnonzero(kept)]
    assert kept.any()


@pytest.mark.slow
def test_a_predicate_comes_apart_where_it_is_joined(catalog: Catalog) -> None:
    assert len(conjuncts(CONSTANTS)) == 6
    assert len(conjuncts(resolve(catalog, OPENVID_QUANTILES).text)) == 4
    assert conjuncts("motion > 1 or (motion < 0 and clarity > 2)") == ["((motion > 1) OR ((motion < 0) AND (clarity > 2)))"]


@pytest.mark.parametrize("name", ["quality-quantiles", "quality-constants"])
def test_the_recipes_score_everything_that_their_predicate_names(name: str) -> None:
    made = recipe(name)
    named = {score for score in SCORES if score in made.where}
    assert named <= set(made.score_kinds())
    assert {weight.repo for weight in made.weights()} >= {"timm/vit_large_patch14_clip_224.openai", "ttj/sac-logos-ava1-l14-linearMSE"}
