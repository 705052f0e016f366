"""Writing whole or not at all, under faults that are made to happen."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from halfwatt.core.errors import BadInput, EnvironmentFault, RunLocked
from halfwatt.core.files import (
    link_or_copy,
    locked,
    new_folder,
    require_space,
    sha256_file,
    sha256_files,
    turn,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.json", b"old")
    os.link(tmp_path / "a.json", tmp_path / "seen.json")  # as a reader that has the old file open
    write_atomic(tmp_path / "a.json", b"new")
    assert (tmp_path / "seen.json").read_bytes() == b"old", "written in place: a crash would leave half of it"
    (tmp_path / "seen.json").unlink()
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert names(tmp_path) == ["a.json"]
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "a.json").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, EnvironmentFault), (errno.EIO, OSError)])
def test_a_failing_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    write_atomic(tmp_path / "a.json", b"old")

    def fails(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(kind):
        write_atomic(tmp_path / "a.json", b"new")
    with pytest.raises(kind), new_folder(tmp_path / "model") as part:
        (part / "weights").write_bytes(b"w")
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_an_array_that_the_disk_does_not_take_is_a_full_disk(tmp_path: Path) -> None:
    def half() -> None:
        with new_folder(tmp_path / "model"):
            raise OSError("6528 requested and 0 written")  # NumPy's, which has no error number

    with pytest.raises(EnvironmentFault, match="no space left to write"):
        half()
    assert names(tmp_path) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half() -> None:
        with new_folder(tmp_path / "model") as part:
            (part / "weights").write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert names(tmp_path) == []
    with new_folder(tmp_path / "deep" / "model") as part:
        (part / "sub").mkdir()
        (part / "sub" / "weights").write_bytes(b"whole")
        assert not (tmp_path / "deep" / "model").exists()
    assert (tmp_path / "deep" / "model" / "sub" / "weights").read_bytes() == b"whole"
    with pytest.raises(BadInput, match="exists already"), new_folder(tmp_path / "deep" / "model"):
        pass


def test_what_a_killed_process_left_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = tmp_path / f".model.{socket.gethostname()}.{int(gone.stdout)}.part"
    living = tmp_path / f".model.{socket.gethostname()}.{os.getppid()}.part"
    dead.mkdir()
    living.mkdir()
    with new_folder(tmp_path / "model"):
        pass
    assert names(tmp_path) == [living.name, "model"]


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    second = (
        "import sys; from pathlib import Path; from halfwatt.core.files import locked\n"
        "try:\n    with locked(Path(sys.argv[1])): print('in')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )

    def other() -> str:
        command = [sys.executable, "-c", second, str(tmp_path / "out")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with locked(tmp_path / "out"):
        refused = other()
        assert refused == other(), "a refusal must not wipe the holder's name"
    assert refused.startswith("RunLocked")
    assert f"pid {os.getpid()} on {socket.gethostname()}" in refused
    assert other() == "in\n"


def test_a_folder_is_owned_once_within_a_process_too(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunLocked, match=f"pid {os.getpid()}"), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked_says_so(tmp_path: Path) -> None:
    (tmp_path / ".halfwatt.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentFault, match=r"cannot be locked.*local disk"), locked(tmp_path):
        pass


def test_the_lock_ends_with_a_killed_process(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from halfwatt.core.files import locked\n"
        "with locked(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        with pytest.raises(RunLocked, match=f"pid {process.pid}"), locked(tmp_path):
            pass
        process.kill()
        process.wait()
    with locked(tmp_path):
        pass


def test_hashes_see_contents_and_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert sha256_file(tmp_path / "a").startswith("e3b0c44298fc1c14")
    (tmp_path / "b").write_bytes(b"{}")
    both = sha256_files(tmp_path, ["a", "b"])
    assert sha256_files(tmp_path, ["b", "a"]) == both
    assert sha256_files(tmp_path, ["a"]) != both
    (tmp_path / "b").rename(tmp_path / "c")
    assert sha256_files(tmp_path, ["a", "c"]) != both


def test_space_is_checked_before_the_folder_exists(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(EnvironmentFault, match="MB free"):
        require_space(tmp_path / "not" / "yet", 1 << 60)


def test_processes_of_one_machine_take_turns_at_a_device_and_a_killed_one_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # read again
    code = (
        "import sys, time; from halfwatt.core.files import turn\n"
        "with turn('cpu', lambda text: print(text, flush=True)): print('in', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    second = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    assert "waiting for the cpu" in second.stdout.readline()
    with turn("cuda"):  # another device is free
        holder.kill()
        assert second.stdout.readline() == "in\n"
    for process in (holder, second):
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_a_file_is_no_folder_to_own(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BadInput, match="is a file"), locked(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(BadInput, match="cannot be created"), locked(folder):
            pass


def test_what_was_created_for_nothing_is_removed_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine" / "a" / "b"):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["mine"]
    with locked(tmp_path / "mine" / "a"):
        (tmp_path / "mine" / "a" / "result").write_text("")
    assert (tmp_path / "mine" / "a" / "result").exists()


def test_what_a_library_makes_private_is_as_the_umask_says(tmp_path: Path) -> None:
    """In a new folder; a file that is linked there is somebody's own, and stays as it is."""
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"x")
    theirs.chmod(0o600)
    before = os.umask(0o027)
    try:
        with new_folder(tmp_path / "new") as part:
            (part / "inside").mkdir()
            (part / "inside" / "private").touch(0o600)
            link_or_copy(theirs, part / "linked")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "inside" / "private").stat().st_mode & 0o777 == 0o640
    assert theirs.stat().st_mode & 0o777 == 0o600
