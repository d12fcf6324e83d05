"""The files of a catalog, on a disk or in an object store: written whole or not at all, listed, moved, removed.

Paths are relative to the catalog and use `/`. On a disk every write goes to a temporary name, is flushed to the
device and renamed, so that a reader or a killed process never sees half a file. In an object store an object
appears when its upload ends. Exercised by `pytest tests/catalogs/test_store.py` and `test_object_store.py`.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.fs as pafs

from vapdata.errors import CallError, RunError

TEMPORARY = ".tmp"
"""How the name of an unfinished file ends; never `.parquet`, so that no table's glob sees one."""

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100
_COPY_BYTES = 8 << 20


@runtime_checkable
class Files(Protocol):
    """What the store needs of a file system."""

    local: bool
    """True when paths are on a disk and renaming is atomic."""

    def address(self, path: str) -> str:
        """What a user would call `path`: a path on disk, or the object's address."""
        ...

    def read(self, path: str) -> bytes | None:
        """All bytes of a file; None when there is none."""
        ...

    def write(self, path: str, fill: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
        """Creates or replaces a file by what `fill` writes; on any exception the old state stays.

        `durable` False skips flushing to the device: enough for what a power cut may forget.
        """
        ...

    def write_bytes(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Creates or replaces a small file."""
        ...

    def put(self, path: str, source: str | os.PathLike[str]) -> None:
        """Creates or replaces a file by a finished one of this machine."""
        ...

    def names(self, folder: str) -> list[str]:
        """Sorted names of the files (not folders) in a folder; none when it is absent."""
        ...

    def walk(self, folder: str) -> list[str]:
        """Sorted paths of all files below a folder, temporary ones included."""
        ...

    def modified(self, path: str) -> float | None:
        """Seconds since 1970 at which a file was last written, by the store's clock; None when absent."""
        ...

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        ...

    def move(self, old: str, new: str) -> None:
        """Renames a file, replacing what is there."""
        ...

    def remove(self, path: str) -> None:
        """Removes a file; nothing happens when it is absent."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Removes a folder with all that is in it; nothing happens when it is absent."""
        ...

    def exchange(self, one: str, other: str) -> bool:
        """Swaps two folders in one instant; False when this file system cannot."""
        ...

    def settle(self, folder: str) -> None:
        """Returns when the names in a folder would survive a power cut."""
        ...

    def guard(self) -> contextlib.AbstractContextManager[bool]:
        """Excludes other processes for a moment; gives False when this file system cannot."""
        ...

    def open(self, path: str) -> pa.NativeFile:
        """A file to read at random."""
        ...


def files_at(uri: str | os.PathLike[str]) -> tuple[Files, str]:
    """The file system that an address names, and the address as it is shown to users.

    Takes a path, `file://...`, or what `pyarrow.fs.FileSystem.from_uri` takes (`s3://`, `gs://`, ...).
    Raises CallError for any other scheme.
    """
    text = os.fspath(uri)
    if "://" not in text:
        return LocalFiles(os.path.abspath(text)), text
    try:
        system, base = pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise CallError(f"catalog address {text!r} is not understood: {error}. Give a folder, s3://bucket/folder or gs://bucket/folder.") from error
    if isinstance(system, pafs.LocalFileSystem):
        return LocalFiles(base), base
    return ObjectFiles(system, base), text.partition("?")[0]


@contextlib.contextmanager
def plainly(doing: str, where: str) -> Iterator[None]:
    """Turns what the operating system or object store raises into one sentence with a remedy (RunError)."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{doing} {where} failed: {error.strerror or error}. {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space or choose another --catalog, then type the same command again: what was committed is kept."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Choose a --catalog that you may write to, or change the folder's permissions."
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "Choose a --catalog that is a folder, or that does not exist yet."
    return "Check that the place can be reached, then type the same command again: what was committed is kept."


class LocalFiles:
    """Files in a folder of this machine or of a mounted disk."""

    local = True

    def __init__(self, base: str) -> None:
        """Names the folder; touches nothing."""
        self.base = base

    def address(self, path: str) -> str:
        """The path on disk."""
        return os.path.join(self.base, path) if path else self.base

    def read(self, path: str) -> bytes | None:
        """All bytes of a file; None when there is none."""
        try:
            with plainly_unless_missing("reading", self.address(path)), open(self.address(path), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, path: str, fill: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
        """Creates or replaces a file by what `fill` writes. `durable` False skips flushing to the device."""
        target = self.address(path)
        folder, name = os.path.split(target)
        temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}{TEMPORARY}")
        with plainly("writing", target):
            os.makedirs(folder, exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    fill(file)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                os.replace(temporary, target)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.remove(temporary)
                raise
            if durable:
                _sync_folder(folder)

    def write_bytes(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Creates or replaces a small file."""
        self.write(path, lambda file: file.write(data), durable=durable)

    def put(self, path: str, source: str | os.PathLike[str]) -> None:
        """Creates or replaces a file by a finished one of this machine."""
        with open(source, "rb") as file:
            self.write(path, lambda out: shutil.copyfileobj(file, out, _COPY_BYTES))

    def names(self, folder: str) -> list[str]:
        """Sorted names of the files in a folder."""
        try:
            with plainly_unless_missing("listing", self.address(folder)), os.scandir(self.address(folder)) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
        except FileNotFoundError:
            return []

    def walk(self, folder: str) -> list[str]:
        """Sorted paths of all files below a folder."""
        found = []
        for parent, _, names in os.walk(self.address(folder)):
            inside = os.path.relpath(parent, self.base)
            found += [name if inside == "." else f"{inside}/{name}" for name in names]
        return sorted(found)

    def modified(self, path: str) -> float | None:
        """When the file was last written."""
        try:
            return os.stat(self.address(path)).st_mtime
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        """Whether the file or folder is there."""
        return os.path.exists(self.address(path))

    def move(self, old: str, new: str) -> None:
        """Renames a file, replacing what is there, in one instant."""
        with plainly("writing", self.address(new)):
            os.replace(self.address(old), self.address(new))

    def remove(self, path: str) -> None:
        """Removes a file if it is there."""
        with plainly("removing", self.address(path)), contextlib.suppress(FileNotFoundError):
            os.remove(self.address(path))

    def remove_folder(self, folder: str) -> None:
        """Removes a folder with all that is in it."""
        with plainly("removing", self.address(folder)), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.address(folder))

    def exchange(self, one: str, other: str) -> bool:
        """Swaps two folders in one instant, by Linux's renameat2; False where that is not to be had."""
        rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if rename is None:
            return False
        sys.audit("catalogs.exchange", self.address(one), self.address(other))
        paths = [os.fsencode(self.address(path)) for path in (one, other)]
        return bool(rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)

    def settle(self, folder: str) -> None:
        """Flushes a folder's names to the device."""
        with plainly("writing", self.address(folder)):
            _sync_folder(self.address(folder))

    @contextlib.contextmanager
    def guard(self) -> Iterator[bool]:
        """An advisory lock on the catalog's folder, which ends with the process whatever happens to it."""
        with plainly("opening", self.base):
            descriptor = os.open(self.base, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                held = True
            except OSError:  # network mounts that refuse locks on folders
                held = False
            yield held
        finally:
            os.close(descriptor)

    def open(self, path: str) -> pa.NativeFile:
        """The file, mapped into memory."""
        return pa.memory_map(self.address(path))


class ObjectFiles:
    """Files in an object store, through `pyarrow.fs`."""

    local = False

    def __init__(self, system: pafs.FileSystem, base: str) -> None:
        """Names the bucket and folder; sends nothing."""
        self.system = system
        self.base = base.rstrip("/")

    def address(self, path: str) -> str:
        """`bucket/folder/path`."""
        return f"{self.base}/{path}" if path else self.base

    def read(self, path: str) -> bytes | None:
        """All bytes of an object; None when there is none."""
        try:
            with plainly_unless_missing("reading", self.address(path)), self.system.open_input_file(self.address(path)) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, path: str, fill: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
        """Finishes the file on this machine, then uploads it.

        Closing an upload stream after an exception completes the upload, so `fill` never sees that stream,
        and what a broken connection may leave is removed.
        """
        with plainly("writing", self.address(path)), tempfile.TemporaryFile() as file:
            fill(file)
            file.seek(0)
            self._upload(file, path)

    def write_bytes(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Creates or replaces a small file."""
        self.write(path, lambda file: file.write(data), durable=durable)

    def put(self, path: str, source: str | os.PathLike[str]) -> None:
        """Creates or replaces a file by a finished one of this machine."""
        with open(source, "rb") as file:
            self._upload(file, path)

    def names(self, folder: str) -> list[str]:
        """Sorted names of the objects directly in a folder."""
        return sorted(info.base_name for info in self._list(folder, recursive=False))

    def walk(self, folder: str) -> list[str]:
        """Sorted paths of all objects below a folder."""
        return sorted(info.path[len(self.base) + 1 :] for info in self._list(folder, recursive=True))

    def modified(self, path: str) -> float | None:
        """When the object was last written, by the store's clock."""
        info = self._info(path)
        return info.mtime.timestamp() if info.type == pafs.FileType.File and info.mtime else None

    def exists(self, path: str) -> bool:
        """Whether the object, or any object below that name, is there."""
        return self._info(path).type != pafs.FileType.NotFound

    def move(self, old: str, new: str) -> None:
        """Copies the object inside the store, then removes the old one; may be repeated."""
        with plainly("writing", self.address(new)):
            self.system.copy_file(self.address(old), self.address(new))
            self.system.delete_file(self.address(old))

    def remove(self, path: str) -> None:
        """Removes an object if it is there."""
        with plainly("removing", self.address(path)), contextlib.suppress(FileNotFoundError):
            self.system.delete_file(self.address(path))

    def remove_folder(self, folder: str) -> None:
        """Removes all objects below a folder."""
        with plainly("removing", self.address(folder)), contextlib.suppress(FileNotFoundError):
            self.system.delete_dir(self.address(folder))

    def exchange(self, one: str, other: str) -> bool:
        """False: object stores cannot."""
        return False

    def settle(self, folder: str) -> None:
        """Nothing to do: an upload that ended is durable."""

    @contextlib.contextmanager
    def guard(self) -> Iterator[bool]:
        """Gives False: object stores cannot exclude others through `pyarrow.fs`."""
        yield False

    def open(self, path: str) -> pa.NativeFile:
        """The object, read by ranges."""
        with plainly("reading", self.address(path)):
            return self.system.open_input_file(self.address(path))

    def _upload(self, file: BinaryIO, path: str) -> None:
        target = self.address(path)
        with plainly("writing", target):
            try:
                with self.system.open_output_stream(target) as stream:
                    while chunk := file.read(_COPY_BYTES):
                        stream.write(chunk)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.system.delete_file(target)
                raise

    def _info(self, path: str) -> pafs.FileInfo:
        with plainly("reading", self.address(path)):
            return self.system.get_file_info(self.address(path))

    def _list(self, folder: str, *, recursive: bool) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self.address(folder), allow_not_found=True, recursive=recursive)
        with plainly("listing", self.address(folder)):
            return [info for info in self.system.get_file_info(selector) if info.type == pafs.FileType.File]


@contextlib.contextmanager
def plainly_unless_missing(doing: str, where: str) -> Iterator[None]:
    """As `plainly`, but lets FileNotFoundError through for the caller to decide."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{doing} {where} failed: {error.strerror or error}. {_remedy(error)}") from error


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
