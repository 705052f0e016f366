"""Training against what it saves: the formula, the meters that may be mixed, and what is never repaid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.core.estimate import Estimate
from halfwatt.core.json_records import to_json
from halfwatt.evaluate.records import Measurement
from halfwatt.meters.cost import Cost
from halfwatt.meters.modelled import DERIVED, INFO
from halfwatt.results.payback import Ledger, ledger, payback
from halfwatt.results.report import formatting
from halfwatt.results.result import Result
from halfwatt.results.tables import arms
from halfwatt.results.verify import verify_file
from tests.support import example_results as results

SPENT = Cost(tokens=1000, wall_s=50.0, cpu_s=100.0, bytes_b=10**12)


def measured(cpu_s: float, joules: float | None, meter: str | None = "rapl") -> Measurement:
    """One arm with tight intervals."""
    like = arms(results.make("measured"))["B1"]
    energy = None if joules is None else Estimate(joules, joules * 0.99, joules * 1.01, "J/reply", 7)
    cpu = Estimate(cpu_s, cpu_s * 0.99, cpu_s * 1.01, "CPU-s/reply", 7)
    kind = None if meter is None else "modelled" if meter == "modelled" else "measured"
    return replace(like, meter=meter, kind=kind, cpu_s_per_reply=cpu, j_per_reply=energy)  # type: ignore[arg-type]


def test_replies_until_the_training_is_repaid() -> None:
    paid = payback("small", (SPENT, SPENT), (measured(0.05, 2.0), measured(0.01, 0.5)), cores=2, info=None)
    assert paid.tokens == 2000
    assert paid.cpu_s == 200
    assert paid.replies_by_cpu_s is not None
    assert paid.replies_by_cpu_s.mean == pytest.approx(200 / 0.04)
    assert paid.replies_by_cpu_s.lo < 5000 < paid.replies_by_cpu_s.hi
    assert paid.joules is None, "no meter saw the training"
    assert paid.replies_by_joules is None


def test_joules_count_where_one_meter_saw_both() -> None:
    seen = replace(SPENT, joules=300.0, meter="rapl")
    pair = (measured(0.05, 2.0), measured(0.01, 0.5))
    paid = payback("small", (seen,), pair, cores=2, info=None)
    assert (paid.joules, paid.kind) == (300.0, "measured")
    assert paid.replies_by_joules is not None
    assert paid.replies_by_joules.mean == pytest.approx(200)
    assert payback("small", (seen, SPENT), pair, cores=2, info=None).joules is None, "a part of it went unseen"
    other = payback("small", (replace(seen, meter="nvml:0"),), pair, cores=2, info=None)
    assert (other.joules, other.kind, other.replies_by_joules) == (300.0, "measured", None), "two meters, no quotient"


def test_modelled_replies_are_repaid_by_modelled_training() -> None:
    paid = payback(
        "small", (SPENT,), (measured(0.05, 2.0, "modelled"), measured(0.01, 0.5, "modelled")), cores=2, info=INFO
    )
    expected = DERIVED.static_w * 2 * 50 + DERIVED.active_w * 100 + DERIVED.j_per_byte * 1e12
    assert paid.joules == pytest.approx(expected)
    assert paid.kind == "modelled"
    assert paid.replies_by_joules is not None
    assert paid.replies_by_joules.hi > 1.4 * paid.replies_by_joules.mean, "the model's own error of a ratio"


@pytest.mark.parametrize("joules", [None, 300.0])
def test_what_was_trained_on_a_gpu_is_not_compared_with_cpu_seconds_or_modelled_joules(joules: float | None) -> None:
    elsewhere = replace(SPENT, device="cuda", joules=joules, meter="nvml:0" if joules else None)
    pair = (measured(0.05, 2.0, "modelled"), measured(0.01, 0.5, "modelled"))
    paid = payback("small", (SPENT, elsewhere) if joules is None else (elsewhere,), pair, cores=2, info=INFO)
    assert (paid.cpu_s, paid.replies_by_cpu_s, paid.replies_by_joules) == (None, None, None)
    assert (paid.joules, paid.kind) == (joules, joules and "measured")
    assert "no measure that both have" in formatting.payback_line(paid)


def test_what_saves_nothing_for_certain_is_never_repaid() -> None:
    paid = payback("same", (SPENT,), (measured(0.05, None, None), measured(0.0499, None, None)), cores=2, info=None)
    assert paid.replies_by_cpu_s is None
    assert paid.replies_by_joules is None
    assert "no number of replies" in formatting.payback_line(paid)


def of(result: Result, cost: Cost | None, replies_per_hour: float | None = None) -> Ledger | None:
    """The ledger of a result whose search had this cost."""
    return ledger(result.claim.about, result.trials, result.final, cost, replies_per_hour)


def test_the_ledger_charges_the_whole_search_to_the_one_that_won() -> None:
    """Every candidate's training, not only the winner's, and all that was built, measured and judged."""
    result, cost = results.trained(results.make("modelled"), SPENT), Cost(cpu_s=900.0, wall_s=1000.0)
    whole = of(result, cost)
    assert whole is not None
    assert whole.about == "int4"
    assert (whole.search_s, whole.training_s, whole.joules) == (900.0, 100.0, None), "int8 and int4 share one training"
    final = arms(result)
    saved = final["B1"].cpu_s_per_reply.mean - final["winner"].cpu_s_per_reply.mean
    assert whole.replies is not None
    assert whole.replies.mean == pytest.approx(1000 / saved)
    assert [due.replies_per_hour for due in whole.due] == [100, 1000, 10_000]
    assert whole.due[0].days.mean == pytest.approx(1000 / saved / 2400)
    assert "CPU-s of training" in formatting.ledger_line(whole)
    at_250 = of(result, cost, 250.0)
    assert at_250 is not None
    assert [due.replies_per_hour for due in at_250.due] == [250]
    assert "days at 250 an hour" in formatting.ledger_line(at_250)
    elsewhere = of(results.trained(result, replace(SPENT, device="cuda")), cost)
    assert elsewhere is not None
    assert elsewhere.training_s is None
    assert elsewhere.replies is not None
    assert elsewhere.replies.mean == pytest.approx(900 / saved)
    assert "another device" in formatting.ledger_line(elsewhere)


def test_what_saves_nothing_has_a_ledger_without_days() -> None:
    result = results.make("modelled")
    same = replace(result, final=(arms(result)["B1"], replace(arms(result)["B1"], arm="winner")))
    never = of(same, Cost(cpu_s=900.0))
    assert never is not None
    assert (never.replies, never.due) == (None, ())
    assert "no number of replies" in formatting.ledger_line(never)


def test_without_a_cost_or_a_winner_there_is_no_ledger() -> None:
    result = results.make("modelled")
    assert of(result, None) is None, "an older result does not tell what it took"
    assert of(replace(result, claim=replace(result.claim, about="B1")), Cost(cpu_s=1.0)) is None


def test_a_changed_ledger_is_noticed(tmp_path: Path) -> None:
    """The readings of this result are invented, so that its gate's figures do not follow from them; the ledger does."""
    result = results.make("modelled")
    assert result.repaid is not None
    assert result.repaid.replies is not None

    def differences(changed: Result) -> list[str]:
        (tmp_path / "result.json").write_bytes(to_json(changed).encode())
        every = verify_file(tmp_path / "result.json").differences
        return [difference.where for difference in every if difference.where.startswith("repaid")]

    assert differences(result) == []
    assert differences(replace(result, repaid=replace(result.repaid, search_s=1.0))) == ["repaid.search_s"]
    fewer = replace(result.repaid.replies, mean=result.repaid.replies.mean * 0.99)
    assert differences(replace(result, repaid=replace(result.repaid, replies=fewer))) == ["repaid.replies.mean"]
