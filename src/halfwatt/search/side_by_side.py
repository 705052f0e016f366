"""Students taught at the same time, where there are cores for several: one alone does not keep many busy.

Nothing is measured meanwhile. What is built is kept, so that its trial goes on with the first look at it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue

from halfwatt.compress.recipe import Recipe
from halfwatt.compress.search_ranges import Chooser
from halfwatt.core.machine import cores
from halfwatt.search.candidate import order_of
from halfwatt.search.lab import Lab
from halfwatt.search.stages import build
from halfwatt.search.trial_store import TrialStore

CORES_A_STUDENT = 4


def lanes(students: int, available: int) -> int:
    """How many of so many students are taught at once.

    >>> lanes(9, 2), lanes(9, 16), lanes(3, 64)
    (1, 4, 3)
    """
    return max(1, min(students, available // CORES_A_STUDENT))


def teach_side_by_side(lab: Lab, store: TrialStore, propose: Callable[[Chooser], Recipe]) -> None:
    """Build what waits for its trial and learns, if several can be at once; else each is built in its own trial.

    propose: a recipe from the decisions of a trial
    """
    students = list(_students(store, propose))
    count, start_s = lanes(len(students), cores()), time.monotonic()
    if count == 1 or lab.job.name is None:
        return
    own = replace(lab, threads=cores() // count)
    with lab.job.turn(), lab.store.cost.training():
        in_lanes([lambda r=recipe: own.run(build, order_of(own, r)) for recipe in students], count)  # type: ignore[misc]
    store.note_ahead([recipe.name for recipe in students], time.monotonic() - start_s)


def _students(store: TrialStore, propose: Callable[[Chooser], Recipe]) -> Iterator[Recipe]:
    for trial in store.waiting():
        with suppress(ValueError):  # of which the sampler will decide something
            recipe = propose(trial)
            if any(step.trains for step in recipe.steps):
                yield recipe


def in_lanes(tasks: Sequence[Callable[[], object]], count: int) -> None:
    """Do all tasks, ``count`` at a time; raises the first of their errors, once the others have ended.

    Daemon threads, which an interrupted search does not wait for: their processes end with it.
    """
    waiting, errors = SimpleQueue[Callable[[], object]](), list[BaseException]()
    for task in tasks:
        waiting.put(task)

    def lane() -> None:
        while not errors:
            try:
                waiting.get_nowait()()
            except Empty:
                return
            except BaseException as error:  # noqa: BLE001 - raised again where the tasks were ordered
                errors.append(error)

    threads = [threading.Thread(target=lane, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
