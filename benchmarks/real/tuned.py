"""The original fine-tuned on the same dialogues: LoRA on every Linear, as long as a student learned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ladder import gate_row, plain
from benchmarks.peers.field import Field, not_passed, proof_of, read, where_asked
from halfwatt.compress.base import TrainingBudget
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.training.batches import Predictor, encode_rows
from halfwatt.compress.training.loop import TrainingSettings, learn_labels, train
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.energy_analysis import cpu_s_per_reply, ratio
from halfwatt.evaluate.examine import require_equal
from halfwatt.evaluate.gate import EDITION, overall_verdict, statistical_checks
from halfwatt.evaluate.records import GateCheck, QualityInputs, TeacherScore
from halfwatt.evaluate.saving_explained import cpu_s_per_token
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.search.build import build_artifact
from halfwatt.search.lab import Lab
from halfwatt.search.stages import MeasureOrder, likelihood, measure

RANK, ALPHA, RATE = 16, 32, 2e-4  # Hu et al., arXiv 2106.09685; the rate that peft's examples take for LoRA


def fine_tune(model: ChatModel, dialogues: Sequence[Dialogue], minutes: float, folder: Path, lab: Lab) -> ChatModel:
    """Learned once, then read; the adapters are merged into the weights."""
    if not folder.exists():
        from peft import LoraConfig, get_peft_model

        network: Any = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
        lora = get_peft_model(network, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
        rows = encode_rows(dialogues, model.tokenizer, 512)
        context = replace(lab.job.step_context(), budget=TrainingBudget(minutes=minutes))
        history = train(Predictor(network), learn_labels, rows, TrainingSettings(RATE, epochs=100.0), context)
        merged: Any = lora.merge_and_unload().eval()
        lineage = (*model.lineage, f"fine-tuned by LoRA of rank {RANK} for {history.steps} steps")
        replace(model, network=merged, lineage=lineage, spent=(*model.spent, history.spent)).save(folder)
    return load(folder)


def judged(field: Field, own: ChatModel) -> dict[str, Any]:
    """The fine-tuned original against the original, and the search's winner against the fine-tuned one, on dialogues
    of which the search's reading is known."""
    lab, search = field.lab, field.asked
    assert search is not None, "a search ends with a verdict"
    artifact = build_artifact(own, Recipe("tuned"), proof_of(lab), lab.job.out / "artifacts")
    require_equal(artifact, lab.job.settings.margins)
    tuned = field.serve("fine-tuned", artifact)
    theirs = read(field, tuned)
    scores = lab.part(0, field.judged).run(likelihood, (tuned.for_likelihood(), field.winner.for_likelihood()))
    verdicts = {"against_the_original": theirs, "winner_against_it": beside(theirs, search, scores)}
    special, margins = lab.job.model.tokenizer.special_tokens, lab.job.settings.margins
    run = lab.run(measure, MeasureOrder((tuned, field.winner), lab.job.settings.protocol.paired))
    return {
        "edition": EDITION,
        "wall_s": own.spent[-1].wall_s,
        "cpu_s": own.spent[-1].cpu_s,
        "cpu_s_ratio_it_over_winner": plain(ratio(tuned.name, field.winner.name, run.windows, cpu_s_per_reply)),
        "of_it_a_token": plain(ratio(tuned.name, field.winner.name, run.windows, cpu_s_per_token)),
        **{name: _in_short(statistical_checks(inputs, margins, special)) for name, inputs in verdicts.items()},
    }


def beside(tuned: QualityInputs, winner: QualityInputs, scores: tuple[TeacherScore, ...]) -> QualityInputs:
    """Both were read beside the original, on the same dialogues; now the second beside the first, as a judge saw them.

    scores: of the first's and the second's likelihoods
    """
    pairs = list(zip(where_asked(tuned), where_asked(winner), strict=True))
    assert all((one.dialogue, one.turn) == (other.dialogue, other.turn) for one, other in pairs)
    fit = tuple(replace(one, reference=one.candidate, candidate=other.candidate) for one, other in pairs)
    return replace(winner, teacher=scores, replies_ref=tuned.replies_cand, fit=fit)


def _in_short(checks: Sequence[GateCheck]) -> dict[str, Any]:
    return {
        "verdict": overall_verdict([check.verdict for check in checks]),
        "not_passed": not_passed(checks),
        "gate": [gate_row(check) for check in checks],
    }
