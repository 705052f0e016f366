"""Verbs that do one step: prune, trim, distil and quantize. Interrupted, the same call goes on from its checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from halfwatt import pipeline
from halfwatt.chat_model import ChatModel, torch_device
from halfwatt.dialogue import DialogueSet
from halfwatt.errors import BadInput
from halfwatt.files import locked
from halfwatt.inputs import Options, chosen, for_training, load_model, scratch
from halfwatt.pipeline import Speech
from halfwatt.recipe import Recipe
from halfwatt.records import Artifact, Made
from halfwatt.steps.available import learns
from halfwatt.steps.base import Step, StepContext
from halfwatt.workload import Instruments, instruments


def transform(
    model: str,
    step: Step,
    out: Path,
    dialogues: str | Path | DialogueSet | None,
    teacher: Path | None,
    options: Options,
) -> Made:
    """Apply one step and write the model folder.

    Args:
        dialogues: what the step reads or learns from; None = the demo's training split, for the demo model only.
        teacher: the model to distil from; None = ``model`` itself.

    Raises:
        ModelError: the step does not fit the model. BadInput: ``out`` exists already, or there are no dialogues.
        TrainingDiverged: a loss or gradient is not finite.
    """
    with _new(out, model, step, options) as (loaded, context):
        original = loaded if teacher is None else load_model(str(teacher), options.access)
        told = for_training(model, dialogues).dialogues
        made = pipeline.apply(step, loaded, replace(context, dialogues=told, original=original))
        made.save(out)
    sizes = tuple(sum(p.numel() for p in m.network.parameters()) for m in (loaded, made))
    return Made(out, (sizes[0], sizes[1]), made.lineage, made.spent)


def quantize_to(
    model: str, out: Path, step: Step, dialogues: str | Path | DialogueSet | None, options: Options
) -> Artifact:
    """Quantize, export for llama.cpp and prove the export on ``dialogues`` (None = the demo's).

    Raises:
        ModelError: the model cannot be used, or the export is not what was computed in memory.
        BadInput: ``out`` exists already.
    """
    with _new(out, model, step, options) as (loaded, context), scratch(out.parent) as cache:
        options.progress("quantizing, exporting and proving the export")
        traffic = pipeline.traffic(chosen(model, dialogues), Speech.by(loaded))
        told = () if dialogues is None and model != "demo" else for_training(model, dialogues).dialogues
        context = replace(context, dialogues=told, original=loaded, shared=None)
        artifact = pipeline.build(loaded, Recipe("quantized", (step,)), traffic.dialogues, cache, "cpu", context)
        artifact.path.rename(out)
    return replace(artifact, path=out)


@contextmanager
def _new(out: Path, model: str, step: Step, options: Options) -> Iterator[tuple[ChatModel, StepContext]]:
    """The model, and where its step works, which lies beside ``out`` until that is there. What trains is metered."""
    if out.exists():
        raise BadInput(f"{out} exists already", hint="choose another -o folder")
    device, work = str(torch_device(options.access.trains_on())), out.parent / f".{out.name}.training"
    loaded = load_model(model, options.access)
    tools = instruments(device, rapl_root=options.rapl_root) if learns(step) else Instruments(None)
    with locked(out.parent), closing(tools):
        yield (
            loaded,
            StepContext(
                work=work,
                shared=work,
                device=device,
                precision=options.precision,
                seed=options.seed,
                meter=tools.primary,
                progress=options.progress,
            ),
        )
        shutil.rmtree(work, ignore_errors=True)
