"""`halfwatt verify`: figures are computed again from what was measured, in new files and in those of version 0.1.0.

``tests/data/result_with_modelled_readings.json.gz`` was written by version 0.1.0, commit bbf9d59, on two cores without
a meter, when modelled joules stood among the readings of each window. There:

    taught.folder(into, "gpt2", taught.dialogues()); taught.chats(into, taught.dialogues())          # tests/taught.py
    python -m tests.hasty optimize into/taught-gpt2 -d into/chats.jsonl --max-loss 40% -o into/out --json
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfwatt.core.errors import BadInput
from halfwatt.core.json_records import to_json
from halfwatt.results.result import parse
from halfwatt.results.verify import Verification, verify_file

OLD = Path(__file__).parents[1] / "data" / "result_with_modelled_readings.json.gz"

Record = dict[str, Any]


@pytest.fixture(scope="module")
def old() -> bytes:
    return gzip.decompress(OLD.read_bytes())


def verified(text: bytes | str, folder: Path) -> Verification:
    path = folder / "result.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return verify_file(path)


def without_readings(record: Record) -> Record:
    """As it is written now: what a model gives is no reading, and the model says for how many cores."""
    for window in (*record["raw"]["windows"], *(w for trial in record["raw"]["trials"] for w in trial["windows"])):
        window["readings"].clear()
    record["meters"][0]["cores"] = 2
    return record


def test_a_result_with_modelled_readings_still_verifies(old: bytes, tmp_path: Path) -> None:
    outcome = verified(old, tmp_path)
    assert outcome.differences == ()
    assert (outcome.figures, outcome.windows, outcome.replies) == (1103 + 12 + 3 * 8, 12, 153)  # a reading a window


def test_the_same_figures_follow_without_them(old: bytes, tmp_path: Path) -> None:
    outcome = verified(json.dumps(without_readings(json.loads(old))), tmp_path)
    assert outcome.differences == ()
    assert outcome.figures == 1103


def of_a_cascade(record: Record) -> Record:
    """As if its claim were about one: of both kinds of dialogue the same was read. The claim itself is another then."""
    about = record["claim"]["about"] = "int8"
    mixed = {"share": 0.2, "nats_per_byte": 0.5, "surprisals": [[0.1, 0.6], [0.9]]}
    (trial,) = (trial for trial in record["trials"] if trial["name"] == about)
    (read,) = (read for read in record["raw"]["trials"] if read["trial"] == about)
    trial["mixed"] = mixed | {"quality": json.loads(json.dumps(trial["quality"]))}
    read["other"] = read["quality_inputs"]
    record["mixed"] = mixed | {"quality": json.loads(json.dumps(record["final_quality"]))}
    record["raw"]["other"] = record["raw"]["quality_inputs"]
    return record


def _other_share(record: Record) -> None:
    record["mixed"]["share"] = 0.3


def _other_threshold(record: Record) -> None:
    record["mixed"]["nats_per_byte"] = 0.4


def _other_verdict(record: Record) -> None:
    record["mixed"]["quality"]["checks"][8]["verdict"] = "FAIL"


def _tuned_verdict(record: Record) -> None:
    next(trial for trial in record["trials"] if trial["mixed"])["mixed"]["quality"]["verdict"] = "FAIL"


@pytest.mark.parametrize("change", [_other_share, _other_threshold, _other_verdict, _tuned_verdict])
def test_what_a_cascade_came_to_follows_too(change: Callable[[Record], None], old: bytes, tmp_path: Path) -> None:
    record = of_a_cascade(without_readings(json.loads(old)))
    outcome = verified(json.dumps(record), tmp_path)
    before = {difference.where for difference in outcome.differences}
    assert all(where.startswith("claim.") for where in before), "the test's own doing"
    assert outcome.replies == 2 * 153
    change(record)
    (new,) = {difference.where for difference in verified(json.dumps(record), tmp_path).differences} - before
    assert "mixed" in new


def test_a_cascade_without_its_other_half_is_refused(old: bytes, tmp_path: Path) -> None:
    record = of_a_cascade(without_readings(json.loads(old)))
    del record["raw"]["other"]
    with pytest.raises(BadInput, match="holds no quality readings of the other kind of dialogue"):
        verified(json.dumps(record), tmp_path)
    del record["mixed"]
    with pytest.raises(BadInput, match="holds no verdict on the other kind of dialogue"):
        verified(json.dumps(record), tmp_path)


def test_an_old_result_is_written_as_a_new_one(old: bytes) -> None:
    result = parse(old)
    assert [info.cores for info in result.meters] == [2]
    assert parse(to_json(result)) == result


def _reading(record: Record) -> None:
    record["raw"]["windows"][2]["readings"]["modelled"][1]["joules"] += 0.01


def _figure(record: Record) -> None:
    record["final"][1]["j_per_reply"]["mean"] *= 0.5


def _ratio(record: Record) -> None:
    record["claim"]["energy_ratio_vs_B0"]["lo"] = 11.0


def _cores(record: Record) -> None:
    record["provenance"]["machine"]["cores"] = "64"


@pytest.mark.parametrize(
    ("forge", "where"),
    [
        (_reading, "raw.windows[2].readings.modelled"),
        (_figure, "final.B1.j_per_reply.mean"),
        (_ratio, "claim.energy_ratio_vs_B0.lo"),
        (_cores, "raw.windows[0].readings.modelled"),
    ],
)
def test_a_forged_modelled_figure_is_named(
    old: bytes, tmp_path: Path, forge: Callable[[Record], None], where: str
) -> None:
    record = json.loads(old)
    forge(record)
    assert where in [d.where for d in verified(json.dumps(record), tmp_path).differences]


def _bytes(record: Record) -> None:
    record["raw"]["windows"][0]["usage"][1]["bytes_b"] += 10**9


def _model(record: Record) -> None:
    record["meters"][0]["cores"] = 64


@pytest.mark.parametrize("forge", [_figure, _bytes, _model])
def test_modelled_figures_are_recomputed_from_what_the_windows_used(
    old: bytes, tmp_path: Path, forge: Callable[[Record], None]
) -> None:
    record = without_readings(json.loads(old))
    forge(record)
    places = [d.where for d in verified(json.dumps(record), tmp_path).differences]
    assert f"final.{'B0' if forge is _bytes else 'B1'}.j_per_reply.mean" in places
    assert not [where for where in places if "cpu_s" in where]


def test_a_model_of_unknown_cores_is_refused(old: bytes) -> None:
    record = json.loads(old)
    del record["provenance"]["machine"]["cores"]
    with pytest.raises(BadInput, match=r"damaged at provenance\.machine\.cores"):
        parse(json.dumps(record))


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r["raw"].update(trials=[]),
        lambda r: [w.update(replies=0) for w in r["raw"]["windows"]],
    ],
)
def test_a_result_without_the_readings_of_its_figures_is_refused(
    old: bytes, tmp_path: Path, damage: Callable[[Record], Any]
) -> None:
    record = json.loads(old)
    damage(record)
    with pytest.raises(BadInput, match="is damaged"):
        verified(json.dumps(record), tmp_path)


def test_forged_baselines_are_named(old: bytes, tmp_path: Path) -> None:
    record = json.loads(old)
    record["baselines"]["B1"]["energy"]["cpu_s_per_reply"]["mean"] *= 10
    assert [d.where for d in verified(json.dumps(record), tmp_path).differences] == [
        "baselines.B1.energy.cpu_s_per_reply.mean"
    ]


def test_a_b0_that_was_taken_out_is_missed(old: bytes, tmp_path: Path) -> None:
    record = json.loads(old)
    record["baselines"]["B0"] = None
    assert "baselines.B0" in [difference.where for difference in verified(json.dumps(record), tmp_path).differences]
