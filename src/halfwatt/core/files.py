"""Files that are there whole or not at all, the lock on an output folder, and hashes of what was read.

Written: to a temporary name beside the target, fsynced, renamed, the folder fsynced. A crash leaves the old or the new.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from halfwatt.core.errors import BadInput, EnvironmentFault, RunLocked
from halfwatt.core.types import Progress

_PART = ".part"
_POLL_S = 1.0  # asleep in between: another process measures meanwhile


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
            os.fchmod(out.fileno(), _usual_mode())  # mkstemp makes private files
            os.fsync(out.fileno())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        raise _disk_error(error, path) from error
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
        mode = _usual_mode()
        for entry in [*part.rglob("*"), part]:
            if entry.is_file() and entry.stat().st_nlink == 1:  # else it is somebody's own file
                entry.chmod(mode)  # safetensors 0.8 makes private files
            _fsync(entry)
        os.replace(part, path)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        raise _disk_error(error, path) from error
    _fsync(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Own ``folder``, created when missing, while the block runs. The lock ends with the process, however it ends.
    Folders that were created for it and in which nothing was left are removed again.

    Raises:
        BadInput: it is a file. RunLocked: another process owns it; names its pid and host.
        EnvironmentFault: this file system has no locks.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise BadInput(f"{folder} is a file", hint="choose another -o folder")
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be created", got=str(error), hint="choose another -o folder") from error
    file = folder / ".halfwatt.lock"

    def refuse() -> None:
        holder, hint = file.read_text(errors="replace").strip() or "unknown", "wait for it, or choose another -o folder"
        raise RunLocked(f"{folder} is in use by another process", got=holder, hint=hint)

    with _lock(file, refuse, hint="choose an -o folder on a local disk"):
        file.write_text(f"pid {os.getpid()} on {socket.gethostname()}\n")
        try:
            yield
        finally:
            if created and folder.exists() and set(folder.iterdir()) == {file}:
                file.unlink()
                with suppress(OSError):  # what others have put there stays
                    for path in created:
                        path.rmdir()


@contextmanager
def turn(what: str, progress: Progress = lambda _: None) -> Iterator[None]:
    """Be the only process of this machine that does ``what`` while the block runs; waits for the others.

    Raises:
        EnvironmentFault: the lock in the machine's folder of temporary files cannot be opened.
    """
    file = Path(tempfile.gettempdir()) / f"halfwatt-{what}.lock"
    waiting = f"waiting for the {what}: another process of this machine measures on it"
    with _lock(file, lambda: progress(waiting), hint="set TMPDIR, or remove it"):
        yield


@contextmanager
def _lock(file: Path, when_held: Callable[[], None], hint: str) -> Iterator[None]:
    """Lock a file; one that another process holds is waited for, unless ``when_held`` raises."""
    from filelock import FileLock, Timeout  # 50 ms, which serving processes need not spend

    lock = FileLock(file, fallback_to_soft=False)  # a soft lock would outlive a killed process
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            when_held()
            lock.acquire(poll_interval=_POLL_S)
    except OSError as error:
        raise EnvironmentFault(f"{file} cannot be locked", got=str(error), hint=hint) from error
    try:
        yield
    finally:
        lock.release()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(folder: Path, names: Collection[str]) -> str:
    """Hex digest over the names and contents of some files of ``folder``, whatever order they are given in."""
    lines = (f"{sha256_file(folder / name)}  {name}\n" for name in sorted(names))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def link_or_copy(source: Path | str, to: Path | str) -> None:
    """No second copy on the same disk."""
    try:
        os.link(Path(source).resolve(), to)
    except OSError:
        shutil.copyfile(source, to)


def require_space(folder: Path, need_b: int) -> None:
    """Check the free space of the disk under ``folder``, which need not exist yet.

    Raises:
        EnvironmentFault: fewer than ``need_b`` bytes are free.
    """
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    free_b = shutil.disk_usage(existing).free
    if free_b < need_b:
        free, hint = f"{free_b / 1e6:,.2f} MB free", "free some space, or choose another -o folder"
        raise EnvironmentFault(f"{folder} needs {need_b / 1e6:,.2f} MB", got=free, hint=hint)


def _disk_error(error: BaseException, path: Path) -> BaseException:
    """A full disk as an error that names the file; anything else as it is. NumPy gives no number: so many bytes of an
    array were "requested", and fewer written."""
    full = isinstance(error, OSError) and (error.errno in (errno.ENOSPC, errno.EDQUOT) or "requested and" in str(error))
    if full:
        return EnvironmentFault(f"no space left to write {path}", hint="free some space; nothing was replaced")
    return error


def _sweep(path: Path) -> None:
    """Remove the temporary folders that killed processes of this host left behind for ``path``."""
    from psutil import pid_exists

    start = f".{path.name}.{socket.gethostname()}."
    for part in path.parent.glob(f"{glob.escape(start)}*{_PART}"):
        pid = part.name[len(start) : -len(_PART)]
        if pid.isdigit() and (int(pid) == os.getpid() or not pid_exists(int(pid))):
            shutil.rmtree(part, ignore_errors=True)


def _usual_mode() -> int:
    """Of a new file, as the user's umask says."""
    os.umask(mask := os.umask(0o022))  # it can only be read by setting it
    return 0o666 & ~mask


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
