"""Files that are there whole or not at all, the lock on an output folder, and hashes of what was read.

Written means: to a temporary name beside the target, fsynced, renamed, the folder fsynced. After a crash at any moment
the target is the old one or the new one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from halfwatt.core.errors import BadInput, EnvironmentFault, RunLocked

LOCK_NAME = ".halfwatt.lock"
_PART = ".part"
_CHUNK_B = 1 << 20


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, replacing what was there; the parent folder must exist.

    Raises:
        EnvironmentFault: the disk is full; the temporary file is gone and the old file untouched.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(out.fileno(), 0o666 & ~_umask())  # mkstemp makes private files
            os.fsync(out.fileno())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        raise _named(error, path) from error
    _fsync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends without an error, and is removed otherwise.

    Raises:
        BadInput: ``path`` exists already and is not an empty folder.
        EnvironmentFault: the disk is full.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BadInput(f"{path} exists already", hint="choose another name, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    part = path.parent / f".{path.name}.{socket.gethostname()}.{os.getpid()}{_PART}"
    part.mkdir()
    try:
        yield part
        for found in [*part.rglob("*"), part]:
            _fsync(found)
        os.replace(part, path)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        raise _named(error, path) from error
    _fsync(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Own ``folder`` (made when missing) while the block runs. The lock ends with the process, however it ends.

    Raises:
        RunLocked: another process owns it; names its pid and host.
        EnvironmentFault: this file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_NAME, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise RunLocked(
                f"{folder} is in use by another process", got=holder, hint="wait for it, or choose another -o folder"
            ) from None
        except OSError as error:
            raise EnvironmentFault(
                f"{folder} cannot be locked", got=str(error), hint="choose an -o folder on a local disk"
            ) from error
        file.truncate(0)  # "a+" appends, so that a refused process never wipes the holder's name
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


@contextmanager
def turn(what: str, progress: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Be the only process of this machine that does ``what`` while the block runs; waits for the others.

    Raises:
        EnvironmentFault: the lock in the machine's folder of temporary files cannot be opened.
    """
    path = Path(tempfile.gettempdir()) / f"halfwatt-{what}.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be opened", got=str(error), hint="set TMPDIR, or remove it") from error
    with os.fdopen(handle, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for the {what}: another process of this machine measures on it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(folder: Path, names: Collection[str]) -> str:
    """Hex digest over the names and contents of some files of ``folder``, whatever order they are given in."""
    lines = (f"{sha256_file(folder / name)}  {name}\n" for name in sorted(names))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_folder(folder: Path, without: Collection[str] = ()) -> str:
    """Hex digest over all files below ``folder`` except those named in ``without`` (relative, with /)."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sha256_files(folder, [name for name in found if name not in without])


def require_space(folder: Path, need_b: int) -> None:
    """Check the free space of the disk under ``folder``, which need not exist yet.

    Raises:
        EnvironmentFault: fewer than ``need_b`` bytes are free.
    """
    there = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    free_b = shutil.disk_usage(there).free
    if free_b < need_b:
        raise EnvironmentFault(
            f"{folder} needs {need_b / 1e6:,.0f} MB",
            got=f"{free_b / 1e6:,.0f} MB free",
            hint="free some space, or choose another -o folder",
        )


def _named(error: BaseException, path: Path) -> BaseException:
    """A full disk as an error that names the file; anything else as it is."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFault(f"no space left to write {path}", hint="free some space; nothing was replaced")
    return error


def _sweep(path: Path) -> None:
    """Remove the temporary folders that killed processes of this host left behind for ``path``."""
    start = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.glob(f"{_escaped(start)}*{_PART}"):
        pid = left.name[len(start) : -len(_PART)]
        if pid.isdigit() and (int(pid) == os.getpid() or not alive(int(pid))):
            shutil.rmtree(left, ignore_errors=True)


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)


def alive(pid: int) -> bool:
    """Is there such a process on this host?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's umask. It can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
