"""Alignment scores in place of a provider's own: `vapdata pairs --set pairs.alignment=clip`. Exercised by `pytest tests/pipelines/test_alignment.py`."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from catalogs.every_tensor import every_tensor
from catalogs.store import Catalog
from pipelines.clustering import embedding_product
from pipelines.pairing import members_table
from vapdata.conditions.direction import agreement


def by_clip(catalog: Catalog, con: Any, members: pa.Table, embedding: str) -> pa.Table:
    """The members, made ones with CLIP's score; null, which refuses a member, where a clip or its source has no embedding, or none else shows the condition.

    Filmed members keep the score of their label. Raises CallError where no clip has an embedding.
    """
    con.register("scored_members", members)
    sources = dict(
        con.execute(
            "select clip_id, parent_clip_id from clips join videos using (video_id) where parent_clip_id is not null and clip_id in (select clip_id from scored_members)"
        ).fetchall()
    )
    con.unregister("scored_members")
    rows = members.to_pylist()
    if not sources:
        return members
    wanted = {*sources, *sources.values()}
    vectors = {clip: vector for clip, vector in every_tensor(catalog, "features", embedding_product(catalog, con, embedding, "pairs.embedding")) if clip in wanted}
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["clip_id"] in sources:
            row["score"] = None
            if row["clip_id"] in vectors and sources[row["clip_id"]] in vectors:
                groups[row["condition"]].append(row)
    for group in groups.values():
        made, source = (np.stack([vectors[clip] for clip in clips]).astype(np.float32) for clips in zip(*((row["clip_id"], sources[row["clip_id"]]) for row in group), strict=True))
        for row, score in zip(group, agreement(made, source).tolist(), strict=True):
            row["score"] = None if math.isnan(score) else score
    return members_table(rows)
