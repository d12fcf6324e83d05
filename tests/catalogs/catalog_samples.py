"""Rows of a small catalog: two clips with every kind of row, and one video that failed."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from catalogs.store import Catalog
from catalogs.tensors import pack


def video(name: str, **changes: Any) -> dict[str, Any]:
    row = {"video_id": f"d/{name}", "dataset": "d", "source": "folder", "name": name, "uri": f"{name}.mp4", "shard": "d-000000"}
    return {**row, "split": "train", "split_group": name, **changes}


def clip(name: str, **changes: Any) -> dict[str, Any]:
    row = {"clip_id": f"d/{name}", "video_id": f"d/{name}", "source": "d", "shard": "d-000000", "split": "train", "start_s": 0.0, "end_s": 2.0}
    facts = {"frames": 48, "fps": 24.0, "width": 160, "height": 96, "codec": "h264", "whole": True, "truncated": False}
    return {**row, **facts, **changes}


def score(name: str, filter: str, value: float | None, label: str | None = None, **changes: Any) -> dict[str, Any]:
    return {"clip_id": f"d/{name}", "shard": "d-000000", "filter": filter, "value": value, "label": label, "by": f"{filter}(fps=2)", **changes}


def caption(name: str, text: str, **changes: Any) -> dict[str, Any]:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"clip_id": f"d/{name}", "shard": "d-000000", "captioner": "source", "role": "source", "text": text, "text_sha256": digest, **changes}


def failure(step: str, **changes: Any) -> dict[str, Any]:
    return {"step": step, "error": "Unreadable", "message": "cannot be read", "attempts": 1, "permanent": True, **changes}


LATENT_SETTINGS = {"frames": 9, "fps": 8.0, "short": "reject"}


def latent(catalog: Catalog, name: str, file: str, row_group: int, digest: str, **changes: Any) -> dict[str, Any]:
    row = {"clip_id": f"d/{name}", "shard": "d-000000", "product": "vae-9x96x160", "model_id": "m", "revision": "r", "settings_sha256": digest}
    tensor = {"dtype": "bf16", "shape": [4, 3, 2, 2], "file": file, "row_group": row_group, "kind": "video", "pixel_frames": 9, "fps": 8.0}
    law = {"latent_frames": 3, "temporal_stride": 4, "first_alone": True, "has_logvar": False}
    return {**row, **tensor, **law, **changes}


def text_row(name: str | None, file: str, row_group: int, digest: str, source: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    row = {"clip_id": f"d/{name}" if name else None, "shard": "d-000000", "product": "t5", "model_id": "m", "revision": "r", "settings_sha256": digest}
    tensor = {"dtype": "f32", "shape": [4, 2], "file": file, "row_group": row_group, "length": 3, "text_truncated": False}
    return {**row, **tensor, **{key: source[key] for key in ("captioner", "role", "text_sha256")}, **changes}


def fill(catalog: Catalog) -> None:
    """Two clips with scores, captions, latents and text embeddings; one failed video."""
    generator = np.random.default_rng(0)
    names = ("a", "b")
    digest = catalog.claim("vae-9x96x160", LATENT_SETTINGS, step="vae")
    texts = catalog.claim("t5", {"rows": 4}, step="t5")
    numbers = [generator.standard_normal((4, 3, 2, 2)).astype(np.float32) for _ in names]
    file = catalog.write_tensors("vae-9x96x160", "d-000000", 0, [(f"d/{name}", pack(array, "bf16")) for name, array in zip(names, numbers, strict=True)])
    words = catalog.write_tensors("t5", "d-000000", 0, [(f"d/{name}", pack(np.ones((4, 2), np.float32), "f32")) for name in names])
    captions = [caption("a", "a red circle"), caption("b", "a blue square")]
    catalog.append(
        {
            "videos": [video("a"), video("b"), video("broken")],
            "clips": [clip("a"), clip("b", start_s=0.0, end_s=4.0)],
            "scores": [score("a", "motion", 1.0), score("b", "motion", 6.0), score("b", "camera", 0.9, "pan")],
            "captions": captions,
            "failures": [failure("scan", video_id="d/broken")],
            "latents": [latent(catalog, name, file, number, digest) for number, name in enumerate(names)],
            "texts": [text_row(name, words, number, texts, captions[number]) for number, name in enumerate(names)],
            "runs": [{"run_id": "run-1", "command": "vapdata build", "counts": '{"scan": {"planned": 3, "kept": 2, "rejected": 0, "failed": 1}}'}],
        },
        run_id="run-1",
    )
