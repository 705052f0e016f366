"""What serving took, divided: equal parts of all of it among those who were served, no joules after a fault."""

from __future__ import annotations

import threading
import time

import pytest

from halfwatt.core.errors import MeterError
from halfwatt.meters.base import MeterInfo, Reading
from halfwatt.meters.discover import Instruments
from halfwatt.meters.shares import Shares, Spent, Turnstile

COUNTER = MeterInfo("rapl", "cpu", "measured", "B", "the package", "the rest", 0.0, 0.0)


class Counter:
    """Ten joules between two looks; it breaks after so many."""

    info = COUNTER

    def __init__(self, looks: int = 1000) -> None:
        self.looks, self.joules = looks, 0.0

    def read(self) -> Reading:
        self.looks -= 1
        if self.looks < 0:
            raise MeterError("the counter fell")
        self.joules += 10
        return Reading(0.0, self.joules)

    def close(self) -> None:
        """Nothing."""


def test_equal_parts_and_all_of_it() -> None:
    moved = iter(range(0, 10_000, 600))
    shares, one, two = Shares(Instruments(Counter())), Spent(), Spent()
    shares.add(lambda: next(moved))
    shares.settle([one, two])
    shares.settle([one])
    shares.settle([])
    assert (one.joules, two.joules, shares.idle.joules) == (15, 5, 10)
    assert (one.bytes_b, two.bytes_b, shares.idle.bytes_b) == (900, 300, 600)
    assert shares.serving.joules == 20
    assert one.cpu_s + two.cpu_s == pytest.approx(shares.serving.cpu_s)
    assert one.wall_s + two.wall_s == pytest.approx(shares.serving.wall_s)


def test_a_counter_that_breaks_leaves_no_joules_and_says_why() -> None:
    shares, early, late = Shares(Instruments(Counter(looks=3))), Spent(), Spent()
    shares.add(lambda: 0)
    shares.settle([early])
    assert early.joules == 10
    shares.settle([early, late])
    shares.settle([late])
    assert [spent.joules for spent in (early, late, shares.serving)] == [None] * 3
    assert late.cpu_s > 0
    assert "fell" in shares.fault


def test_modelled_ones_add_up_too() -> None:
    from dataclasses import replace

    from halfwatt.meters import modelled

    shares, one = Shares(Instruments(None, model=replace(modelled.INFO, cores=2))), Spent()
    shares.add(lambda: 0)
    end_s = time.process_time() + 0.05
    while time.process_time() < end_s:
        pass
    shares.settle([one])
    assert one.joules == pytest.approx(2 * 1.87 * one.wall_s + 2.33 * one.cpu_s)


def test_nothing_that_measures_is_no_joules() -> None:
    shares, one = Shares(Instruments(None)), Spent()
    shares.settle([one])
    assert one.joules is None


def test_turns_are_taken_in_the_order_of_arrival() -> None:
    """One who takes the next turn at once does not keep the other out."""
    turn, order, begun = Turnstile(), list[str](), threading.Event()

    def greedy() -> None:
        for _ in range(20):
            with turn:
                begun.set()
                time.sleep(0.002)
                order.append("greedy")

    thread = threading.Thread(target=greedy)
    thread.start()
    begun.wait()
    for _ in range(5):
        with turn:
            order.append("other")
    thread.join()
    assert order.index("other") <= 2
    assert max(i for i, who in enumerate(order) if who == "other") <= 12
