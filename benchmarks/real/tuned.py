"""The original fine-tuned on the same dialogues: LoRA on every Linear, as long as a student learned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ladder import plain
from halfwatt.compress.base import TrainingBudget
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.training.batches import Predictor, encode_rows
from halfwatt.compress.training.loop import TrainingSettings, learn_labels, train
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.records import QualityReport
from halfwatt.formats.artifact import read_artifact
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.servable import read_operating_point
from halfwatt.search.build import build_artifact
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.stages import JudgeOrder, MeasureOrder, judge, measure, saving_of

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
        merged = lora.merge_and_unload().eval()
        lineage = (*model.lineage, f"fine-tuned by LoRA of rank {RANK} for {history.steps} steps")
        replace(model, network=merged, lineage=lineage, spent=(*model.spent, history.spent)).save(folder)
    return load(folder)


def judged(lab: Lab, original: Contender, own: ChatModel, winner: Path) -> dict[str, Any]:
    """The fine-tuned original against the original, and the search's winner against the fine-tuned one."""
    proof = lab.workload.dialogues[: lab.job.settings.protocol.parity_dialogues]
    artifact = build_artifact(own, Recipe("tuned"), proof, lab.job.out / "artifacts")
    tuned = Contender("fine-tuned", artifact, OperatingPoint())
    student = Contender("winner", read_artifact(winner), read_operating_point(winner))
    margins = lab.job.settings.margins
    verdicts = {
        "against_the_original": lab.run(judge, JudgeOrder(original, tuned, margins)).report,
        "winner_against_it": lab.run(judge, JudgeOrder(tuned, student, margins)).report,
    }
    run = lab.run(measure, MeasureOrder((tuned, student), lab.job.settings.protocol.paired))
    return {
        "wall_s": own.spent[-1].wall_s,
        "cpu_s": own.spent[-1].cpu_s,
        "cpu_s_ratio_it_over_winner": plain(saving_of("fine-tuned", "winner", run)),
        **{name: _in_short(report) for name, report in verdicts.items()},
    }


def _in_short(report: QualityReport) -> dict[str, Any]:
    missed = [f"{check.layer} {check.name}" for check in report.checks if check.verdict != "PASS"]
    return {"verdict": report.verdict, "not_passed": missed}
