"""Counts per stage add up: planned = done + failed + rejected + to do."""

import json
from pathlib import Path

from catalog_samples import LATENT_SETTINGS, caption, clip, failure, fill, score, text_row, video

from catalogs.progress import Stage, status
from catalogs.store import Catalog
from vapdata.clip import Sampling
from vapdata.encoders.vae import Vae


def _stage(catalog: Catalog, name: str) -> tuple[int, int, int, int, int]:
    stage: Stage = next(stage for stage in status(catalog).stages if stage.name == name)
    assert stage.planned == stage.done + stage.failed + stage.rejected + stage.to_do
    return stage.planned, stage.done, stage.failed, stage.rejected, stage.to_do


def test_a_filled_catalog_has_nothing_left_to_do_but_the_label_filter(filled: Catalog) -> None:
    found = status(filled)
    assert (found.videos, found.clips, found.not_planned, found.predicate) == (3, 2, 0, None)
    assert found.failures == {"scan: Unreadable": 1}
    assert found.holder is not None
    assert _stage(filled, "scan") == (3, 2, 1, 0, 0)
    assert _stage(filled, "motion") == (2, 2, 0, 0, 0)
    assert _stage(filled, "camera") == (2, 1, 0, 0, 1)
    assert _stage(filled, "vae-9x96x160") == (2, 2, 0, 0, 0)


def test_a_transient_failure_is_work_to_do_until_it_was_tried_three_times(filled: Catalog) -> None:
    filled.append({"clips": [clip("c")], "videos": [video("c")], "failures": [failure("vae", clip_id="d/c", permanent=False, attempts=2)]})
    assert _stage(filled, "vae-9x96x160") == (3, 2, 0, 0, 1)
    filled.append({"failures": [failure("vae", clip_id="d/c", permanent=False, attempts=3)]})
    assert _stage(filled, "vae-9x96x160") == (3, 2, 1, 0, 0)


def test_a_clip_too_short_for_the_product_is_rejected_not_failed(filled: Catalog) -> None:
    seconds = (LATENT_SETTINGS["frames"] - 1) / LATENT_SETTINGS["fps"]
    filled.append({"clips": [clip("c", end_s=seconds - 0.01), clip("e", end_s=seconds)]})
    assert _stage(filled, "vae-9x96x160") == (4, 2, 0, 1, 1)


def test_too_short_is_told_from_the_settings_that_the_vae_writes_and_else_from_the_newest_recipe(filled: Catalog) -> None:
    filled.append({"clips": [clip("c", end_s=0.4), clip("e", end_s=0.6)]})
    name = "vae-9x96x160"
    path = filled.files.address(f"tensors/{name}/settings.json")
    record = json.loads(Path(path).read_text())
    settings = Vae(backbone="tiny-cogvideox", sampling=Sampling(frames=9, height=96, width=160, fps=16)).products()[0].settings
    Path(path).write_text(json.dumps({**record, "settings": settings}))
    assert _stage(filled, name) == (4, 2, 0, 1, 1), "8/16 s are needed"
    assert _stage(filled, "t5") == (4, 2, 0, 0, 2), "its own settings say nothing of time"
    filled.append({"runs": [{"run_id": "run-2", "command": "vapdata build", "recipe": json.dumps({"sampling": {"frames": 9, "fps": 16.0, "short": "reject"}})}]})
    assert _stage(filled, "t5") == (4, 2, 0, 1, 1)


def test_the_newest_runs_predicate_says_what_is_to_be_encoded(filled: Catalog) -> None:
    filled.append({"clips": [clip("c"), clip("e")], "scores": [score("c", "motion", 7.0), score("e", "motion", 1.0)]})
    filled.append({"runs": [{"run_id": "run-2", "command": "vapdata build", "predicate": "motion > 5"}]})
    assert status(filled).predicate == "motion > 5"
    assert _stage(filled, "vae-9x96x160") == (2, 1, 0, 0, 1)


def test_a_changed_caption_makes_its_embedding_work_to_do(filled: Catalog) -> None:
    filled.append({"captions": [caption("a", "another text")]})
    assert _stage(filled, "t5") == (2, 1, 0, 0, 1)
    row = filled.read("texts").to_pylist()[0]
    filled.append({"texts": [text_row("a", row["file"], row["row_group"], row["settings_sha256"], caption("a", "another text"))]})
    assert _stage(filled, "t5") == (2, 2, 0, 0, 0)


def test_a_clip_without_caption_is_rejected_for_what_is_made_of_captions_and_not_for_text_embeddings(filled: Catalog) -> None:
    filled.append({"clips": [clip("c")]})
    digest = filled.claim("keywords", {"of": "captions"}, step="keywords")
    place = filled.read("texts").to_pylist()[0]
    rows = [text_row(name, place["file"], place["row_group"], digest, caption(name, "words"), product="keywords") for name in ("a", "b")]
    for row in rows:
        del row["length"]
    filled.append({"captions": [caption(name, "words") for name in ("a", "b")], "features": rows})
    assert _stage(filled, "keywords") == (3, 2, 0, 1, 0)
    assert _stage(filled, "t5")[3:] == (0, 3), "the text '' can be embedded"


def test_an_empty_catalog_has_a_status(empty: Catalog) -> None:
    found = status(empty)
    assert (found.videos, found.clips, found.hours) == (0, 0, 0.0)
    fill(empty)
    assert status(empty).clips == 2
