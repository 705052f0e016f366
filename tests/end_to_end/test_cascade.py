"""A student in front of its original, from a recipe to what serves, measures and talks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from halfwatt.dialogues.dialogue import Dialogue, Message
from tests.support import command_line as typed
from tests.support import taught_students as taught
from tests.support.whole_runs import halfwatt, read

WEATHER = ("rain", "snow", "sun", "wind", "fog", "hail", "frost", "storm")
TOWNS = ("Oslo", "Turin", "Porto", "Ghent", "Minsk", "Split", "Ulm", "Cork")
RECIPE = """name = "student"
[[step]]
use = "prune"
drop = 1
[[step]]
use = "distil"
epochs = 40
lr = 4e-3
batch_tokens = 1024
label_weight = 1.0
"""


def other_kind() -> list[Dialogue]:
    """About something else, in other words."""
    talks = ((f"Any {what} coming to {town} soon", f"No {what} for {town}.") for what in WEATHER for town in TOWNS)
    return [Dialogue(f"w{n}", (Message("user", q), Message("assistant", a))) for n, (q, a) in enumerate(talks)]


class Run(NamedTuple):
    """What a run left."""

    out: Path
    result: dict[str, Any]
    cascade: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, own = tmp_path_factory.mktemp("cascade"), taught.dialogues()
    other = other_kind()
    model = taught.folder(folder, "llama", [*own, *other], taught.School(steps=200))
    (folder / "other").mkdir()
    (folder / "student.toml").write_text(RECIPE)
    files = taught.chats(folder, own), taught.chats(folder / "other", other)
    out = folder / "out"
    line: list[str | Path] = ["optimize", model, "-d", files[0], "--outside", files[1], "--cascade", "45%"]
    line += ["--max-loss", "40%"]
    done = halfwatt(*line, "--recipe", folder / "student.toml", "-o", out, "--json")
    assert done.returncode in (0, 1), done.stderr
    (cascade,) = (out / "artifacts").glob("cascade-*")
    return Run(out, read(out), cascade)


def trial_of(run: Run) -> dict[str, Any]:
    trials: list[dict[str, Any]] = [trial for trial in run.result["trials"] if trial["mixed"]]
    return trials[-1]


def test_it_is_judged_on_both_kinds_and_measured_on_their_mixture(run: Run) -> None:
    trial, alone = trial_of(run), run.result["trials"][0]
    assert trial["name"].startswith("student, before the original, up to ")
    assert trial["mixed"]["share"] == 0.45
    assert {c["verdict"] for c in trial["quality"]["checks"] if c["layer"] == "G0"} == {"PASS"}
    assert trial["mixed"]["quality"]["split"] == "tune, the other kind"
    assert trial["mixed"]["quality"]["verdict"] != "FAIL", "the original answers what the student was not taught"
    own, other = trial["mixed"]["surprisals"]
    limit = trial["mixed"]["nats_per_byte"]
    assert sum(s > limit for s in own) <= 0.5 * len(own)
    assert sum(s > limit for s in other) > 0.9 * len(other)
    assert alone["mixed"] is None
    (read,) = (read for read in run.result["raw"]["trials"] if read["trial"] == trial["name"])
    own_said, other_said = (
        {r["reference"] for r in read[kind]["replies_cand"]} for kind in ("quality_inputs", "other")
    )
    assert own_said.isdisjoint(other_said)


def test_its_figures_follow_from_the_readings(run: Run, tmp_path: Path) -> None:
    assert typed.halfwatt("verify", run.out / "result.json").returncode == 0
    changed = json.loads((run.out / "result.json").read_text())
    trial = next(trial for trial in changed["trials"] if trial["mixed"])
    trial["mixed"]["quality"]["verdict"] = "PASS" if trial["mixed"]["quality"]["verdict"] != "PASS" else "FAIL"
    (tmp_path / "result.json").write_text(json.dumps(changed))
    done = typed.halfwatt("verify", tmp_path / "result.json")
    assert done.returncode == 1
    assert "mixed.quality.verdict" in done.stdout


def test_other_verbs_know_it_as_one_artifact(run: Run) -> None:
    talk = halfwatt("chat", run.cascade, "--json", stdin="Turn on the fan in the bath\nAny hail coming to Oslo soon\n")
    assert talk.returncode == 0, talk.stderr
    replies = [json.loads(line)["reply"] for line in talk.stdout.splitlines() if '"reply"' in line]
    assert replies[0].startswith("Turning on the ")
    assert len(replies) == 2
    compared = typed.halfwatt("compare", run.cascade, run.cascade, "--json")
    assert compared.returncode == 2
    assert "a cascade is no reference; name its original in its place" in compared.stderr


def test_what_has_to_be_said_for_it(run: Run, tmp_path: Path) -> None:
    line: list[str | Path] = ["optimize", "demo", "-o", tmp_path / "out"]
    nobody = typed.halfwatt(*line, "--cascade", "20%")
    assert nobody.returncode == 2
    assert "--cascade puts a student in front; pass --budget 60m, so that there is one, or --recipe" in nobody.stderr
    line += ["--budget", "10m"]
    done = typed.halfwatt(*line, "--cascade", "20%")
    assert done.returncode == 2
    assert "--cascade needs dialogues of another kind; pass --outside FILE" in done.stderr
    assert "--cascade is a share between 0 and 95 %" in typed.halfwatt(*line, "--cascade", "0").stderr
    few = typed.halfwatt(*line, "--cascade", "20%", "--outside", taught.chats(tmp_path, other_kind()[:20]))
    assert "too few dialogues for traffic with 20% of another kind (found: " in few.stderr
    assert "; give more dialogues: 14 of each are the least in a part that judges" in few.stderr
    assert not (tmp_path / "out").exists()
