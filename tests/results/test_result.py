from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.core.estimate import Estimate
from halfwatt.core.json_records import from_json, to_json
from halfwatt.results import result, tables
from halfwatt.results.result import Result
from tests.support import example_results as results


@pytest.fixture(scope="module")
def modelled() -> Result:
    return results.make("modelled")


@pytest.fixture(scope="module")
def measured() -> Result:
    return results.make("measured")


def test_a_result_survives_json(modelled: Result) -> None:
    assert result.parse(to_json(modelled)) == modelled
    assert from_json(to_json(modelled), Result) == modelled


def test_the_file_keeps_its_contract(modelled: Result, measured: Result) -> None:
    found = json.loads(to_json(modelled))
    assert found["schema"] == 1
    assert set(found["baselines"]) == {"B0", "B1"}
    assert {t["name"] for t in found["trials"]} >= {"int8", "int4 + int8 head", "int4"}
    assert found["winner"] == "int4"
    assert found["raw"]["windows"][0]["usage"]
    assert found["raw"]["windows"][0]["readings"] == {}, "modelled joules are computed, not read"
    assert list(json.loads(to_json(measured))["raw"]["windows"][0]["readings"]) == ["rapl"]
    assert any(w["discarded"] and w["taints"] for w in found["raw"]["windows"])
    claim = found["claim"]
    assert claim["verdict"] == "PASS"
    assert claim["grade"] == "E"
    for what in ("cpu_s_ratio_vs_B0", "cpu_s_ratio_vs_B1", "energy_ratio_vs_B0", "energy_ratio_vs_B1"):
        assert claim[what]["lo"] < claim[what]["mean"] < claim[what]["hi"]


def test_other_files_are_refused(modelled: Result) -> None:
    text = json.loads(to_json(modelled))
    with pytest.raises(BadInput, match="not a result"):
        result.parse("[1, 2]")
    with pytest.raises(BadInput, match="not a result"):
        result.parse("{")
    with pytest.raises(BadInput, match="schema 1"):
        result.parse(json.dumps(text | {"schema": 99}))
    with pytest.raises(BadInput, match="damaged at winner"):
        result.parse(json.dumps(text | {"winner": 7}))


def test_rows_come_from_the_run_that_they_name(measured: Result) -> None:
    rows = {row.trial.name: row for row in tables.rows(measured)}
    assert list(rows) == ["B0", "B1", "int8", "int4 + int8 head", "int4", "int2", "int6"]
    final, tune = rows["int4"], rows["int8"]
    assert (final.run, tune.run) == ("final", "tune")
    assert final.energy is tables.arms(measured)["winner"]
    assert tune.energy is measured.trials[0].energy
    assert final.quality is measured.final_quality
    assert [name for name, row in rows.items() if row.winner] == ["int4"]
    assert rows["int2"].energy is None


def test_shares_of_b1_turn_the_ratios_over(measured: Result) -> None:
    rows = {row.trial.name: row for row in tables.rows(measured)}
    ratio, share = measured.claim.energy_ratio_vs_B1, rows["int4"].energy_vs_B1
    assert ratio is not None
    assert share is not None
    assert share.mean == pytest.approx(1 / ratio.mean)
    assert share.lo == pytest.approx(1 / ratio.hi)
    assert share.lo < share.mean < share.hi
    b0 = rows["B0"].energy_vs_B1
    of_b0 = measured.claim.energy_ratio_vs_B0
    assert b0 is not None
    assert of_b0 is not None
    assert b0.mean == pytest.approx(of_b0.mean / ratio.mean, rel=1e-6)
    assert rows["B1"].energy_vs_B1 is None


def test_a_refused_candidate_is_not_the_winner() -> None:
    failed = results.make("measured", "FAIL")
    rows = {row.trial.name: row for row in tables.rows(failed)}
    assert rows["B1"].winner
    assert not rows["int4"].winner
    assert rows["int4"].run == "final"
    assert tables.delivered(failed).name == "B1"
    assert tables.champion(failed).name == "int4"


def test_a_model_states_no_joules(modelled: Result, measured: Result) -> None:
    assert [tables.absolute_joules(m) for m in modelled.final] == [None, None, None]
    assert all(tables.absolute_joules(m) is not None for m in measured.final)
    replayed = replace(measured.final[0], kind="replayed")
    assert tables.absolute_joules(replayed) == measured.final[0].j_per_reply


def test_duty_cycle_adds_the_idle_that_was_read(measured: Result, modelled: Result) -> None:
    assert tables.idle_watts(measured) == pytest.approx(results.IDLE_W)
    winner = next(d for d in tables.duty_cycle(measured) if d.arm == "winner")
    net = tables.arms(measured)["winner"].j_per_reply_net
    assert net is not None
    for rate, joules in zip(tables.duties(measured), winner.j_per_reply, strict=True):
        assert joules == pytest.approx(net.mean + results.IDLE_W * 3600 / rate)
    assert tables.duty_cycle(modelled) == ()
    assert tables.idle_watts(modelled) is None


def test_idle_is_told_at_the_replies_an_hour_that_the_user_said(measured: Result) -> None:
    assert measured.profile is not None
    said = replace(measured, profile=replace(measured.profile, replies_per_hour=150.0))
    assert tables.duties(said) == (1.0, 10.0, 150.0, 1000.0), "100 is too near to be told apart on the drawing"
    assert [len(line.j_per_reply) for line in tables.duty_cycle(said)] == [4, 4, 4]


def test_duty_cycle_is_absent_where_one_copy_cannot_serve(measured: Result) -> None:
    slow = replace(tables.arms(measured)["B0"], s_per_reply=Estimate(30.0, 29.0, 31.0, "s/reply", 7))
    lines = tables.duty_cycle(replace(measured, final=(slow,)))
    assert lines[0].j_per_reply[2] is not None  # 100 replies take 3000 s
    assert lines[0].j_per_reply[3] is None


def test_phases_add_up_to_the_reply(measured: Result, modelled: Result) -> None:
    for found, unit in ((measured, "J"), (modelled, "CPU-s")):
        for phase in tables.phases(found):
            m = tables.arms(found)[phase.arm]
            whole = m.j_per_reply if unit == "J" else m.cpu_s_per_reply
            assert phase.unit == unit
            assert whole is not None
            assert phase.prefill.mean + phase.decode.mean == pytest.approx(whole.mean)


def test_timeline_keeps_discarded_windows_apart(modelled: Result) -> None:
    points = tables.timeline(modelled)
    assert set(points) == {"B0", "B1", "winner"}
    clean = [p.share for p in points["B1"] if not p.discarded]
    assert math.fsum(clean) / len(clean) == pytest.approx(1.0)
    dropped = [p for p in points["B1"] if p.discarded]
    assert len(dropped) == 2
    assert all(p.share > 1.1 for p in dropped)
    assert [w.taints for w in tables.disturbed(modelled)] == [("foreign CPU load 12% of the machine",)] * 2


def test_without_a_meter_nothing_is_said_about_energy() -> None:
    found = results.make("none")
    assert tables.meter(found) is None
    assert [row.energy_vs_B1 for row in tables.rows(found)] == [None] * 7
    assert found.claim.energy_ratio_vs_B1 is None
