"""What the user gets: the winner's folder, ``result.json``, ``report.html``. Written last, each whole or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from halfwatt.compress.recipe import to_toml
from halfwatt.core.errors import BadInput
from halfwatt.core.files import new_folder, write_atomic
from halfwatt.core.json_records import to_json
from halfwatt.evaluate.records import ScoredReply
from halfwatt.evaluate.requests import Workload, workload_profile
from halfwatt.formats.artifact import ARTIFACT
from halfwatt.meters.discover import findings
from halfwatt.results.payback import ledger
from halfwatt.results.provenance import Provenance
from halfwatt.results.report.card import licence_of, model_card
from halfwatt.results.report.html import render_html
from halfwatt.results.result import SCHEMA, Baselines, Example, Raw, Result
from halfwatt.runtimes.servable import write_operating_point
from halfwatt.search.job import Job
from halfwatt.search.optimize import Outcome

WINNER, RECIPE = "winner", "recipe.toml"
EXAMPLES = 8


def deliver(outcome: Outcome, job: Job, made: Provenance) -> Result:
    """Write everything into the job's folder and return what was written.

    Raises:
        BadInput: the winner's artifact is gone.
    """
    found = _result(outcome, job, made)
    result = replace(found, repaid=ledger(found))
    _copy_winner(outcome, job.out / WINNER, model_card(result, licence=licence_of(job.model.source)))
    write_atomic(job.out / "report.html", render_html(result).encode())
    write_atomic(job.out / "result.json", to_json(result).encode())  # last: its presence says that the rest is there
    return result


def _result(outcome: Outcome, job: Job, made: Provenance) -> Result:
    unavailable = [f for f in findings(rapl_root=job.settings.rapl_root) if not f.available]
    return Result(
        schema=SCHEMA,
        provenance=made,
        meters=outcome.final.meters,
        unavailable=tuple(unavailable),
        baselines=Baselines(outcome.selection.b0, outcome.selection.b1),
        trials=tuple(c.trial for c in outcome.selection.candidates),
        winner=outcome.delivered.name,
        winner_path=WINNER,
        final=outcome.measured,
        final_quality=outcome.quality,
        claim=outcome.claim,
        margins=job.settings.margins,
        raw=Raw(
            windows=outcome.final.windows,
            quality_inputs=outcome.inputs,
            special_tokens=job.model.tokenizer.special_tokens,
            trials=tuple(c.readings for c in outcome.selection.candidates),
        ),
        events=(*outcome.notes, *outcome.final.events),
        examples=_examples(outcome, outcome.test),
        outside=outcome.outside,
        profile=workload_profile(outcome.test, job.settings.search.users, job.settings.search.replies_per_hour),
        took=outcome.cost,
    )


def _examples(outcome: Outcome, test: Workload) -> tuple[Example, ...]:
    """Greedy replies side by side, spread evenly over the test split: not picked."""
    pairs = zip(outcome.inputs.replies_ref, outcome.inputs.replies_cand, strict=True)
    greedy = [(ref, cand) for ref, cand in pairs if ref.seed is None]
    by_id = {d.id: d for d in test.dialogues}
    step = max(1, len(greedy) // EXAMPLES)

    def example(ref: ScoredReply, cand: ScoredReply) -> Example:
        return Example(by_id[ref.dialogue].before(ref.turn), ref.text, cand.text)

    return tuple(example(*pair) for pair in greedy[::step][:EXAMPLES])


def _copy_winner(outcome: Outcome, to: Path, card: str) -> None:
    """The artifact, how it was made and is served, and its card, as one folder that can be moved anywhere."""
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
