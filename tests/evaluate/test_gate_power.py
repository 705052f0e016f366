"""The gate's own test, on the demo model: it rejects every damaged copy in the layer meant for it, and never the copy.

A small sample keeps this in seconds; ``benchmarks/gate_selftest.py`` runs it on the whole tune split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from halfwatt import demo
from halfwatt.core.settings import RequestSettings
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.evaluate import requests
from halfwatt.evaluate.records import QualityReport
from halfwatt.evaluate.requests import ChatFormat
from halfwatt.models.chat_model import load
from tests.support import damage as damage
from tests.support.damage import Bench

DIALOGUES = 32
WORDY = ("support", "chitchat")  # long replies and long talks: a few show what a damage does
FIT = 24  # of them are asked about by G7
CAP = 96  # tokens of a reply: some of the damaged never end


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    model = load(demo.path())
    tune = demo.dialogues("tune")
    wordy = [d for d in tune.dialogues if d.source in WORDY]
    few = DialogueSet.of(wordy[:: len(wordy) // DIALOGUES][:DIALOGUES], split="tune", licence=tune.licence)
    workload = requests.make_workload(few, ChatFormat.of_model(model), RequestSettings())
    workload = replace(
        workload, cap=CAP, fit_dialogues=FIT, generation=replace(workload.generation, temperature=0.0)
    )  # greedy: where loops show
    return Bench.of(model, workload, tmp_path_factory.mktemp("gate"))


@pytest.mark.parametrize(("broken", "layer"), damage.DAMAGES, ids=lambda x: getattr(x, "__name__", x))
def test_a_damaged_model_is_rejected(bench: Bench, broken: Callable[[Bench], QualityReport], layer: str) -> None:
    report = broken(bench)
    assert report.verdict == "FAIL"
    assert layer in damage.caught_by(report)


def test_the_same_weights_in_float32_fail_nothing(bench: Bench) -> None:
    report = damage.in_float32(bench)
    assert not damage.caught_by(report)
    assert report.kl_mean is not None
    assert 0 < report.kl_mean < 1e-4


def test_the_model_itself_shows_no_difference_at_all(bench: Bench) -> None:
    """So few dialogues prove little (rates stay open), but nothing may differ and nothing may fail."""
    report = damage.itself(bench)
    assert not damage.caught_by(report)
    assert report.kl_mean == 0
    assert report.top1 == 1
    assert {c.layer for c in report.checks if c.verdict != "PASS"} <= {"G3", "G6", "G7"}
    assert all(c.estimate is None or abs(c.estimate.mean) in (0.0, 1.0) for c in report.checks if c.layer != "G7")


def test_one_that_parrots_the_tenth_does_not_pass(bench: Bench) -> None:
    report = damage.parrots_the_tenth(bench)
    assert report.verdict != "PASS"
    told = [c for c in report.checks if c.layer == "G7"]
    assert any(c.verdict == "FAIL" or c.n_needed or "would prove" in c.detail for c in told)
