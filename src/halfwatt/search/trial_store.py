"""What was tried, shared by processes and kept across sittings: Optuna behind ask and tell, with its loose ends tied.

    a path           a journal file: every change is a line, appended and flushed to the disk under a lock
    a database URL   such as postgresql://user@host/name, for many machines

A line that was half written when the disk was full or the power went is cut off: Optuna would append to it and never
read the file again. A trial whose worker has fallen silent is closed, and its decisions are asked for again, before
any that have not begun: it may be half done.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FixedTrial, FrozenTrial, Trial, TrialState
from psutil import pid_exists

from halfwatt.core.errors import BadInput, EnvironmentFault, HalfwattError

BEAT_S, SILENT_S = 20.0, 120.0
MOST_AGAIN = 3  # times that a trial is begun again: what ends its worker each time is no accident
RECIPE = "recipe"  # the name under which a trial's recipe is told again
_BEAT, _WORKER, _GATE, _AGAIN, _JOULES, _AHEAD = "beat", "worker", "gate", "again", "joules", "ahead"


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """What one trial ended with; a trial without a cost is disqualified."""

    cost: float | None  # what is minimised, such as the log of the energy over B1's
    violation: float = 0.0  # how far the constraint is missed; 0 or less = it holds


class TrialStore:
    """The trials of one search."""

    def __init__(
        self, where: str | Path, name: str, seed: int = 0, joules: Callable[[], float | None] = lambda: None
    ) -> None:
        """Open them, or begin. Workers side by side need a seed each, or they propose the same. joules: a cumulative
        counter; None where none measures. Raises BadInput where the journal is damaged in its middle, EnvironmentFault
        where there is no such database or no driver for it."""
        self._counter = joules
        self._joules_before: float | None = None  # of the trial that is under way
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage, sampler = _opened(where), optuna.samplers.TPESampler(seed=seed)
        self._study = optuna.create_study(storage=self._storage, study_name=name, sampler=sampler, load_if_exists=True)

    def close(self) -> None:
        """Leave the database."""
        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def enqueue(self, decisions: dict[str, Any], user_attrs: dict[str, Any] | None = None) -> None:
        """Let these decisions be taken before the sampler's own; once, whoever asks again. user_attrs: of the trial."""
        wanted = user_attrs or {}
        asked = [t for t in self._study.get_trials(deepcopy=False) if wanted.items() <= t.user_attrs.items()]
        if decisions not in [t.system_attrs.get("fixed_params", t.params) for t in asked]:
            self._study.enqueue_trial(decisions, user_attrs=wanted)

    @contextmanager
    def trial(self) -> Iterator[Trial]:
        """The next trial; `finish` ends it, an error inside fails it. It is known to be alive while the block runs."""
        self._recover()
        trial = self._next()
        trial.set_user_attr(_WORKER, _me())
        trial.set_user_attr(_BEAT, time.time())
        self._joules_before = self._counter()
        over = threading.Event()
        beats = threading.Thread(target=_beat, args=(trial, over), daemon=True)
        beats.start()
        try:
            yield trial
        except BaseException as error:
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            if not isinstance(error, BadInput):  # interrupted, or a fault of the machine: nothing was learned of it
                self._ask_again(trial, 1 if isinstance(error, Exception) else math.inf)
            raise
        finally:
            over.set()
            beats.join()

    def _next(self) -> Trial:
        """Of those that wait, what was begun before comes first; the others are put back in their order."""
        trial = self._study.ask()
        while _AGAIN not in trial.user_attrs and any(_AGAIN in t.user_attrs for t in self.waiting()):
            asked = self._study.get_trials(deepcopy=False)[trial.number]
            self._study.tell(trial, state=TrialState.FAIL)
            self._study.enqueue_trial(asked.system_attrs["fixed_params"], user_attrs=trial.user_attrs)
            trial = self._study.ask()
        return trial

    def finish(self, trial: Trial, outcome: TrialOutcome) -> None:
        """End a trial, with the joules that it took, where they were measured."""
        before, after = self._joules_before, self._counter()
        trial.set_user_attr(_JOULES, None if before is None or after is None else after - before)
        if outcome.cost is not None:
            trial.set_constraint(_GATE, outcome.violation)
        self._study.tell(trial, outcome.cost, state=TrialState.FAIL if outcome.cost is None else None)

    def decline(self, trial: Trial) -> None:
        """End a trial that nothing came of and nothing was spent on: what was proposed is not to be tried now."""
        self._study.tell(trial, state=TrialState.FAIL)

    def was_asked_for(self, trial: Trial) -> bool:
        """Were its decisions taken before it began? Else the sampler proposed them."""
        return "fixed_params" in self._study.get_trials(deepcopy=False)[trial.number].system_attrs

    def outcome_of_recipe(self, recipe: str) -> TrialOutcome | None:
        """What a recipe of this name came to, where it was tried before; disqualified ones too."""
        kept = (trial for trial in self.finished() if trial.user_attrs.get(RECIPE) == recipe)
        return next(map(outcome_of, kept), None)

    def waiting(self) -> list[FixedTrial]:
        """Trials that were asked for and have not begun, as they will decide."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return [_as_asked_for(trial) for trial in trials]

    def was_interrupted(self) -> bool:
        """Does a trial wait that was begun before, `MOST_AGAIN` times at most?"""
        self._recover()
        return any(0 < trial.user_attrs.get(_AGAIN, 0) <= MOST_AGAIN for trial in self.waiting())

    def agreed(self, name: str, own: str) -> str:
        """What all workers of this search go by: what the first of them said. Two that ask within the same moment may
        each keep their own."""
        if name not in self._study.user_attrs:
            self._study.set_user_attr(name, own)
        return str(self._study.user_attrs[name])

    def note_ahead(self, recipes: Sequence[str], seconds: float) -> None:
        """Part of what these recipes' trials take was done before them, in so many seconds together."""
        each = {recipe: seconds / len(recipes) for recipe in recipes}
        self._study.set_user_attr(_AHEAD, self._ahead() | each)

    def completed(self) -> list[FrozenTrial]:
        """Trials with a cost, those that break the constraint too, in the order in which they were begun."""
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def finished(self) -> list[FrozenTrial]:
        """Trials that came to their end: `completed` ones, and those that were disqualified."""
        return [trial for trial in self._ended() if _JOULES in trial.user_attrs]

    def best(self) -> FrozenTrial | None:
        """The cheapest trial that keeps the constraint; None = there is none."""
        able = (t for t in self.completed() if t.constraints[_GATE] <= 0)
        return min(able, key=lambda t: float(t.value or 0.0), default=None)

    def seconds(self) -> float:
        """Spent in and ahead of trials that have ended, by all workers; in one that died, as long as it was heard."""
        return sum(_lasted_s(t) for t in self._ended()) + sum(self._ahead().values())

    def lasted_s(self, trial: FrozenTrial) -> float:
        """Seconds that a trial took, with what was done ahead of it."""
        return _lasted_s(trial) + self._ahead().get(trial.user_attrs.get(RECIPE, ""), 0.0)

    def joules(self) -> float:
        """Measured in them."""
        return sum(t.user_attrs.get(_JOULES) or 0.0 for t in self._ended())

    def _ahead(self) -> dict[str, float]:
        return dict(self._study.user_attrs.get(_AHEAD, {}))

    def _ended(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))

    def _recover(self) -> None:
        """Close trials whose worker has gone, and ask for their decisions again, `MOST_AGAIN` times."""
        for trial in filterfalse(_lives, self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))):
            try:
                self._study.tell(trial.number, state=TrialState.FAIL)
            except RuntimeError:
                continue  # another worker was faster
            self._ask_again(trial, MOST_AGAIN)

    def _ask_again(self, trial: Trial | FrozenTrial, most: float) -> None:
        """Let the decisions of a trial that came to nothing be taken again, up to so many times."""
        times = int(trial.user_attrs.get(_AGAIN, 0))
        if trial.params and times < most:
            kept = {k: v for k, v in trial.user_attrs.items() if k not in (_BEAT, _WORKER, RECIPE)}
            self._study.enqueue_trial(trial.params, user_attrs=kept | {_AGAIN: times + 1})


def outcome_of(trial: FrozenTrial) -> TrialOutcome:
    """What a trial that has ended came to."""
    return TrialOutcome(trial.value, trial.constraints.get(_GATE, 0.0))


def _as_asked_for(trial: FrozenTrial) -> FixedTrial:
    fixed = FixedTrial(trial.system_attrs["fixed_params"])
    for name, value in trial.user_attrs.items():
        fixed.set_user_attr(name, value)
    return fixed


def _lasted_s(trial: FrozenTrial) -> float:
    """Seconds that a trial took; a worker that died in it may have been found dead only days later."""
    if trial.datetime_start is None or trial.datetime_complete is None:
        return 0.0
    return min(trial.datetime_complete.timestamp(), _heard(trial) + BEAT_S) - trial.datetime_start.timestamp()


class _Mending(JournalFileOpenLock):
    """Optuna's lock of a journal file; whoever holds it appends to whole lines only."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def acquire(self) -> bool:
        """Wait for the lock, then cut off a torn end."""
        held = super().acquire()
        try:
            mend(self._path)
        except OSError:
            self.release()
            raise
        return held


class _Journal(JournalFileBackend):
    """A journal file that was mended when it was opened, and is before every change."""

    def __init__(self, path: Path) -> None:
        self._path, lock = path, _Mending(path)
        super().__init__(str(path), lock)
        lock.acquire()
        lock.release()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """A full disk as an error that names the file."""
        try:
            super().append_logs(logs)
        except OSError as error:
            raise EnvironmentFault(f"{self._path} cannot be written", got=str(error), hint="free some space") from error


def mend(path: Path) -> None:
    """Cut a journal back to its last whole line; only what is torn is read."""
    with path.open("rb+") as file:
        end = whole = file.seek(0, os.SEEK_END)
        while whole and os.pread(file.fileno(), 1, whole - 1) != b"\n":
            whole -= 1
        if whole < end:
            file.truncate(whole)
            os.fsync(file.fileno())


def _opened(where: str | Path) -> BaseStorage:
    """The storage; a database of which workers make the tables at the same time is tried again."""
    for patience in (3.0, 1.0, 0.0):
        try:
            return _storage(where)
        except HalfwattError:
            raise
        except ImportError as error:
            raise EnvironmentFault(f"no driver for {where}", got=str(error), hint="pip install psycopg") from error
        except Exception as error:  # each database has errors of its own
            if not patience:
                raise EnvironmentFault(f"{where} cannot be opened", got=str(error).splitlines()[0]) from error
            time.sleep(patience)
    raise AssertionError("the last one returns or raises")


def _storage(where: str | Path) -> BaseStorage:
    if isinstance(where, str) and "://" in where:
        return RDBStorage(where)
    path = Path(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return JournalStorage(_Journal(path))
    except ValueError as error:  # json's too
        what = f"{path} is damaged: a line in its middle is torn"
        raise BadInput(what, got=str(error), hint="move it away; results stay") from error


def _beat(trial: Trial, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        trial.set_user_attr(_BEAT, time.time())


def _me() -> list[Any]:
    return [socket.gethostname(), os.getpid()]


def _lives(trial: FrozenTrial) -> bool:
    """A worker of this host lives while its process does, one of another while it is heard."""
    host, pid = trial.user_attrs.get(_WORKER, (None, 0))
    if host == socket.gethostname():
        return bool(pid_exists(int(pid)))
    return time.time() - _heard(trial) < SILENT_S


def _heard(trial: FrozenTrial) -> float:
    """When its worker was heard last."""
    began = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
    return float(trial.user_attrs.get(_BEAT, began))
