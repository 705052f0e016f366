"""The Python face: load, quantize, measure, compare, optimize. The command line calls exactly these.

>>> import halfwatt as hw                                                           # doctest: +SKIP
>>> result = hw.optimize("my_model", "chats.jsonl", max_loss=0.01, out="out")       # doctest: +SKIP
>>> result.claim.verdict, result.claim.energy_ratio_vs_B1                           # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from halfwatt import demo
from halfwatt.api.inputs import Dialogues, dialogues_to_ask, other_kind, outside_dialogues, splits, workplace
from halfwatt.api.quantized_model import Quantized
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe, default_recipes, read_recipe
from halfwatt.core.errors import BadInput
from halfwatt.core.files import locked
from halfwatt.core.settings import Access, Budget, RunSettings, RuntimeChoice
from halfwatt.dialogues.dialogue import DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.energy_protocol import Arm
from halfwatt.evaluate.energy_protocol import measure as run_protocol
from halfwatt.evaluate.examine import Yardstick, examine
from halfwatt.evaluate.gate import judge
from halfwatt.evaluate.requests import ChatFormat, Workload, make_workload
from halfwatt.formats.artifact import home_of
from halfwatt.formats.registry import load_model
from halfwatt.models.access import model_source
from halfwatt.models.chat_model import ChatModel, outline
from halfwatt.models.grid import Bits, ScaleSearch
from halfwatt.results.provenance import provenance
from halfwatt.results.result import Comparison, Measured, Result
from halfwatt.results.write import write_results
from halfwatt.runtimes.cascade import Cascading
from halfwatt.runtimes.servable import servable
from halfwatt.runtimes.serving_process import ServingSpec
from halfwatt.search import predict
from halfwatt.search.budget import parse_budget
from halfwatt.search.hardware import TABLE, find
from halfwatt.search.job import Job
from halfwatt.search.optimize import optimize as run_search
from halfwatt.search.predict import PredictionTable
from halfwatt.search.served import judging, proved, served, with_own_template

__all__ = ["compare", "load", "measure", "optimize", "plan", "quantize"]


def load(
    model: str | Path, *, chat_template: Path | None = None, dtype: str = "auto", offline: bool = False
) -> ChatModel:
    """A Hugging Face folder or hub id, a .gguf file, or "demo".

    Args:
        chat_template: a file with the Jinja template, instead of the model's own.

    Raises:
        ModelError: it cannot be used. EnvironmentFault: it cannot be reached.
    """
    return load_model(str(model), Access(dtype=dtype, offline=offline, chat_template=chat_template))


def quantize(
    model: str | Path | ChatModel,
    bits: Bits = 8,
    *,
    head_bits: Bits | None = None,
    embedding_bits: Bits = 8,
    scale_search: ScaleSearch = "mse",
) -> Quantized:
    """Put every Linear, the embedding and the head on the int8 or int4 grid; ``fit`` trains what comes back, on it.

    Raises:
        ModelError: the model cannot be used or quantized; every reason is named.
    """
    model = model if isinstance(model, ChatModel) else load(model)
    return Quantized(model, Quantize(bits, head_bits, embedding_bits, scale_search))


def optimize(
    model: str | Path | ChatModel,
    dialogues: Dialogues = None,
    *,
    max_loss: float | None = None,
    budget: str | Budget | None = None,
    out: str | Path = "out",
    settings: RunSettings | None = None,
) -> Result:
    """Find the form of ``model`` that answers ``dialogues`` as well for the fewest joules, and prove it.

    Args:
        dialogues: a file or set; None = the demo's own, for the demo model only.
        max_loss: the perplexity that may be lost, 0.01 = 1 %; None = the settings' margin, 2 %.
        budget: what a search may cost, in place of the ladder: "10m", "500kJ", "20" trials.
        out: the folder for result.json, report.html and the winner. A run that was interrupted there goes on.
        settings: everything else; `SearchSettings` says what may be tried, and for whom.

    Raises:
        BadInput: unusable input. RunLocked: ``out`` is in use. EnvironmentFault: nothing could be measured here.
    """
    name = str(model.source if isinstance(model, ChatModel) else model)
    name = str(home_of(Path(name))) if Path(name).is_file() else name
    settings, folder = _for_search(name, max_loss, budget, settings or RunSettings()), Path(out)
    with locked(folder), workplace(settings) as (settings, _, tools):
        parts, search = splits(name, dialogues, settings), settings.search
        outside = outside_dialogues(dialogues, settings)
        ladder = default_recipes() if search.budget is None else ()  # a search takes its place
        job = Job(
            model=model if isinstance(model, ChatModel) else load_model(name, settings.access),
            tune=parts["tune"],
            test=SealedSplit(parts["test"], folder / "stages" / "test-opened.json"),
            out=folder,
            tools=tools,
            settings=settings,
            train=parts["train"],
            outside=outside,
            other=other_kind(dialogues, parts, settings, folder / "stages" / "test-opened-other.json"),
            recipes=ladder if search.recipe is None else (read_recipe(search.recipe),),
            name=None if isinstance(model, ChatModel) or search.budget is None else name,
        )
        read_from = "given in Python" if isinstance(dialogues, DialogueSet) else str(dialogues or "demo")
        other = {} if job.other is None else job.other.hashes
        origin = provenance(settings, name, job.model.sha256, read_from, *parts.values(), other=other)
        return write_results(run_search(job), job, origin)


def measure(
    model: str | Path,
    dialogues: Dialogues = None,
    *,
    runtime: RuntimeChoice = "auto",
    settings: RunSettings | None = None,
) -> Measured:
    """What one model or artifact uses per reply on this machine.

    Raises:
        BadInput, EnvironmentFault: as for `optimize`.
    """
    with workplace(settings) as (settings, cache, tools):
        traffic = dialogues_to_ask(str(model), dialogues, settings)
        spec = served(str(model), settings, cache, runtime, traffic.dialogues)
        workload = _workload(traffic, spec, settings)
        run = run_protocol([Arm("model", spec)], workload, settings.protocol.alone, tools, settings.progress)
    return Measured(
        provenance=provenance(settings, str(model), spec.artifact.sha256, traffic.split, traffic),
        meters=run.meters,
        artifact=spec.artifact,
        at=spec.at,
        measurement=energy_analysis.measurement("model", run.windows, run.meter),
        windows=run.windows,
        notes=(*workload.notes, *run.events),
    )


def compare(
    reference: str | Path,
    candidate: str | Path,
    dialogues: Dialogues = None,
    *,
    max_loss: float | None = None,
    runtime: RuntimeChoice = "auto",
    settings: RunSettings | None = None,
) -> Comparison:
    """Energy and quality of two models or artifacts, paired: A is the reference, B the candidate.

    Raises:
        BadInput, EnvironmentFault: as for `optimize`.
    """
    names = (str(reference), str(candidate))
    with workplace(settings) as (settings, cache, tools):
        traffic = dialogues_to_ask(names[0], dialogues, settings)
        a = served(names[0], settings, cache / "a", runtime, traffic.dialogues)
        if a.artifact.runtime == Cascading.name:
            raise BadInput("a cascade is no reference", hint="name its original in its place, and it as the candidate")
        b = with_own_template(settings, lambda own: servable(names[1], own.access, cache / "b", runtime))
        judged_by = (
            judging(settings.judge, settings, cache / "judge", traffic.dialogues)
            if settings.judge
            else served(names[0], settings, cache / "judge", "llamacpp", traffic.dialogues)
        )
        workload = _workload(traffic, a, settings)
        judged = workload.shuffled().part(0, settings.requests.compared)
        b = proved(names[1], b, settings, judged.dialogues)  # whether it is equal, the gate says; may write it anew
        plan = settings.protocol.compare
        run = run_protocol([Arm("A", a), Arm("B", b)], workload, plan, tools, settings.progress)
        yardstick = Yardstick.of(a, judged_by, judged, settings.progress, "A's replies")
        inputs = examine(yardstick, b, judged, settings.progress)
    margins, special = settings.margins.with_max_loss(max_loss), workload.tokenizer.special_tokens
    quality = judge(inputs, split=traffic.split, margins=margins, special=special, seed=settings.seed)
    return Comparison(
        provenance=provenance(settings, " against ".join(names), a.artifact.sha256, traffic.split, traffic),
        meters=run.meters,
        artifacts=(a.artifact, b.artifact),
        measurements=tuple(energy_analysis.measurement(arm, run.windows, run.meter) for arm in ("A", "B")),
        cpu_s_ratio=energy_analysis.ratio("A", "B", run.windows, energy_analysis.cpu_s_per_reply),
        energy_ratio=energy_analysis.energy_ratio("A", "B", run.windows, run.meter),
        quality=quality,
        inputs=inputs,
        windows=run.windows,
        notes=(*workload.notes, *run.events),
    )


def plan(
    model: str | Path,
    hardware: Sequence[str] = (),
    dialogues: Dialogues = None,
    *,
    recipes: Sequence[str | Path | Recipe] = (),
    batch: int = 1,
    settings: RunSettings | None = None,
) -> PredictionTable:
    """What recipes (files, or `Recipe`) beside the ladder would save on hardware that is not at hand, predicted.

    Args:
        hardware: names of `hardware.TABLE`; none = all of it.
        dialogues: the traffic; None = the demo's.

    Raises:
        BadInput: an unknown device, or two recipes of one name. ModelError: no such model, or a recipe does not fit it.
    """
    settings = settings or RunSettings()
    access, devices = settings.access, find(hardware) if hardware else TABLE
    given = [recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe)) for recipe in recipes]
    sizes = outline(model_source(str(model)), chat_template=access.chat_template, offline=access.offline)
    traffic = dialogues_to_ask(str(model), dialogues, settings).dialogues
    table = predict.plan(sizes, (*default_recipes(), *given), devices, traffic, batch)
    return replace(table, model=str(model))


def _for_search(model: str, max_loss: float | None, budget: str | Budget | None, settings: RunSettings) -> RunSettings:
    """With the limits that were given, and the students that a search of the demo begins with unless it is told."""
    limit = parse_budget(budget) if isinstance(budget, str) else budget or settings.search.budget
    search = replace(settings.search, budget=limit)
    rate = search.replies_per_hour
    if rate is not None and not 0 < rate < math.inf:
        raise BadInput("--replies-per-hour is above 0", got=f"{rate:g}", hint="leave it out if unknown")
    if search.users < 1:
        raise BadInput("--users is 1 or more", got=str(search.users))
    if model == "demo" and limit is not None and not search.candidates:
        search = replace(search, candidates=demo.students())
    return replace(settings, search=search, margins=settings.margins.with_max_loss(max_loss))


def _workload(traffic: DialogueSet, spec: ServingSpec, settings: RunSettings) -> Workload:
    return make_workload(traffic, ChatFormat.of_artifact(spec.artifact), settings.requests, settings.seed)
