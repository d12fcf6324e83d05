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
    vectors, height, width = data.to_ndarray(), picture.height, picture.width
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    # Thousands of vectors a frame: squares in place and tables of patches instead of hypot and divisions, a third less time.
    across, down = vectors["motion_x"].astype(np.float32), vectors["motion_y"].astype(np.float32)
    across *= across
    down *= down
    across += down
    lengths = np.sqrt(across, out=across)
    lengths /= np.maximum(vectors["motion_scale"], 1)
    patch = (np.arange(height) * rows // height * columns).take(vectors["dst_y"], mode="clip")
    patch += (np.arange(width) * columns // width).take(vectors["dst_x"], mode="clip")
    area = vectors["w"] * vectors["h"].astype(np.float64)
    covered, total = (np.bincount(patch, each, rows * columns).reshape(rows, columns) for each in (area, area * lengths))
    return total / np.maximum(covered, height * width / (rows * columns))
