"""Joules and CPU-seconds per reply from windows whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from halfwatt.core.errors import BadInput, MeterError
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.records import Phase, Window
from halfwatt.meters.base import MeterInfo, Reading, Usage
from halfwatt.meters.modelled import DERIVED, INFO

RAPL = MeterInfo("rapl", "cpu", "measured", "B", "cpu", "the rest", 0.001, 6e-5, 0.0)
MODELLED = replace(INFO, cores=1)


def window(
    arm: str, block: int, joules: float, *, phase: Phase = "reply", cpu_s: float = 1.0, replies: int = 10
) -> Window:
    """Ten seconds by ``RAPL``, and of so many bytes that the model gives the same joules."""
    start = 100.0 * block
    bytes_b = round((joules - DERIVED.static_w * 10 - DERIVED.active_w * cpu_s) / DERIVED.j_per_byte)
    return Window(
        arm=arm,
        block=block,
        phase=phase,
        start_s=start,
        end_s=start + 10,
        readings={"rapl": (Reading(start, 50.0), Reading(start + 10, 50.0 + joules))},
        usage=(Usage(5.0, 7.0, 100), Usage(5.0 + cpu_s, 17.0, 100 + bytes_b)),
        replies=replies,
        tokens_in=60 * replies,
        tokens_out=20 * replies,
        passes=1,
    )


def blocks(arm: str, joules: Callable[[int], float], count: int = 4) -> list[Window]:
    return [window(arm, b, joules(b)) for b in range(count)]


def test_figures_per_reply() -> None:
    found = energy_analysis.measurement("A", blocks("A", lambda b: 300.0 + b), RAPL)
    assert found.j_per_reply is not None
    assert found.j_per_reply.mean == pytest.approx(30.15)
    assert found.j_per_token is not None
    assert found.j_per_token.mean == pytest.approx(30.15 / 20)
    assert found.watts is not None
    assert found.watts.mean == pytest.approx(30.15)
    assert found.cpu_s_per_reply.mean == pytest.approx(0.1)
    assert found.s_per_reply.mean == pytest.approx(1.0)
    assert (found.tokens_per_reply.mean, found.tokens_in_per_reply.mean) == (20, 60)
    assert found.j_per_reply_net is None  # idle was not measured


def test_net_is_gross_without_the_loaded_idle() -> None:
    idle = replace(window("", -1, 120.0, phase="loaded_idle", replies=0), block=-1)
    found = energy_analysis.measurement("A", [*blocks("A", lambda b: 300.0), idle], RAPL)
    assert found.j_per_reply_net is not None
    assert found.j_per_reply_net.mean == pytest.approx((300 - 12.0 * 10) / 10)


def test_prefill_and_decode_are_told_apart() -> None:
    prefill = [window("A", b, 90.0 + b, phase="prefill") for b in range(4)]
    found = energy_analysis.measurement("A", [*blocks("A", lambda b: 300.0 - b), *prefill], RAPL)
    assert found.j_prefill is not None
    assert found.j_decode is not None
    assert found.j_prefill.mean == pytest.approx(9.15)
    assert found.j_decode.mean == pytest.approx(29.85 - 9.15)
    assert found.j_decode.lo < 20.7 < found.j_decode.hi


def test_without_a_meter_energy_is_absent_not_zero() -> None:
    found = energy_analysis.measurement("A", blocks("A", lambda b: 300.0), None)
    assert (found.grade, found.kind, found.meter) == ("F", None, None)
    assert found.j_per_reply is None
    assert found.j_per_token is None
    assert found.cpu_s_per_reply.mean == pytest.approx(0.1)


def test_discarded_windows_count_nowhere() -> None:
    disturbed = replace(window("A", 0, 9000.0, cpu_s=99.0), discarded=True, taints=("load",))
    found = energy_analysis.measurement("A", [*blocks("A", lambda b: 300.0), disturbed], RAPL)
    assert found.j_per_reply is not None
    assert found.j_per_reply.mean == pytest.approx(30.0)
    assert (found.windows, found.discarded) == (4, 1)


def test_an_arm_without_a_clean_window_is_refused() -> None:
    with pytest.raises(BadInput, match="no clean window"):
        energy_analysis.measurement("A", [replace(window("A", 0, 1.0), discarded=True)], RAPL)


@pytest.mark.parametrize("joules", [0.0, -3.0])
def test_a_counter_that_stood_still_or_fell_is_an_error(joules: float) -> None:
    with pytest.raises(MeterError, match="stuck"):
        energy_analysis.measurement("A", blocks("A", lambda b: joules), RAPL)


def test_a_window_of_few_updates_resolves_nothing() -> None:
    slow = replace(RAPL, period_s=1.0)
    with pytest.raises(MeterError, match="unresolved"):
        energy_analysis.energy_ratio("A", "B", [*blocks("A", lambda b: 9.0), *blocks("B", lambda b: 9.0)], slow)


def test_drift_that_both_arms_share_cancels_in_the_ratio() -> None:
    run = [*blocks("A", lambda b: 200.0 * (1 + b)), *blocks("B", lambda b: 100.0 * (1 + b))]
    found = energy_analysis.energy_ratio("A", "B", run, RAPL)
    assert found is not None
    assert (found.mean, found.lo, found.hi) == pytest.approx((2.0, 2.0, 2.0))


def test_mirrored_windows_cancel_a_linear_drift() -> None:
    order = ["A", "B", "B", "A"]
    run = [window(arm, block, 100.0 + 5 * at) for block in range(3) for at, arm in enumerate(order)]
    found = energy_analysis.energy_ratio("A", "B", run, RAPL)
    assert found is not None
    assert found.mean == pytest.approx(1.0)


def test_only_blocks_that_hold_both_arms_are_compared() -> None:
    run = [*blocks("A", lambda b: 200.0), *blocks("B", lambda b: 100.0, count=1)]
    with pytest.raises(BadInput, match="two or more are needed"):
        energy_analysis.energy_ratio("A", "B", run, RAPL)


def test_a_modelled_ratio_carries_the_models_error() -> None:
    run = [*blocks("A", lambda b: 200.0), *blocks("B", lambda b: 100.0)]
    found = energy_analysis.energy_ratio("A", "B", run, MODELLED)
    assert found is not None
    assert (found.lo, found.hi) == pytest.approx((2 / 1.5, 2 * 1.5))


def test_without_a_counter_joules_are_modelled_from_what_the_window_used() -> None:
    used = replace(window("A", 0, 0.0), readings={}, usage=(Usage(5.0, 7.0, 100), Usage(8.0, 17.0, 2 * 10**9 + 100)))
    expected = 1.87 * 4 * 10.0 + 2.33 * 3.0 + 100e-12 * 2e9
    assert energy_analysis.window_joules(used, replace(INFO, cores=4)) == pytest.approx(expected)


def test_a_modelled_share_of_a_counter_is_read_not_computed() -> None:
    share = replace(RAPL, kind="modelled", grade="D")  # of a host's RAPL, as a guest sees it
    assert energy_analysis.window_joules(window("A", 0, 300.0), share) == pytest.approx(300.0)
