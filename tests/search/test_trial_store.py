"""Trials shared by processes: a killed worker, a torn journal, a full disk, and a real PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from halfwatt.core.errors import BadInput, EnvironmentFault
from halfwatt.search import trial_store
from halfwatt.search.trial_store import TrialOutcome, TrialStore

# A worker: says that it has begun, takes its time, and ends what it began.
WORKER = """
import os, sys, time
from halfwatt.search.trial_store import TrialOutcome, TrialStore
where, seconds, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
study = TrialStore(where, "shared", seed=os.getpid())
for _ in range(count):
    with study.trial() as trial:
        x = trial.suggest_float("x", -1, 1)
        print("begun", trial.number, flush=True)
        time.sleep(seconds)
        study.finish(trial, TrialOutcome(x * x))
"""


def worker(where: str | Path, seconds: float, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(where), str(seconds), str(count)], stdout=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> int:
    """Its exit code; killed where it takes too long."""
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    return process.returncode


def begun(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline().split()[1])


def one(study: TrialStore, cost: float | None = 1.0) -> int:
    with study.trial() as trial:
        trial.suggest_float("x", -1, 1)
        study.finish(trial, TrialOutcome(cost))
        return trial.number


def running(study: TrialStore) -> list[int]:
    return [t.number for t in study._study.get_trials(states=(TrialState.RUNNING,))]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the test's own, on a socket in a folder of its own."""
    names = [
        shutil.which(name) or next(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)
        for name in ("initdb", "pg_ctl")
    ]
    if None in names:
        pytest.skip("PostgreSQL is not installed here: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed: pip install psycopg[binary]")
    folder = tmp_path_factory.mktemp("postgres")
    as_user: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        for path in [folder, *folder.parents][:4]:
            path.chmod(0o755)
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data, options = folder / "data", f"-c listen_addresses='' -k {folder}"

    def server(*line: str) -> None:
        subprocess.run([*as_user, *line], check=True, capture_output=True, cwd=folder)

    server(str(names[0]), "-D", str(data), "-U", "halfwatt", "--auth=trust", "--no-sync")
    server(str(names[1]), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    yield f"postgresql+psycopg://halfwatt@/postgres?host={folder}"
    server(str(names[1]), "-D", str(data), "-m", "immediate", "stop")


@pytest.fixture(params=["journal", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres")
        return url
    return str(tmp_path / "journal")


def test_of_two_workers_one_is_killed_and_its_trial_is_done_again(where: str) -> None:
    first, doomed = worker(where, 0.2, 4), worker(where, 60, 1)
    try:
        lost = begun(doomed)
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.wait()
        assert ended(first) == 0
        with closing(TrialStore(where, "shared")) as study:
            for _ in range(2):
                one(study)
            trials = {t.number: t for t in study._study.get_trials()}
            done = study.completed()
        assert trials[lost].state == TrialState.FAIL
        assert len(done) == 6
        assert sum(t.params == trials[lost].params for t in done) == 1, "its decisions were taken again, once"
        assert not [t for t in trials.values() if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    finally:
        for process in (first, doomed):
            process.kill()
            ended(process)


def test_what_was_begun_before_comes_first_however_often_it_is_interrupted(where: str) -> None:
    """It may be half done: a lesson of an hour goes on where it stopped, and is not put behind all that waits."""
    with closing(TrialStore(where, "in order")) as study:
        for x in (0.1, 0.2, 0.3):
            study.enqueue({"x": x})
        for _ in range(5):
            with suppress(KeyboardInterrupt), study.trial() as trial:
                assert trial.suggest_float("x", -1, 1) == 0.1
                raise KeyboardInterrupt
        order = []
        for _ in range(3):
            with study.trial() as trial:
                order.append(trial.suggest_float("x", -1, 1))
                study.finish(trial, TrialOutcome(1.0))
        assert order == [0.1, 0.2, 0.3]
        assert [t.params["x"] for t in study.completed()] == order
        assert study.waiting() == []


def test_what_ends_its_worker_each_time_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for _ in range(trial_store.MOST_AGAIN + 1):
        doomed = worker(path, 60, 1)
        begun(doomed)
        doomed.kill()
        ended(doomed)
    with closing(TrialStore(path, "shared")) as study:
        lost = study._study.get_trials()[0].params
        one(study)
        assert all(t.params != lost for t in study.completed())


def test_two_workers_share_what_they_find(where: str) -> None:
    with closing(TrialStore(where, "shared")) as study:
        before = len(study.completed())
        pair = [worker(where, 0.0, 6) for _ in range(2)]
        assert [ended(p) for p in pair] == [0, 0]
        done = study.completed()
    assert len(done) == before + 12
    assert len({t.number for t in done}) == len(done)


def test_what_the_first_worker_says_holds_for_all(tmp_path: Path) -> None:
    """Else each would plan by its own paces, and one's lessons be no lessons of the other's."""
    first, second = (TrialStore(tmp_path / "journal", "shared") for _ in range(2))
    assert first.agreed("plan", "one") == "one"
    assert second.agreed("plan", "two") == "one"
    assert first.agreed("plan", "three") == "one"


def test_a_silent_worker_of_another_host_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = TrialStore(tmp_path / "journal", "a")
    monkeypatch.setattr(trial_store, "_me", lambda: ["elsewhere", 1])
    with study.trial() as trial:
        trial.suggest_float("x", 0, 1)
        other = TrialStore(tmp_path / "journal", "a")
        one(other)
        assert running(other) == [trial.number]
        monkeypatch.setattr(trial_store, "SILENT_S", -1.0)
        one(other)
        assert running(other) == []
        study._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


def test_a_dead_workers_time_ends_when_it_was_heard_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_store, "BEAT_S", 0.1)
    study = TrialStore(tmp_path / "journal", "shared")
    dead = worker(tmp_path / "journal", 60, 1)
    begun(dead)
    dead.kill()
    ended(dead)
    time.sleep(1.0)
    one(study)
    assert study._study.get_trials()[0].state == TrialState.FAIL
    assert 0 < study.seconds() < 0.9


def test_a_working_trial_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_store, "BEAT_S", 0.05)
    study = TrialStore(tmp_path / "journal", "a")
    with study.trial() as trial:
        time.sleep(0.4)
        (running,) = TrialStore(tmp_path / "journal", "a")._study.get_trials(states=(TrialState.RUNNING,))
        assert running.datetime_start is not None
        assert running.user_attrs["beat"] > running.datetime_start.timestamp() + 0.2
        study.finish(trial, TrialOutcome(1.0))


@pytest.mark.parametrize("torn", [b'{"op_code":5,"wor', b"{", b'{"a": 1}'])
def test_a_torn_end_is_cut_off_and_the_search_goes_on(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal"
    study = TrialStore(path, "a")
    one(study, 3.0)
    with path.open("ab") as file:
        file.write(torn)
    assert TrialStore(path, "a").best().value == 3.0  # type: ignore[union-attr]
    with path.open("ab") as file:
        file.write(torn)  # while another has it open
    one(study, 2.0)
    assert TrialStore(path, "a").best().value == 2.0  # type: ignore[union-attr]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_journal_that_is_torn_in_its_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    one(TrialStore(path, "a"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2][:9] + "\n", *lines[3:]]))
    with pytest.raises(BadInput, match="a line in its middle is torn"):
        TrialStore(path, "a")


def test_a_full_disk_is_said_and_leaves_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    study = TrialStore(path, "a")
    one(study, 1.5)
    real = JournalFileBackend.append_logs

    def half(self: JournalFileBackend, logs: list[dict[str, object]]) -> None:
        with path.open("ab") as file:
            file.write(json.dumps(logs[0]).encode()[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JournalFileBackend, "append_logs", half)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        one(study)
    monkeypatch.setattr(JournalFileBackend, "append_logs", real)
    again = TrialStore(path, "a")
    assert again.best().value == 1.5  # type: ignore[union-attr]
    one(again, 1.0)
    assert again.best().value == 1.0  # type: ignore[union-attr]


def test_a_disqualified_trial_is_never_the_best_and_known_all_the_same(tmp_path: Path) -> None:
    study = TrialStore(tmp_path / "journal", "a")
    with study.trial() as trial:
        trial.set_user_attr(trial_store.RECIPE, "broken")
        study.finish(trial, TrialOutcome(None))
    assert study.best() is None
    assert study.outcome_of_recipe("broken") == TrialOutcome(None)
    assert study.outcome_of_recipe("other") is None


def test_a_database_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be opened"):
        TrialStore(f"sqlite:///{tmp_path}/no/such/folder.db", "a")
