"""How a video VAE counts frames: which numbers of pixel frames it takes, and how many latent frames come out.

Exercised by `pytest tests/vapdata/test_frame_law.py`, against the real classes for 1 to 81 frames.
"""

from dataclasses import dataclass

from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class FrameLaw:
    """Which numbers of pixel frames a video VAE takes, and how many latent frames come out.

    Legal are 1, `period * k + 1` and, with `whole_periods`, `period * k`.
    """

    name: str
    period: int
    """Pixel frames that the VAE works on at once."""
    stride: int
    """Pixel frames per latent frame."""
    whole_periods: bool
    """Also takes `period * k` frames, where no frame stands alone: latent frame 0 covers `stride` pixel frames."""

    def legal(self, pixel_frames: int) -> bool:
        """Whether encode and decode of this many frames give this many frames back."""
        if pixel_frames < 1:
            return False
        rest = pixel_frames % self.period
        return rest == 1 or pixel_frames == 1 or (rest == 0 and self.whole_periods)

    def neighbours(self, pixel_frames: int) -> tuple[int, ...]:
        """The nearest legal count below and above (only above when there is none below)."""
        below = next((count for count in range(pixel_frames - 1, 0, -1) if self.legal(count)), None)
        above = next(count for count in range(max(pixel_frames, 0) + 1, pixel_frames + 2 * self.period + 2) if self.legal(count))
        return (above,) if below is None else (below, above)

    def check(self, pixel_frames: int) -> None:
        """Raises CallError, naming the legal neighbours, unless the count is legal."""
        if self.legal(pixel_frames):
            return
        counts = f"1, {self.period}k+1" + (f" or {self.period}k" if self.whole_periods else "")
        near = " or ".join(str(count) for count in self.neighbours(pixel_frames))
        raise CallError(
            f"{pixel_frames} frames do not fit the {self.name} VAE: sampling.frames must be {counts}. Use {near} frames."
        )

    def latent_frames(self, pixel_frames: int) -> int:
        """Latent frames of a legal count; raises CallError for another."""
        self.check(pixel_frames)
        if self.first_alone(pixel_frames):
            return 1 + (pixel_frames - 1) // self.stride
        return pixel_frames // self.stride

    def least_pixel_frames(self, latent_frames: int) -> int:
        """The fewest frames that make this many latent ones, 1 or more."""
        return next(count for count in range(1, latent_frames * self.stride + 2) if self.legal(count) and self.latent_frames(count) == latent_frames)

    def first_alone(self, pixel_frames: int) -> bool:
        """Whether latent frame 0 covers pixel frame 0 alone."""
        return pixel_frames % self.period == 1 or pixel_frames == 1


COGVIDEOX_LAW = FrameLaw(name="CogVideoX", period=8, stride=4, whole_periods=True)
"""Measured with the real class: only 1, 8k and 8k+1 frames survive a round trip through AutoencoderKLCogVideoX."""
WAN_LAW = FrameLaw(name="Wan", period=4, stride=4, whole_periods=False)
"""Measured with AutoencoderKLWan: it encodes 4k+2 to 4k+4 frames too, but leaves those behind 4k+1 out without a word."""
HUNYUAN_LAW = FrameLaw(name="HunyuanVideo", period=4, stride=4, whole_periods=False)
"""Measured with AutoencoderKLHunyuanVideo: only 4k+1 frames come back from a round trip."""
