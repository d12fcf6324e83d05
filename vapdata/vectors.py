"""The motion vectors that a codec wrote, summed up in patches: beneath video.py. Exercised by `pytest tests/vapdata/test_vectors.py`.

H.264, MPEG-4, MPEG-1/2 and H.263 export theirs in libavcodec; VP8, VP9, AV1 and HEVC do not.
"""

import av
import numpy as np
from jaxtyping import Float

PATCH = 256
"""About how many pixels a patch has on a side, as in Cosmos-Curate: the picture is divided evenly."""


def patch_lengths(picture: av.VideoFrame) -> Float[np.ndarray, "rows columns"] | None:
    """Mean length of the vectors in each patch of the coded picture, in pixels per reference; None where the frame has none.

    What is not covered (coded without reference) counts as 0; what is covered twice (both directions) by its mean.
    How far away the reference is, the vectors do not say: one frame, or up to a few with B-frames.
    """
    data = picture.side_data.get("MOTION_VECTORS")
    if data is None:
        return None
    vectors = data.to_ndarray()
    rows, columns = -(-picture.height // PATCH), -(-picture.width // PATCH)
    # Thousands of vectors a frame: 32 bits are exact for what a codec writes, and half the time of 64.
    motion = np.hypot(vectors["motion_x"].astype(np.float32), vectors["motion_y"].astype(np.float32))
    lengths = motion / np.maximum(vectors["motion_scale"], 1).astype(np.float32)
    row = (vectors["dst_y"].astype(np.int32) * rows // picture.height).clip(0, rows - 1)
    column = (vectors["dst_x"].astype(np.int32) * columns // picture.width).clip(0, columns - 1)
    area = vectors["w"].astype(np.float32) * vectors["h"]
    covered, total = (np.bincount(row * columns + column, each, rows * columns).reshape(rows, columns) for each in (area, area * lengths))
    return total / np.maximum(covered, picture.height * picture.width / (rows * columns))
