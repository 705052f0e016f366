"""What the user gets: the winner's folder, ``report.html``, ``result.json``. Written last, each whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from halfwatt.compress.recipe import to_toml
from halfwatt.core.errors import BadInput
from halfwatt.core.files import new_folder, write_atomic
from halfwatt.core.json_records import to_json
from halfwatt.evaluate.records import QualityInputs
from halfwatt.evaluate.requests import Workload, workload_profile
from halfwatt.formats.artifact import ARTIFACT, home_of
from halfwatt.meters.discover import findings
from halfwatt.results.payback import ledger
from halfwatt.results.provenance import Provenance
from halfwatt.results.report.card import licence_of, model_card
from halfwatt.results.report.html import render_html
from halfwatt.results.result import SCHEMA, Baselines, Example, Raw, Result
from halfwatt.runtimes.base import write_operating_point
from halfwatt.search.job import Job
from halfwatt.search.optimize import Outcome

WINNER, RECIPE = "winner", "recipe.toml"
EXAMPLES = 8


def write_results(outcome: Outcome, job: Job, provenance: Provenance) -> Result:
    """Write everything into the job's folder and return what stands in result.json.

    Raises:
        BadInput: the winner's artifact is gone.
    """
    result = _make_result(outcome, job, provenance)
    _copy_winner(outcome, job.out / WINNER, model_card(result, licence=licence_of(home_of(job.model.source))))
    write_atomic(job.out / "report.html", render_html(result).encode())
    write_atomic(job.out / "result.json", to_json(result).encode())  # last: its presence says that the rest is there
    return result


def _make_result(outcome: Outcome, job: Job, provenance: Provenance) -> Result:
    selection, final, search = outcome.selection, outcome.final, job.settings.search
    trials = tuple(candidate.trial for candidate in selection.candidates)
    return Result(
        schema=SCHEMA,
        provenance=provenance,
        meters=final.meters,
        unavailable=tuple(f for f in findings(rapl_root=job.settings.rapl_root) if not f.available),
        baselines=Baselines(selection.b0, selection.b1),
        trials=trials,
        winner=outcome.delivered.name,
        winner_path=WINNER,
        final=outcome.measured,
        final_quality=outcome.quality,
        claim=outcome.claim,
        margins=job.settings.margins,
        raw=Raw(
            windows=final.windows,
            quality_inputs=outcome.inputs,
            special_tokens=job.model.tokenizer.special_tokens,
            trials=tuple(candidate.readings for candidate in selection.candidates),
            other=outcome.other,
        ),
        events=(*outcome.notes, *final.events),
        examples=_examples(outcome.inputs, outcome.test),
        outside=outcome.outside,
        profile=workload_profile(outcome.traffic, search.users, search.replies_per_hour),
        took=outcome.cost,
        plan=outcome.plan,
        mixed=outcome.mixed,
        repaid=ledger(outcome.claim.about, trials, outcome.measured, outcome.cost, search.replies_per_hour),
    )


def _examples(inputs: QualityInputs, test: Workload) -> tuple[Example, ...]:
    """Greedy replies side by side, spread evenly over the test split: not picked."""
    pairs = zip(inputs.replies_ref, inputs.replies_cand, strict=True)
    greedy = [(ref, cand) for ref, cand in pairs if ref.seed is None]
    by_id = {dialogue.id: dialogue for dialogue in test.dialogues}
    step = max(1, len(greedy) // EXAMPLES)
    return tuple(
        Example(by_id[ref.dialogue].before(ref.turn), ref.text, cand.text) for ref, cand in greedy[::step][:EXAMPLES]
    )


def _copy_winner(outcome: Outcome, to: Path, card: str) -> None:
    """The artifact, its recipe and operating point, and its card, as one folder that can be moved anywhere."""
    trial = outcome.delivered
    if trial.artifact is None or not (trial.artifact.path / ARTIFACT).exists():
        raise BadInput(f"the artifact of {trial.name} is gone", hint="remove the output folder and run again")
    if to.exists():  # from a run that was interrupted after this point
        shutil.rmtree(to)
    with new_folder(to) as part:
        shutil.copytree(trial.artifact.path, part, dirs_exist_ok=True)
        write_operating_point(part, trial.at)
        if outcome.recipe.steps:
            (part / RECIPE).write_text(to_toml(outcome.recipe), encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")
