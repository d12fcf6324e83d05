"""A subject cut into pieces that move by themselves. Exercised by `pytest tests/vapdata/conditions/test_pieces.py`."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int

from vapdata.conditions.picture import as_floats
from vapdata.conditions.program import Scene
from vapdata.conditions.warps import about


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """One cell of the subject, with a border around it wide enough to be turned."""

    left: int
    top: int
    image: Float32[np.ndarray, "h w 3"]
    alpha: Float32[np.ndarray, "h w"]

    @property
    def middle(self) -> tuple[float, float]:
        """(x, y) in the picture."""
        return self.left + (self.alpha.shape[1] - 1) / 2, self.top + (self.alpha.shape[0] - 1) / 2


def pieces(scene: Scene, labels: Int[np.ndarray, "h w"]) -> Iterator[Piece]:
    """The subject's part of every cell that it reaches into, in the cells' order."""
    still, mask = as_floats(scene.still), scene.subject
    inside = mask > 0.05
    for label in np.unique(labels[inside]):
        rows, columns = np.nonzero((labels == label) & inside)
        top, bottom, left, right = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
        edge = 1 + int(0.3 * max(bottom - top, right - left))
        window = np.s_[top:bottom, left:right]
        alpha = (mask[window] * (labels[window] == label)).astype(np.float32)
        yield Piece(
            left=left - edge, top=top - edge,
            image=cv2.copyMakeBorder(still[window], edge, edge, edge, edge, cv2.BORDER_REPLICATE),
            alpha=cv2.copyMakeBorder(alpha, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=0),
        )  # fmt: skip


def paste(
    canvas: Float32[np.ndarray, "h w 3"], piece: Piece, *, shift: tuple[float, float], degrees: float, zoom: float = 1.0, there: float = 1.0
) -> None:
    """Draws `piece` onto `canvas`: moved by pixels, turned, scaled, `there` of it. What leaves the canvas is cut."""
    if there <= 0 or zoom <= 0.02:
        return
    height, width = piece.alpha.shape
    whole = int(np.floor(piece.left + shift[0])), int(np.floor(piece.top + shift[1]))
    rest = piece.left + shift[0] - whole[0], piece.top + shift[1] - whole[1]
    x0, y0 = max(0, whole[0]), max(0, whole[1])
    x1, y1 = min(canvas.shape[1], whole[0] + width), min(canvas.shape[0], whole[1] + height)
    if x0 >= x1 or y0 >= y1:
        return
    matrix = about(((width - 1) / 2, (height - 1) / 2), zoom=zoom, degrees=degrees, shift=rest)
    image = cv2.warpAffine(piece.image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(piece.alpha, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    part = np.s_[y0 - whole[1] : y1 - whole[1], x0 - whole[0] : x1 - whole[0]]
    under = canvas[y0:y1, x0:x1]
    under += (there * alpha[part])[..., None] * (image[part] - under)
