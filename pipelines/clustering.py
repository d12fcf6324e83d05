"""What a provider sees that looks at all filmed clips at once: their embeddings and captions. Exercised by `pytest tests/pipelines/test_clustering.py`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from catalogs.every_tensor import every_tensor
from catalogs.store import Catalog
from pipelines.pairing import members_table
from vapdata.conditions.clustered import Clustered
from vapdata.errors import CallError


def members_together(catalog: Catalog, con: Any, provider: Clustered, allowed: Sequence[str] | None) -> pa.Table:
    """Every membership among the filmed clips that are allowed (None: all) and have an embedding. Raises CallError where none has."""
    product = embedding_product(catalog, con, provider.embedding, "clustered.embedding")
    con.register("allowed_clips", pa.table({"clip_id": pa.array(allowed or (), pa.string())}))
    rows = con.sql(
        f"""
        select clips.clip_id, coalesce(told.texts, []) as texts from clips join videos using (video_id)
        left join (select clip_id, list(text order by captioner, role) as texts from captions where role <> 'source_parent' group by 1) as told using (clip_id)
        where videos.provider is null and {"true" if allowed is None else "clips.clip_id in (from allowed_clips)"}"""
    ).fetchall()
    texts = dict(rows)
    vectors = {clip: vector for clip, vector in every_tensor(catalog, "features", product) if clip in texts}
    clips = sorted(vectors)
    if not clips:
        return members_table([])
    together = np.stack([vectors[clip] for clip in clips]).astype(np.float32)
    return members_table([asdict(member) for member in provider.members_of(clips, together, [texts[clip] for clip in clips])])


def embedding_product(catalog: Catalog, con: Any, wanted: str, setting: str) -> str:
    """The embeddings to take: `wanted`, or where that is empty the only ones; `setting` is where one says which. Raises CallError."""
    found = [row[0] for row in con.execute("select distinct product from features where product like 'embedding-%' order by 1").fetchall()]
    if wanted:
        if wanted not in found:
            raise CallError(f"{catalog.shown}: no clip has {wanted!r}; there is {', '.join(found) or 'no embedding'}. Type vapdata backfill embedding")
        return wanted
    if len(found) != 1:
        remedy = f"Type --set {setting}={found[0]}" if found else "Type vapdata backfill embedding"
        raise CallError(f"{catalog.shown}: clips have {', '.join(found) or 'no embeddings'}, wanted those of one model. {remedy}")
    return found[0]
