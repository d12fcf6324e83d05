"""Tests of vapdata.decoder with real child processes: equal answers, hangs, deaths, memory, orphans."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vapdata import video
from vapdata.clip import Look, Sampling
from vapdata.decoder import RING_BYTES, Decoder
from vapdata.errors import ClipError, DecoderCrashed, DecodeTimeout, NoVideo, RunError, TooLarge, Unreadable
from vapdata.video import Fit


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames at 30 fps, each 4 levels brighter than the one before."""
    path = tmp_path_factory.mktemp("decoder") / "counting.mp4"
    video.write(path, (np.full((64, 96, 3), 4 * k, np.uint8) for k in range(60)), 30)
    return path


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder() as made:
        yield made


def rss(pid: int | str) -> int:
    """Most memory that a process ever held, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(gone: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(gone) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(gone)


def test_the_child_answers_as_the_functions_do(decoder: Decoder, counting: Path) -> None:
    assert decoder.probe(counting) == video.probe(counting)
    for start_s, end_s in ((0.0, None), (0.5, 1.5), (1.5, None)):
        here = list(video.frames(counting, Fit(long_side=32), start_s, end_s))
        there = list(decoder.frames(counting, Fit(long_side=32), start_s, end_s))
        assert [(frame.index, frame.time_s) for frame in there] == [(frame.index, frame.time_s) for frame in here]
        assert all(np.array_equal(a.image, b.image) for a, b in zip(here, there, strict=True))
    for short in ("loop", "slow"):
        sampling = Sampling(frames=9, height=33, width=47, fps=8, short=short, resize="crop")
        assert np.array_equal(decoder.sample(counting, 0.5, 1.0, sampling), video.sample(counting, 0.5, 1.0, sampling))
    looks = [Look(fps=4, least=2, most=5, long_side=32), Look(fps=1, least=3, most=3, long_side=48)]
    here, there = video.look(counting, 0.5, 2.0, looks), decoder.look(counting, 0.5, 2.0, looks)
    assert [frames.shape[0] for frames in there] == [5, 3]
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))


def test_frames_may_be_kept_while_the_ring_goes_round(decoder: Decoder, counting: Path) -> None:
    kept = list(decoder.frames(counting))
    assert [round(float(frame.image.mean()) / 4) for frame in kept] == list(range(60))
    assert all(frame.image.flags.writeable for frame in kept)


@pytest.mark.slow
def test_full_frames_larger_than_the_ring_still_travel(decoder: Decoder, tmp_path: Path) -> None:
    side = 3600
    assert side * side * 3 > RING_BYTES
    video.write(tmp_path / "large.mp4", (np.full((side, side, 3), 100 * k, np.uint8) for k in range(3)), 8)
    assert [round(float(frame.image.mean()), -1) for frame in decoder.frames(tmp_path / "large.mp4")] == [0, 100, 200]


def test_another_call_ends_an_iteration(decoder: Decoder, counting: Path) -> None:
    unfinished = decoder.frames(counting)
    next(unfinished)
    assert decoder.probe(counting).frames == 60
    with pytest.raises(RuntimeError, match="ended by another call"):
        next(unfinished)
    assert sum(1 for _ in decoder.frames(counting)) == 60


def test_an_abandoned_iteration_does_not_disturb_the_next(decoder: Decoder, counting: Path) -> None:
    for _ in range(5):
        for frame in decoder.frames(counting):
            if frame.index == 3:
                break
    assert [frame.index for frame in decoder.frames(counting)] == list(range(60))


def test_a_probed_file_is_opened_once_and_a_changed_path_anew(decoder: Decoder, counting: Path, tmp_path: Path) -> None:
    video.write(tmp_path / "other.mp4", [np.zeros((32, 32, 3), np.uint8)] * 5, 5)
    decoder.probe(counting)
    assert sum(1 for _ in decoder.frames(tmp_path / "other.mp4")) == 5
    decoder.probe(tmp_path / "other.mp4")
    assert sum(1 for _ in decoder.frames(counting, start_s=1.9)) == 3


@pytest.mark.parametrize(("name", "kind"), [("text_renamed.mp4", Unreadable), ("audio_only.mp4", NoVideo)])
def test_errors_cross_with_class_and_words(decoder: Decoder, real_clips: Path, name: str, kind: type[ClipError]) -> None:
    with pytest.raises(kind) as here:
        video.probe(real_clips / "broken" / name)
    with pytest.raises(kind) as there:
        decoder.probe(real_clips / "broken" / name)
    assert str(here.value) == str(there.value)


def test_good_frames_arrive_before_the_error(decoder: Decoder, real_clips: Path) -> None:
    seen = []
    with pytest.raises(Unreadable, match="truncated.mp4: the decoder stopped after 129 frames"):
        seen.extend(frame.index for frame in decoder.frames(real_clips / "broken" / "truncated.mp4", Fit(long_side=32)))
    assert seen == list(range(129))


def test_names_outside_utf8_cross(decoder: Decoder, counting: Path, tmp_path: Path) -> None:
    path = os.path.join(tmp_path, os.fsdecode(b"not\xffutf8\n.mp4"))
    os.symlink(counting, path)
    assert decoder.probe(path).frames == 60
    with pytest.raises(Unreadable, match=r"^not%FE\.mp4: "):
        decoder.probe(os.path.join(tmp_path, os.fsdecode(b"not\xfe.mp4")))


@pytest.mark.slow
def test_a_file_that_hangs_is_given_up_and_the_next_one_works(counting: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hang.mp4")
    with Decoder(timeout_s=1.0) as decoder:
        decoder.probe(counting)
        before = decoder.pid
        with pytest.raises(DecodeTimeout, match="hang.mp4: the decoder gave no answer for 1 s"):
            list(decoder.frames(tmp_path / "hang.mp4"))
        assert wait_until(before, 2.0)
        assert decoder.probe(counting).frames == 60


@pytest.mark.slow
def test_time_spent_by_the_caller_is_no_silence(counting: Path) -> None:
    with Decoder(timeout_s=0.5) as decoder:
        for frame in decoder.frames(counting):
            if frame.index in (0, 20):
                time.sleep(0.8)
        assert frame.index == 59


@pytest.mark.slow
def test_a_long_way_to_the_first_wanted_frame_is_no_silence(tmp_path: Path) -> None:
    path = tmp_path / "one_key_frame.mp4"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, 360, 640, 3), np.uint8)
    video.write(path, (noise[k % 8] for k in range(120)), 30)
    with Decoder(timeout_s=1.0) as decoder:
        assert sum(1 for _ in decoder.frames(path, Fit(long_side=16), start_s=3.9)) == 3


def test_a_child_that_dies_part_way_is_reported_and_replaced(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    video.write(path, (np.full((64, 96, 3), k % 256, np.uint8) for k in range(200)), 30)
    frames = decoder.frames(path)
    assert next(frames).index == 0
    os.kill(decoder.pid, signal.SIGKILL)
    with pytest.raises(DecoderCrashed, match=r"long.mp4: the decoding process died on it \(SIGKILL\)"):
        list(frames)
    assert decoder.pid is None
    assert sum(1 for _ in decoder.frames(path)) == 200


def test_a_child_that_died_between_two_calls_is_not_blamed_on_the_next_file(decoder: Decoder, counting: Path) -> None:
    decoder.probe(counting)
    os.kill(decoder.pid, signal.SIGKILL)
    assert decoder.probe(counting).frames == 60


def test_a_cap_too_small_to_start_in_is_said_so() -> None:
    with pytest.raises(RunError, match="the decoding process does not start"):
        Decoder(memory_bytes=20_000_000).probe("any.mp4")


def test_a_picture_that_memory_does_not_suffice_for_is_too_large(tmp_path: Path) -> None:
    video.write(tmp_path / "large.mp4", [np.zeros((4000, 4000, 3), np.uint8)] * 2, 8)
    with Decoder(memory_bytes=420_000_000) as decoder, pytest.raises(TooLarge, match="large.mp4"):
        list(decoder.frames(tmp_path / "large.mp4"))


def test_a_child_does_not_outlive_its_parent(tmp_path: Path, counting: Path) -> None:
    os.mkfifo(tmp_path / "hang.mp4")
    parent = "import sys; from vapdata.decoder import Decoder; d = Decoder(); d.probe(sys.argv[1]); print(d.pid, flush=True); d.probe(sys.argv[2])"
    started = subprocess.Popen([sys.executable, "-c", parent, counting, tmp_path / "hang.mp4"], stdout=subprocess.PIPE)
    child = int(started.stdout.readline())
    assert is_alive(child)
    started.kill()
    started.wait()
    started.stdout.close()
    assert wait_until(child, 5.0)


def test_the_child_loads_neither_torch_nor_ray() -> None:
    code = "import sys, vapdata.decoder; print([name for name in ('torch', 'ray', 'decord', 'cv2', 'PIL') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_closing_ends_the_child_and_a_later_call_starts_another(counting: Path) -> None:
    decoder = Decoder()
    decoder.probe(counting)
    first = decoder.pid
    decoder.close()
    assert wait_until(first, 2.0) and decoder.pid is None
    assert decoder.probe(counting).frames == 60
    decoder.close()


@pytest.mark.slow
def test_ten_minutes_of_1080p_stay_far_below_the_cap(decoder: Decoder, tmp_path: Path) -> None:
    scene = np.linspace(0, 255, 1920).astype(np.uint8)[None, :, None].repeat(1080, 0).repeat(3, 2)
    video.write(tmp_path / "four_seconds.mp4", (np.roll(scene, 8 * k, 1) for k in range(4)), 1)
    long = repeated(tmp_path / "four_seconds.mp4", tmp_path / "long.mp4", 150)
    decoder.probe(tmp_path / "four_seconds.mp4")
    before = rss("self") + rss(decoder.pid)
    for last in decoder.frames(long, Fit(long_side=320)):
        assert last.image.shape == (180, 320, 3)
    assert last.time_s == 599
    assert rss("self") + rss(decoder.pid) - before < 500_000_000


def repeated(source: Path, target: Path, times: int) -> Path:
    """`source`, whose first frame is its only key frame, played `times` over without encoding again."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        packets = [(packet.pts, packet.dts, packet.duration, packet.is_keyframe, bytes(packet)) for packet in given.demux(stream) if packet.dts is not None]
        length = sum(duration for _, _, duration, _, _ in packets)
        for turn in range(times):
            for pts, dts, duration, key, data in packets:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration = pts + turn * length, dts + turn * length, duration
                packet.time_base, packet.is_keyframe, packet.stream = stream.time_base, key, copy
                made.mux(packet)
    return target


def huge_mjpeg(source: Path, folder: Path) -> Path:
    """One JPEG whose frame header says 16384 x 16384."""
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64)).save(buffer, "JPEG")
    small, large = (b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", *size) for size in ((64, 96), (16384, 16384)))
    assert buffer.getvalue().count(small) == 1
    path = folder / "huge.mjpeg"
    path.write_bytes(buffer.getvalue().replace(small, large) * 3)
    return path


def huge_h264(source: Path, folder: Path) -> Path:
    """`source` with a sequence parameter set, and a container, that say 16384 x 16384."""
    path = folder / "huge.mp4"
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        sps = sps_of(16384 // 16, 16384 // 16)
        tail = stream.codec_context.extradata[8 + int.from_bytes(stream.codec_context.extradata[6:8]) :]
        copy.codec_context.extradata = b"\x01\x42\x00\x3e\xff\xe1" + len(sps).to_bytes(2) + sps + tail
        copy.width = copy.height = 16384
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                made.mux(packet)
    return path


def sps_of(across: int, down: int) -> bytes:
    """A baseline H.264 sequence parameter set for so many macroblocks (ITU-T H.264, 7.3.2.1.1)."""
    golomb = [0, 0, 2, 1]  # set id, log2 of frame numbers - 4, order type, reference frames
    bits = "".join(f"{value + 1:b}".zfill(2 * (value + 1).bit_length() - 1) for value in golomb) + "0"
    bits += "".join(f"{value:b}".zfill(2 * value.bit_length() - 1) for value in (across, down)) + "11001"
    bits += "0" * (-len(bits) % 8)
    return b"\x67\x42\x00\x3e" + int(bits, 2).to_bytes(len(bits) // 8)


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_a_header_of_16384_x_16384_is_refused_before_memory_is_taken(decoder: Decoder, counting: Path, tmp_path: Path, codec: str) -> None:
    decoder.probe(counting)
    before = rss("self") + rss(decoder.pid)
    path = {"mjpeg": huge_mjpeg, "h264": huge_h264}[codec](counting, tmp_path)
    with pytest.raises(ClipError) as raised:
        list(decoder.frames(path, Fit(long_side=320)))
    assert isinstance(raised.value, TooLarge), raised.value
    assert rss("self") + rss(decoder.pid) - before < 300_000_000
    assert decoder.probe(counting).frames == 60
