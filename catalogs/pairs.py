"""What "the same condition, other content" means, as SQL and numbers: the law that pairing and `vapdata verify` share.

The *content* of a clip is what no pair may have on both sides: the split group of its video in its dataset; of a made
video, that of what it was made from, however far back. Exercised by `pytest tests/catalogs/test_verify_pairs.py`.
"""

FEWEST_REFERENCES = 3
"""A target has at least as many references: trainers that sample three would stop at fewer."""
MOST_REFERENCES = 10

SEPARATOR = "chr(31)"
"""Between parts of a text that is compared or hashed: no name holds this control character."""


def origins_sql(clips: str) -> str:
    """A SELECT of `clip_id, origin`: for each clip of a relation, the filmed clip that it goes back to; itself when it is one.

    A made clip whose parent is not in the catalog goes back to the last one that is.
    """
    return f"""
      with recursive made as (select clips.clip_id, videos.parent_clip_id as parent from videos join clips using (video_id)
                              where videos.parent_clip_id in (select clip_id from clips)),
      up(clip_id, origin) as (
        select distinct clip_id, clip_id from {clips}
        union
        select up.clip_id, made.parent from up join made on made.clip_id = up.origin)
      select clip_id, origin from up where origin not in (select clip_id from made)"""


def contents_sql(clips: str) -> str:
    """A SELECT of `clip_id, origin, content` for each clip of a relation that the catalog has."""
    return f"""
      select found.clip_id, found.origin, videos.dataset || {SEPARATOR} || videos.split_group as content
      from ({origins_sql(clips)}) as found join clips on clips.clip_id = found.origin join videos using (video_id)"""
