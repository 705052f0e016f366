"""One piece of work after another, spread over serving processes of one spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import Queue
from typing import TypeVar

from halfwatt.core.machine import cores
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec

Item = TypeVar("Item")
T = TypeVar("T")


def in_processes(spec: ServingSpec, items: Sequence[Item], compute: Callable[[ServingProcess, Item], T]) -> Iterator[T]:
    """What ``compute`` gives for each item, in order; as many processes as their threads leave cores for."""
    idle: Queue[ServingProcess] = Queue()

    def with_idle(item: Item) -> T:
        process = idle.get()
        try:
            return compute(process, item)
        finally:
            idle.put(process)

    count = min(max(1, cores() // (spec.at.threads or cores())), len(items))
    with ExitStack() as stack:
        for _ in range(count):
            idle.put(stack.enter_context(ServingProcess(spec)))
        executor = stack.enter_context(ThreadPoolExecutor(max(1, count)))
        yield from executor.map(with_idle, items)
