"""Verbs that do one step: prune, trim, distil and quantize. Interrupted, the same call goes on from its checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from halfwatt.api.inputs import Dialogues, dialogue_set, dialogues_to_ask, scratch
from halfwatt.compress.apply import apply_recipe, apply_step
from halfwatt.compress.base import Step as Step
from halfwatt.compress.base import StepContext, require
from halfwatt.compress.distil import Distil as Distil
from halfwatt.compress.prune import Prune as Prune
from halfwatt.compress.quantize.qat import TrainOnGrid as TrainOnGrid
from halfwatt.compress.quantize.quantize import Quantize as Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.compress.training.team import ALONE, Team, together
from halfwatt.compress.vocabulary_trim import Trim as Trim
from halfwatt.core.errors import BadInput
from halfwatt.core.files import locked
from halfwatt.core.settings import RunSettings
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.evaluate.examine import require_equal
from halfwatt.evaluate.requests import ChatFormat, make_workload
from halfwatt.formats.artifact import Artifact, write_artifact
from halfwatt.formats.registry import load_model
from halfwatt.meters.discover import Instruments, instruments
from halfwatt.models.access import training_device
from halfwatt.models.chat_model import ChatModel, torch_device
from halfwatt.results.result import TransformedModel
from halfwatt.search.build import asking, export

_MAY_NOT_FIT = 8  # times as many dialogues as an export is proved on are looked at: some are longer than the context


def transform(
    model: str, step: Step, out: Path, dialogues: Dialogues, teacher: Path | None, settings: RunSettings
) -> TransformedModel | None:
    """Apply one step and write the model folder; None in all but the first of several processes that learn together.

    Args:
        dialogues: what the step reads or learns from; None = the demo's training split, for the demo model only.
        teacher: the model to distil from; None = ``model`` itself.

    Raises:
        ModelError: the step does not fit the model. BadInput: ``out`` exists already, or there are no dialogues.
        TrainingDiverged: a loss or gradient is not finite.
    """
    with _new(out, step, settings, several=step.trains) as (context, workers):
        lessons = dialogue_set(model, dialogues, "train", settings).dialogues
        before = load_model(model, settings.access)
        original = before if teacher is None else load_model(str(teacher), settings.access)
        ask = asking(original, settings.access.device)
        context = replace(context, dialogues=lessons, original=original, asking=ask)
        about = Recipe("", (step,)).fingerprint(f"{before.sha256} {original.sha256}", context.fingerprint)
        after = apply_step(step, before, replace(context, checkpoints=_own(context.checkpoints, about)))
        if workers.first:
            after.save(out)
    if not workers.first:
        return None
    sizes = (before.network.num_parameters(), after.network.num_parameters())
    return TransformedModel(out, sizes, after.lineage, after.spent)


def quantize_to(model: str, out: Path, step: Step, dialogues: Dialogues, settings: RunSettings) -> Artifact:
    """Quantize, export for llama.cpp and prove the export on ``dialogues`` (None = the demo's).

    Raises:
        ModelError: the model cannot be used. ExportDiffers: the export is not what was computed in memory; it is not
        kept. BadInput: ``out`` exists already.
    """
    with _new(out, step, settings) as (context, _), scratch(out.parent) as cache:
        settings.progress("quantizing, exporting and proving the export")
        product, proof = _quantized(model, step, dialogues, context)
        artifact = export(product, proof, cache / out.name)
        require_equal(artifact, settings.margins)
        write_artifact(artifact, artifact.path)
        artifact.path.rename(out)
    return replace(artifact, path=out)


def _quantized(
    model: str, step: Step, dialogues: Dialogues, context: StepContext
) -> tuple[ChatModel, tuple[Dialogue, ...]]:
    """The product, and dialogues to prove its export on; by itself, so that what it was made of is not kept beside it.

    To nearest, the memory holds the model as it is stored and its integers, and no weight in 32 bits.
    """
    settings = context.settings
    traffic = dialogues_to_ask(model, dialogues, settings)
    original = load_model(model, settings.access)
    proved = settings.protocol.parity_dialogues
    some = traffic.subset(traffic.dialogues[: _MAY_NOT_FIT * proved])
    workload = make_workload(some, ChatFormat.of_model(original), settings.requests)
    if dialogues is not None or model == "demo":
        context = replace(context, dialogues=dialogue_set(model, dialogues, "train", settings).dialogues)
    proof = workload.dialogues[:proved]
    if not isinstance(step, Quantize):
        return apply_recipe(original, Recipe("quantized", (step,)), context), proof
    require(step, original)
    return step.integers(original, context), proof


def _own(work: Path | None, about: str) -> Path | None:
    """Where this very run's checkpoints are. Raises BadInput where another run's are."""
    if work is None:
        return None
    if any(path.is_dir() and path.name != about for path in work.glob("*")):
        what = f"{work} holds an interrupted run with other settings, models or dialogues, or of another version"
        raise BadInput(what, hint="give the same again to go on with it, remove it, or choose another -o folder")
    return work / about


@contextmanager
def _new(out: Path, step: Step, settings: RunSettings, *, several: bool = False) -> Iterator[tuple[StepContext, Team]]:
    """Where a step works, which lies beside ``out`` until that is there, and with whom; several: processes
    may share it. What trains is metered, unless several do: a meter does not tell them apart."""
    if out.exists():
        raise BadInput(f"{out} exists already", hint="choose another -o folder")
    device, work = str(torch_device(training_device(settings.access))), out.parent / f".{out.name}.training"
    with together(device) if several else nullcontext(ALONE) as workers:
        own = settings if workers.first else replace(settings, progress=lambda _: None)
        metered = step.trains and workers.size == 1
        tools = instruments(device, rapl_root=settings.rapl_root) if metered else Instruments(None)
        context = StepContext(settings=own, device=device, meter=tools.primary, cache=work, checkpoints=work)
        with locked(work) if workers.first else nullcontext(), closing(tools):
            yield context, workers
            if workers.first:
                shutil.rmtree(work, ignore_errors=True)
