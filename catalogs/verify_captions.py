"""Does each caption fit its own clip better than the others? A mix-up that no hash can see.

Arithmetic on what is stored and handed in: the clips' CLIP embeddings stand in `features` (the filter `embedding`), those
of the texts come from the caller, who has the model. Exercised by `pytest tests/catalogs/test_verify_captions.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from jaxtyping import Bool, Float, Int

from catalogs import tensors
from catalogs.finding import Finding
from catalogs.store import Catalog

MOST = 2000
"""Clips that are compared with one another, drawn by the hash of their ids: every pair of them is looked at."""
MARGIN = 0.03
"""How much better, in cosine, another clip must fit. CLIP ViT-L/14 gives about 0.25 for a right caption, 0.1 to 0.2 for another clip's."""

EmbedTexts = Callable[[Sequence[str]], np.ndarray]
"""Unit vectors (text, width) of texts, by the model that made the clips' embeddings."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What one model made of the clips."""

    product: str
    model_id: str
    revision: str
    clips: int


def embedded(connection: duckdb.DuckDBPyConnection) -> list[Embedded]:
    """The embeddings of clips that a catalog holds, by product."""
    sql = "select product, model_id, revision, count(*) from features where starts_with(product, 'embedding-') group by all order by all"
    return [Embedded(product=product, model_id=model, revision=revision, clips=count) for product, model, revision, count in connection.execute(sql).fetchall()]


def captions(catalog: Catalog, connection: duckdb.DuckDBPyConnection, product: str, embed: EmbedTexts) -> Iterator[Finding]:
    """A finding for each clip whose caption fits another clip better, and better than that clip's own caption does.

    Each captioner's texts of a role are compared among themselves; of parts of a video its `source_parent` text says nothing.
    """
    sql = (
        "select said.clip_id, said.captioner, said.role, said.text, said.text_sha256, made.file, made.row_group, made.shape, made.dtype "
        "from captions as said join features as made on made.clip_id = said.clip_id and made.product = ? "
        "where said.role <> 'source_parent' and trim(said.text) <> '' order by said.captioner, said.role, md5(said.clip_id)"
    )
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    names = ("clip_id", "captioner", "role", "text", "text_sha256", "file", "row_group", "shape", "dtype")
    for values in connection.execute(sql, [product]).fetchall():
        row = dict(zip(names, values, strict=True))
        groups.setdefault((row["captioner"], row["role"]), []).append(row)
    for (captioner, role), rows in groups.items():
        yield from _findings(catalog, captioner, role, rows[:MOST], embed)


def misfits(
    texts: Float[np.ndarray, "n d"], clips: Float[np.ndarray, "n d"], same: Int[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    """(whether caption i is on the wrong clip, the clip that it seems to belong to, all cosines) for unit vectors of texts and of their clips.

    With c[i, j] the cosine of caption i and clip j: wrong is i when for some j both c[i, j] > c[i, i] + MARGIN and c[i, j] >
    c[j, j] + MARGIN: it fits j better than its own clip, and better than j's own caption does. Either alone is common in a
    catalog without fault: of many clips one nearly always fits a general text better, but then has a better text of its own.
    `same` numbers the texts; clips of an equal text are not compared.
    """
    cosines = texts @ clips.T
    own = np.diagonal(cosines)
    better = (cosines > own[:, None] + MARGIN) & (cosines > own[None, :] + MARGIN) & (same[:, None] != same[None, :])
    return better.any(axis=1), np.where(better, cosines, -np.inf).argmax(axis=1), cosines


def _findings(catalog: Catalog, captioner: str, role: str, rows: Sequence[dict[str, Any]], embed: EmbedTexts) -> Iterator[Finding]:
    if len(rows) < 2:
        return
    clips = _vectors(catalog, rows)
    texts = np.asarray(embed([row["text"] for row in rows]), np.float64)
    _, same = np.unique([row["text_sha256"] for row in rows], return_inverse=True)
    wrong, best, cosines = misfits(texts, clips, same)
    for place in np.flatnonzero(wrong):
        row, other = rows[place], rows[best[place]]
        yield Finding(
            check="captions",
            what="a caption fits another clip better",
            where=f"captions ({row['clip_id']}, {captioner}, {role})",
            got=f"cosine {cosines[place, place]:.3f} with its own clip, {cosines[place, best[place]]:.3f} with {other['clip_id']}",
            wanted=f"the own clip, or {cosines[best[place], best[place]]:.3f} of that clip's own caption, higher",
            remedy="Look at both. Leave such clips out: --where \"text_match >= 0.2\"; or describe them anew by another prompt",
        )


def _vectors(catalog: Catalog, rows: Sequence[dict[str, Any]]) -> Float[np.ndarray, "n d"]:
    """The clips' embeddings, unit length, each file opened once."""
    found: dict[int, np.ndarray] = {}
    by_file: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        by_file.setdefault(row["file"], []).append(place)
    for file, places in by_file.items():
        with catalog.files.open(file) as source:
            for place in places:
                _, data = tensors.read_cell(source, rows[place]["row_group"])
                found[place] = tensors.unpack(data, rows[place]["dtype"], rows[place]["shape"])
    vectors = np.stack([found[place] for place in range(len(rows))]).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
