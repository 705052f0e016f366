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
from halfwatt.results.payback import ledger, payback, paybacks
from halfwatt.results.report import formatting
from halfwatt.results.result import Result
from halfwatt.results.tables import arms
from halfwatt.results.verify import verify_file
from halfwatt.search.trial import Trial
from tests.support import example_results as results

SPENT = Cost(tokens=1000, wall_s=50.0, cpu_s=100.0, bytes_b=10**12)


def measured(cpu_s: float, joules: float | None, meter: str | None = "rapl") -> Measurement:
    """One arm with tight intervals."""
    like = arms(results.make("measured"))["B1"]
    made = None if joules is None else Estimate(joules, joules * 0.99, joules * 1.01, "J/reply", 7)
    cpu = Estimate(cpu_s, cpu_s * 0.99, cpu_s * 1.01, "CPU-s/reply", 7)
    kind = None if meter is None else "modelled" if meter == "modelled" else "measured"
    return replace(like, meter=meter, kind=kind, cpu_s_per_reply=cpu, j_per_reply=made)  # type: ignore[arg-type]


def trained(result: Result, spent: Cost) -> Result:
    """The same result, its int8 and int4 candidates trained."""

    def given(trial: Trial) -> Trial:
        own = (spent,) if trial.name in ("int8", "int4") else ()
        return trial if trial.artifact is None else replace(trial, artifact=replace(trial.artifact, spent=own))

    return replace(result, trials=tuple(map(given, result.trials)))


def test_replies_until_the_training_is_repaid() -> None:
    found = payback("small", (SPENT, SPENT), (measured(0.05, 2.0), measured(0.01, 0.5)), cores=2, info=None)
    assert found.tokens == 2000
    assert found.cpu_s == 200
    assert found.replies_by_cpu_s is not None
    assert found.replies_by_cpu_s.mean == pytest.approx(200 / 0.04)
    assert found.replies_by_cpu_s.lo < 5000 < found.replies_by_cpu_s.hi
    assert found.joules is None, "no meter saw the training"
    assert found.replies_by_joules is None


def test_joules_count_where_one_meter_saw_both() -> None:
    seen = replace(SPENT, joules=300.0, meter="rapl")
    pair = (measured(0.05, 2.0), measured(0.01, 0.5))
    found = payback("small", (seen,), pair, cores=2, info=None)
    assert (found.joules, found.kind) == (300.0, "measured")
    assert found.replies_by_joules is not None
    assert found.replies_by_joules.mean == pytest.approx(200)
    assert payback("small", (seen, SPENT), pair, cores=2, info=None).joules is None, "a part of it went unseen"
    other = payback("small", (replace(seen, meter="nvml:0"),), pair, cores=2, info=None)
    assert (other.joules, other.kind, other.replies_by_joules) == (300.0, "measured", None), "two meters, no quotient"


def test_modelled_replies_are_repaid_by_modelled_training() -> None:
    found = payback(
        "small", (SPENT,), (measured(0.05, 2.0, "modelled"), measured(0.01, 0.5, "modelled")), cores=2, info=INFO
    )
    expected = DERIVED.static_w * 2 * 50 + DERIVED.active_w * 100 + DERIVED.j_per_byte * 1e12
    assert found.joules == pytest.approx(expected)
    assert found.kind == "modelled"
    assert found.replies_by_joules is not None
    assert found.replies_by_joules.hi > 1.4 * found.replies_by_joules.mean, "the model's own error of a ratio"


@pytest.mark.parametrize("joules", [None, 300.0])
def test_what_was_trained_on_a_gpu_is_not_weighed_against_cpu_seconds_or_modelled_joules(joules: float | None) -> None:
    elsewhere = replace(SPENT, device="cuda", joules=joules, meter="nvml:0" if joules else None)
    pair = (measured(0.05, 2.0, "modelled"), measured(0.01, 0.5, "modelled"))
    found = payback("small", (SPENT, elsewhere) if joules is None else (elsewhere,), pair, cores=2, info=INFO)
    assert (found.cpu_s, found.replies_by_cpu_s, found.replies_by_joules) == (None, None, None)
    assert (found.joules, found.kind) == (joules, joules and "measured")
    assert "no measure that both have" in formatting.price(found)


def test_what_saves_nothing_for_certain_is_never_repaid() -> None:
    found = payback("same", (SPENT,), (measured(0.05, None, None), measured(0.0499, None, None)), cores=2, info=None)
    assert found.replies_by_cpu_s is None
    assert found.replies_by_joules is None
    assert "no number of replies" in formatting.price(found)


@pytest.mark.parametrize("energy", ["modelled", "measured", "none"])
def test_of_a_result_only_what_was_trained_has_a_price(energy: results.Energy) -> None:
    assert [p.trial for p in paybacks(results.make(energy))] == ["int4"]
    found = paybacks(trained(results.make(energy), SPENT))
    assert [p.trial for p in found] == ["int8", "int4"]
    saved = [p.replies_by_cpu_s.mean for p in found if p.replies_by_cpu_s]
    assert saved[0] > saved[1], "int4 saves more, so the same training is repaid sooner"
    lines = [formatting.price(p) for p in found]
    assert all("1,000 tokens" in line and "100 CPU-s" in line for line in lines)
    assert all(("modelled" in line) == (energy == "modelled") for line in lines)
    assert all(" J" not in line for line in lines), "modelled joules are never stated, and no meter saw these"


def test_the_ledger_charges_the_whole_search_to_the_one_that_won() -> None:
    """Every candidate's training, not only the winner's, and all that was made, measured and judged."""
    result = replace(trained(results.make("modelled"), SPENT), took=Cost(cpu_s=900.0, wall_s=1000.0))
    found = ledger(result)
    assert found is not None
    assert (found.search_s, found.training_s, found.joules) == (900.0, 100.0, None), "int8 and int4 share one training"
    final = arms(result)
    saved = final["B1"].cpu_s_per_reply.mean - final["winner"].cpu_s_per_reply.mean
    assert found.replies is not None
    assert found.replies.mean == pytest.approx(1000 / saved)
    assert [due.replies_per_hour for due in found.due] == [100, 1000, 10_000]
    assert found.due[0].days.mean == pytest.approx(1000 / saved / 2400)
    assert result.profile is not None
    said = ledger(replace(result, profile=replace(result.profile, replies_per_hour=250.0)))
    assert said is not None
    assert [due.replies_per_hour for due in said.due] == [250]
    assert "days at 250 an hour" in formatting.cost_of_search(said)
    assert "CPU-s of training" in formatting.cost_of_search(found)
    elsewhere = ledger(replace(trained(result, replace(SPENT, device="cuda")), took=result.took))
    assert elsewhere is not None
    assert elsewhere.training_s is None
    assert elsewhere.replies is not None
    assert elsewhere.replies.mean == pytest.approx(900 / saved)
    assert "another device" in formatting.cost_of_search(elsewhere)


def test_without_a_tally_or_a_winner_there_is_no_ledger() -> None:
    result = results.make("modelled")
    assert ledger(replace(result, took=None)) is None, "an older result does not tell what it took"
    told = replace(result, took=Cost(cpu_s=1.0), claim=replace(result.claim, about="B1"))
    assert ledger(told) is None


def test_a_changed_ledger_is_found(tmp_path: Path) -> None:
    """The readings of this result are made up, so that its gate's figures do not follow from them; the ledger does."""
    told = results.make("modelled")
    assert told.repaid is not None
    assert told.repaid.replies is not None

    def wrong(result: Result) -> list[str]:
        (tmp_path / "result.json").write_bytes(to_json(result).encode())
        found = verify_file(tmp_path / "result.json").differences
        return [difference.where for difference in found if difference.where.startswith("repaid")]

    assert wrong(told) == []
    assert wrong(replace(told, repaid=replace(told.repaid, search_s=1.0))) == ["repaid.search_s"]
    fewer = replace(told.repaid.replies, mean=told.repaid.replies.mean * 0.99)
    assert wrong(replace(told, repaid=replace(told.repaid, replies=fewer))) == ["repaid.replies.mean"]
