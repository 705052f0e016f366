from __future__ import annotations

import json

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.core.json_records import from_json, to_json
from halfwatt.results import result
from halfwatt.results.result import Result
from tests.support import example_results as results


@pytest.fixture(scope="module")
def modelled() -> Result:
    return results.make("modelled")


def test_a_result_survives_json(modelled: Result) -> None:
    assert result.parse(to_json(modelled)) == modelled
    assert from_json(to_json(modelled), Result) == modelled


def test_the_file_keeps_its_contract(modelled: Result) -> None:
    record = json.loads(to_json(modelled))
    assert record["schema"] == 5
    assert set(record["baselines"]) == {"B0", "B1"}
    assert {t["name"] for t in record["trials"]} >= {"int8", "int4 + int8 head", "int4"}
    assert record["winner"] == "int4"
    assert record["raw"]["windows"][0]["usage"]
    assert record["raw"]["windows"][0]["readings"] == {}, "modelled joules are computed, not read"
    assert list(json.loads(to_json(results.make("measured")))["raw"]["windows"][0]["readings"]) == ["rapl"]
    assert any(w["discarded"] and w["taints"] for w in record["raw"]["windows"])
    claim = record["claim"]
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
    with pytest.raises(BadInput, match="schema 1 to 5"):
        result.parse(json.dumps(text | {"schema": 99}))
    with pytest.raises(BadInput, match="damaged at winner"):
        result.parse(json.dumps(text | {"winner": 7}))
