"""Decoding in a child process: a file that hangs, crashes or eats memory takes the child down, never the worker.

`Decoder` mirrors `vapdata.video`: the same calls, the same answers, the same errors, and two more of them,
DecodeTimeout and DecoderCrashed. One long-lived child per worker (`python -m vapdata.decoder`) reads calls and writes
answers as lines of JSON on a socket; pictures lie in shared memory. Frames travel through a ring of several slots, so
that the child decodes the next ones while the parent works on the last; a full ring makes the child wait.

The child caps its own address space, is killed after `timeout_s` of silence and started afresh by the next call, and
leaves as soon as its parent is gone. Exercised by `pytest tests/vapdata/test_decoder.py`.
"""

import dataclasses
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from vapdata import errors
from vapdata.clip import Look, Sampling
from vapdata.errors import DecoderCrashed, DecodeTimeout, RunError, TooLarge
from vapdata.opened import OpenVideo, Probe, quoted_name
from vapdata.sequence import OpenSequence
from vapdata.video import DETAIL, Fit, Frame, frames_of, look, opened, sample

RING_BYTES = 32 * 2**20
"""Shared memory for frames on their way; two slots at least, eight at most."""
START_S = 60.0
"""How long a child may take to start: it imports numpy and PyAV, maybe from a cold network disk."""
SIGN_OF_LIFE_S = 0.5
"""While the child passes over frames that nobody asked for, it says this often that it works."""


class Decoder:
    """`video.probe`, `video.frames`, `video.sample` and `video.look` in a child process. For one thread; one call at a time.

    `memory_bytes` caps the child's address space, interpreter included (frames on their way lie beside it); `timeout_s` is the longest
    silence between two answers (a frame, or a sign of life while passing over frames).

    Beside the errors of `vapdata.video`, each call raises DecodeTimeout when the child fell silent and DecoderCrashed
    when it died; the next call gets a new child. RunError when no child can be started at all.
    """

    def __init__(self, memory_bytes: int = 1_200_000_000, timeout_s: float = 60.0) -> None:
        self.memory_bytes = memory_bytes
        self.timeout_s = timeout_s
        self._child: _Child | None = None
        self._calls = 0

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id; None before the first call and after a child was lost."""
        return self._child.process.pid if self._child else None

    def close(self) -> None:
        """Ends the child. A later call starts another."""
        if self._child:
            self._child.end()
            self._child = None

    def probe(self, path: str | os.PathLike[str], *, folder_fps: float | None = None) -> Probe:
        """As `video.probe`."""
        call = self._begin("probe", path, folder_fps=folder_fps)
        return Probe(**self._answer(call, path)["probe"])

    def frames(
        self,
        path: str | os.PathLike[str],
        fit: Fit = Fit(),
        start_s: float = 0.0,
        end_s: float | None = None,
        *,
        folder_fps: float | None = None,
    ) -> Iterator[Frame]:
        """As `video.frames`. Images are copies and safe to keep.

        Another call on this decoder ends the iteration: going on with it then raises RuntimeError.
        """
        span = {"start_s": start_s, "end_s": end_s, "folder_fps": folder_fps}
        call = self._begin("frames", path, fit=dataclasses.asdict(fit), **span)
        while True:
            if call != self._calls:
                raise RuntimeError("this iteration over frames was ended by another call on the same Decoder")
            answer = self._answer(call, path)
            if "end" in answer:
                return
            image = self._child.shared(answer["offset"], answer["shape"])
            detail = self._child.shared(answer["offset"] + image.size, answer["detail"]) if "detail" in answer else None
            vectors = np.array(answer["vectors"]) if "vectors" in answer else None
            self._child.send({"call": call, "taken": 1})
            yield Frame(index=answer["index"], time_s=answer["time_s"], image=image, detail=detail, vectors=vectors)

    def sample(
        self,
        path: str | os.PathLike[str],
        start_s: float,
        end_s: float,
        sampling: Sampling,
        *,
        folder_fps: float | None = None,
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """As `video.sample`."""
        span = {"start_s": start_s, "end_s": end_s, "folder_fps": folder_fps}
        call = self._begin("sample", path, sampling=dataclasses.asdict(sampling), **span)
        answer = self._answer(call, path)
        return self._child.shared(0, answer["shape"])

    def look(
        self, path: str | os.PathLike[str], start_s: float, end_s: float, looks: Sequence[Look], *, folder_fps: float | None = None
    ) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """As `video.look`."""
        span = {"start_s": start_s, "end_s": end_s, "folder_fps": folder_fps}
        call = self._begin("look", path, looks=[dataclasses.asdict(each) for each in looks], **span)
        answer = self._answer(call, path)
        return [self._child.shared(offset, shape) for offset, shape in answer["places"]]

    def _begin(self, do: str, path: str | os.PathLike[str], **arguments: Any) -> int:
        self._calls += 1
        message = {"call": self._calls, "do": do, "path": os.path.abspath(os.fsdecode(path)), **arguments}
        try:
            self._child = self._child or _Child(self.memory_bytes)
            self._child.send(message)
            self._heard(self._calls)
        except (EOFError, TimeoutError):  # it died or hung between two calls: this file is not to blame
            self.close()
            self._child = _Child(self.memory_bytes)
            self._child.send(message)
            self._heard(self._calls)
        return self._calls

    def _heard(self, call: int) -> dict[str, Any]:
        """The child's next message about this call; what an earlier call left in the socket is dropped."""
        answer = self._child.receive(self.timeout_s)
        while answer["call"] != call:
            answer = self._child.receive(self.timeout_s)
        return answer

    def _answer(self, call: int, path: str | os.PathLike[str]) -> dict[str, Any]:
        """The next answer to this call. Loses the child on silence and death; raises what the child raised."""
        name = quoted_name(path)
        try:
            answer = self._heard(call)
            while "alive" in answer:
                answer = self._heard(call)
        except TimeoutError:
            self.close()
            silence = f"the decoder gave no answer for {self.timeout_s:g} s and was ended"
            raise DecodeTimeout(f"{name}: {silence}. Replace the file.") from None
        except EOFError:
            how = self._child.end(grace_s=1.0)
            self._child = None
            raise DecoderCrashed(f"{name}: the decoding process died on it ({how}). Replace the file.") from None
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        return answer


class _Child:
    """The parent's end: the process, the socket, the shared memory."""

    def __init__(self, memory_bytes: int) -> None:
        self.socket, theirs = socket.socketpair()
        self.memory = os.memfd_create("vapdata-frames")
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self.lines: list[bytes] = []
        self.rest = b""
        package_parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH"))))
        arguments = (theirs.fileno(), self.memory, memory_bytes, os.getpid())
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vapdata.decoder", *map(str, arguments)],
                pass_fds=(theirs.fileno(), self.memory),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.complaints,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self.end_at_exit = weakref.finalize(self, _kill, self.process, self.socket, self.memory)
        self._greet()

    def _greet(self) -> None:
        try:
            self.receive(START_S)
        except (EOFError, TimeoutError) as error:
            self.complaints.seek(0)
            why = self.complaints.read().decode("utf-8", "replace").strip().splitlines()[-1:] or ["no answer"]
            self.end()
            raise RunError(
                f"the decoding process does not start: {why[0]}. Try: python -c 'import vapdata.decoder'"
            ) from error

    def send(self, message: dict[str, Any]) -> None:
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # the child is gone: receiving says so

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next line. Raises TimeoutError after so much silence, EOFError when the child is gone."""
        self.socket.settimeout(timeout_s)
        while not self.lines:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise EOFError
            *self.lines, self.rest = (self.rest + data).split(b"\n")
        return json.loads(self.lines.pop(0))

    def shared(self, offset: int, shape: list[int]) -> UInt8[np.ndarray, "..."]:
        """A copy of what the child put there."""
        size = int(np.prod(shape))
        image = np.empty(shape, np.uint8)
        if size:
            os.preadv(self.memory, [image.reshape(size).data], offset)
        return image

    def end(self, grace_s: float = 0.0) -> str:
        """Kills the child unless it ends by itself within `grace_s`; how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        self.end_at_exit()
        self.complaints.close()
        code = self.process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _kill(process: subprocess.Popen[bytes], connection: socket.socket, memory: int) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    connection.close()
    os.close(memory)


class _Server:
    """The child's end."""

    def __init__(self, connection: socket.socket, memory: int) -> None:
        self.connection = connection
        self.lines = connection.makefile("rb")
        self.memory = memory
        self.call = 0
        self.pending: dict[str, Any] | None = None
        self.said_at = 0.0
        self.held: OpenVideo | OpenSequence | None = None
        """What the last probe opened: asking for its frames next is the usual case, and spares a second opening."""

    def run(self) -> None:
        """Answers calls until the parent hangs up."""
        self.say(ready=True)
        while (message := self.next()) is not None:
            if "do" in message:
                self.answer(**message)

    def next(self) -> dict[str, Any] | None:
        """The next message; None when the parent hung up."""
        if self.pending is not None:
            message, self.pending = self.pending, None
            return message
        line = self.lines.readline()
        return json.loads(line) if line else None

    def say(self, **answer: Any) -> None:
        self.connection.sendall(json.dumps({"call": self.call, **answer}).encode() + b"\n")
        self.said_at = time.monotonic()

    def tick(self) -> None:
        """Called after each decoded frame, so that silence means a hang and not a long way to the first frame."""
        if time.monotonic() - self.said_at > SIGN_OF_LIFE_S:
            self.say(alive=True)

    def answer(self, call: int, do: str, path: str, **arguments: Any) -> None:
        """Does what was asked. Whatever is raised crosses as class name and message."""
        self.call = call
        self.say(alive=True)
        try:
            getattr(self, f"do_{do}")(path, **arguments)
        except errors.VapdataError as error:
            self.say(error=type(error).__name__, message=str(error))
        except OSError:
            raise  # the socket: the parent is gone
        except MemoryError:
            message = f"{quoted_name(path)}: needs more memory than the decoder may take. Scale the file down."
            self.say(error=TooLarge.__name__, message=message)
        except Exception as error:  # noqa: BLE001 - a library's surprise at a strange file must not look like a dead worker
            many = f"where many files say so, put the PyAV of constraints.txt in place of {av.__version__} and type vapdata retry"
            message = f"{quoted_name(path)}: unexpected {type(error).__name__}: {error}. Replace the file; {many}."
            self.say(error=DecoderCrashed.__name__, message=message)

    def hold(self, video: OpenVideo | OpenSequence | None) -> None:
        """Keeps `video` open for the next call; closes what was kept before."""
        if self.held:
            self.held.close()
        self.held = video

    def do_probe(self, path: str, folder_fps: float | None) -> None:
        self.hold(None)
        self.hold(opened(path, folder_fps).open())
        self.say(probe=dataclasses.asdict(self.held.probe()))

    def do_frames(
        self, path: str, fit: dict[str, Any], start_s: float, end_s: float | None, folder_fps: float | None
    ) -> None:
        if self.held and self.held.path == path and not fit["vectors"]:
            video, self.held = self.held, None
        else:
            self.hold(None)
            video = opened(path, folder_fps, Fit(**fit)).open()
        with closing(video):
            size = None
            for frame in frames_of(video, Fit(**fit), start_s, end_s, self.tick):
                more: dict[str, Any] = {} if frame.vectors is None else {"vectors": frame.vectors.tolist()}
                # all pictures of a file have one size, details maybe not where the coded size changes: a slot holds the largest
                size = size or frame.image.nbytes + (DETAIL * DETAIL if frame.detail is not None else 0) or 1
                slots = min(8, max(2, RING_BYTES // size))
                if frame.index >= slots and not self.may_go_on():
                    return
                offset = frame.index % slots * size
                if frame.image.size:
                    os.pwrite(self.memory, frame.image.data, offset)
                if frame.detail is not None:
                    os.pwrite(self.memory, frame.detail.data, offset + frame.image.nbytes)
                    more["detail"] = frame.detail.shape
                self.say(index=frame.index, time_s=frame.time_s, offset=offset, shape=frame.image.shape, **more)
        self.say(end=True)

    def may_go_on(self) -> bool:
        """Waits for a free slot. False when the parent wants something else instead."""
        while (message := self.next()) is not None:
            if message.get("taken") and message["call"] == self.call:
                return True
            if "do" in message:
                self.pending = message
                return False
        return False

    def do_sample(
        self, path: str, start_s: float, end_s: float, sampling: dict[str, Any], folder_fps: float | None
    ) -> None:
        self.hold(None)
        images = sample(path, start_s, end_s, Sampling(**sampling), folder_fps=folder_fps, tick=self.tick)
        os.pwrite(self.memory, images.data, 0)
        self.say(shape=images.shape)

    def do_look(self, path: str, start_s: float, end_s: float, looks: list[dict[str, Any]], folder_fps: float | None) -> None:
        self.hold(None)
        places, offset = [], 0
        for images in look(path, start_s, end_s, [Look(**each) for each in looks], folder_fps=folder_fps, tick=self.tick):
            os.pwrite(self.memory, images.data, offset)
            places.append((offset, images.shape))
            offset += images.nbytes
        self.say(places=places)


def main(connection: int, memory: int, memory_bytes: int, parent: int) -> None:
    """The child: answers calls on the socket `connection` until the process `parent` is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    with suppress(BrokenPipeError, ConnectionResetError):
        _Server(socket.socket(fileno=connection), memory).run()


def _leave_with(parent: int) -> None:
    # not PR_SET_PDEATHSIG: it fires when the *thread* that started the child ends
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
