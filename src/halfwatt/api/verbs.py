"""The Python face: load, quantize, measure, compare, optimize. The command line calls exactly these.

>>> import halfwatt as hw                                                           # doctest: +SKIP
>>> result = hw.optimize("my_model", "chats.jsonl", max_loss=0.01, out="out")       # doctest: +SKIP
>>> result.claim.verdict, result.claim.energy_ratio_vs_B1                           # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from halfwatt.api.inputs import chosen, origin, outside_of, scratch, splits
from halfwatt.api.quantized_model import Quantized
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe, default_recipes, read_recipe
from halfwatt.core.errors import BadInput
from halfwatt.core.files import locked
from halfwatt.core.settings import Budget, Margins, MeasurePlan, RunSettings, RuntimeChoice, SearchSettings
from halfwatt.dialogues.dialogue import DialogueSet, Split
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate import energy_analysis, examine, requests
from halfwatt.evaluate.energy_protocol import Arm
from halfwatt.evaluate.energy_protocol import measure as run_measure
from halfwatt.evaluate.gate import judge
from halfwatt.evaluate.records import QualityInputs
from halfwatt.evaluate.replies import generate_replies
from halfwatt.evaluate.requests import ChatFormat
from halfwatt.formats.registry import load_model
from halfwatt.meters.discover import instruments
from halfwatt.models.access import model_source, serving_device
from halfwatt.models.chat_model import ChatModel, load, outline
from halfwatt.models.grid import Bits, ScaleSearch
from halfwatt.results.provenance import Provenance, provenance
from halfwatt.results.result import Comparison, Measured, Result
from halfwatt.results.write import write_results
from halfwatt.runtimes.servable import servable
from halfwatt.runtimes.serving_process import ServingSpec
from halfwatt.search.budget import parse_budget
from halfwatt.search.hardware import TABLE, find
from halfwatt.search.job import Job
from halfwatt.search.optimize import optimize as run_search
from halfwatt.search.predict import PredictionTable as Planned
from halfwatt.search.predict import plan as planned

__all__ = ["compare", "load", "measure", "optimize", "plan", "quantize"]


def quantize(
    model: ChatModel,
    bits: Bits = 8,
    *,
    head_bits: Bits | None = None,
    embedding_bits: Bits = 8,
    scale_search: ScaleSearch = "mse",
) -> Quantized:
    """Put every Linear, the embedding and the head on the int8 or int4 grid; ``fit`` trains what comes back, on it.

    Raises:
        ModelError: the model cannot be quantized; every reason is named.
    """
    step = Quantize(bits=bits, head_bits=head_bits, embedding_bits=embedding_bits, scale_search=scale_search)
    return Quantized(model, step)


def optimize(  # noqa: PLR0913 - one name for each flag of the verb
    model: str | Path | ChatModel,
    dialogues: str | Path | DialogueSet | None = None,
    *,
    max_loss: float | None = None,
    recipe: str | Path | Recipe | None = None,
    budget: str | Budget | None = None,
    replies_per_hour: float | None = None,
    users: int = 1,
    candidates: Sequence[str | Path] = (),
    storage: str | None = None,
    outside: str | Path | DialogueSet | None = None,
    out: str | Path = "out",
    settings: RunSettings | None = None,
) -> Result:
    """Find the form of ``model`` that answers ``dialogues`` as well for the fewest joules, and prove it.

    Args:
        dialogues: a file or set; None = the demo's own, for the demo model only.
        max_loss: the perplexity that may be lost, 0.01 = 1 %; None = the gate's default of 2 %.
        recipe: the one candidate to make and measure, or the file that holds it; None = the ladder.
        budget: what a search may cost, in place of the ladder: "10m", "500kJ", "20" trials.
        replies_per_hour: of the traffic, None = unknown; ends a search where a year could not repay another trial.
        users: who ask at the same time, and may be answered together.
        candidates, storage: smaller models to begin with (none = the demo's own); where trials are shared (path, URL).
        outside: dialogues of other kinds, to show what the winner lost on them; None = the demo's.
        out: the folder for result.json, report.html and the winner. A run that was interrupted there goes on.

    Raises:
        BadInput: unusable input. RunLocked: ``out`` is in use. EnvironmentFault: nothing could be measured here.
    """
    limit = parse_budget(budget) if isinstance(budget, str) else budget
    students = tuple(map(Path, candidates)) or _students(str(model), limit)
    search = SearchSettings(limit, users, _rate(replies_per_hour), students, storage)
    settings = replace(_here(settings), margins=Margins().with_max_loss(max_loss), search=search)
    folder = Path(out)
    with locked(folder), closing(instruments(settings.access.device, rapl_root=settings.rapl_root)) as tools:
        loaded = model if isinstance(model, ChatModel) else load_model(str(model), settings.access)
        name = str(loaded.source) if isinstance(model, ChatModel) else str(model)
        split = splits(name, dialogues, settings.seed)
        job = Job(
            model=loaded,
            tune=split["tune"],
            test=SealedSplit(split["test"], folder / "stages" / "test-opened.json"),
            out=folder,
            tools=tools,
            settings=settings,
            train=split["train"],
            outside=outside_of(dialogues, outside),
            recipes=_listed(recipe, limit is not None),
            name=None if isinstance(model, ChatModel) or limit is None else name,
        )
        return write_results(run_search(job), job, _searched(settings, name, job, origin(dialogues), split))


def measure(
    model: str | Path,
    dialogues: str | Path | DialogueSet | None = None,
    *,
    runtime: RuntimeChoice = "auto",
    plan: MeasurePlan | None = None,
    settings: RunSettings | None = None,
) -> Measured:
    """What one model or artifact uses per reply on this machine.

    Raises:
        BadInput, EnvironmentFault: as for `optimize`.
    """
    settings = _here(settings)
    access = settings.access
    with scratch() as cache, closing(instruments(access.device, rapl_root=settings.rapl_root)) as tools:
        spec = servable(str(model), access, cache, runtime)
        found = chosen(str(model), dialogues)
        traffic = requests.make_workload(found, ChatFormat.of_artifact(spec.artifact), settings.requests, settings.seed)
        run = run_measure([Arm("model", spec)], traffic, plan or MeasurePlan(), tools, settings.progress)
    return Measured(
        provenance=_provenance(settings, str(model), spec, found),
        meters=run.meters,
        artifact=spec.artifact,
        at=spec.at,
        measurement=energy_analysis.measurement("model", run.windows, run.meter),
        windows=run.windows,
        notes=(*traffic.notes, *run.events),
    )


def compare(
    reference: str | Path,
    candidate: str | Path,
    dialogues: str | Path | DialogueSet | None = None,
    *,
    max_loss: float | None = None,
    runtime: RuntimeChoice = "auto",
    settings: RunSettings | None = None,
) -> Comparison:
    """Energy and quality of two models or artifacts, paired: A is the reference, B the candidate.

    Raises:
        BadInput, EnvironmentFault: as for `optimize`.
    """
    settings = _here(settings)
    access = settings.access
    with scratch() as cache, closing(instruments(access.device, rapl_root=settings.rapl_root)) as tools:
        a = servable(str(reference), access, cache / "a", runtime)
        b = servable(str(candidate), access, cache / "b", runtime)
        found = chosen(str(reference), dialogues)
        traffic = requests.make_workload(found, ChatFormat.of_artifact(a.artifact), settings.requests, settings.seed)
        arms = [Arm("A", a), Arm("B", b)]
        plan = MeasurePlan(prefill=False)
        run = run_measure(arms, traffic, plan, tools, settings.progress)
        inputs = _examined(a, b, traffic, settings)
    special = traffic.tokenizer.special_tokens
    report = judge(
        inputs, split=found.split, margins=Margins().with_max_loss(max_loss), special=special, seed=settings.seed
    )
    return Comparison(
        provenance=_provenance(settings, f"{reference} against {candidate}", a, found),
        meters=run.meters,
        artifacts=(a.artifact, b.artifact),
        measurements=tuple(energy_analysis.measurement(arm.name, run.windows, run.meter) for arm in arms),
        cpu_s_ratio=energy_analysis.ratio("A", "B", run.windows, energy_analysis.cpu_s_per_reply),
        energy_ratio=energy_analysis.energy_ratio("A", "B", run.windows, run.meter),
        quality=report,
        inputs=inputs,
        windows=run.windows,
        notes=(*traffic.notes, *run.events),
    )


def plan(
    model: str | Path,
    hardware: Sequence[str] = (),
    dialogues: str | Path | DialogueSet | None = None,
    *,
    recipes: Sequence[str | Path | Recipe] = (),
    batch: int = 1,
    settings: RunSettings | None = None,
) -> Planned:
    """What recipes (files, or `Recipe`) beside the ladder would save on hardware that is not at hand, predicted.

    Args:
        hardware: names of `hardware.TABLE`; none = all of it.
        dialogues: the traffic; None = the demo's.

    Raises:
        BadInput: an unknown device, or two recipes of one name. ModelError: no such model, or a recipe does not fit it.
    """
    access = (settings or RunSettings()).access
    devices = find(hardware) if hardware else TABLE
    given = [read_recipe(Path(r)) if isinstance(r, str | Path) else r for r in recipes]
    sizes = outline(model_source(str(model)), chat_template=access.chat_template, offline=access.offline)
    found = chosen(str(model), dialogues).dialogues
    return replace(planned(sizes, (*default_recipes(), *given), devices, found, batch), model=str(model))


# --- small shared pieces -------------------------------------------------------------------------------------------


def _examined(a: ServingSpec, b: ServingSpec, traffic: requests.Workload, settings: RunSettings) -> QualityInputs:
    """What the gate reads of B against A; an artifact that was never proved is proved first."""
    if b.artifact.parity is None:
        settings.progress("proving B in its own runtime")
        b = replace(b, artifact=examine.prove(load(b.artifact.path), b, traffic.dialogues))
    replies = generate_replies(a, traffic.requests(), settings.progress, "A's replies")
    return examine.examine(a, b, traffic, replies, settings.progress)


def _here(settings: RunSettings | None) -> RunSettings:
    """With the device that ``auto`` means on this machine."""
    settings = settings or RunSettings()
    return replace(settings, access=replace(settings.access, device=serving_device(settings.access)))


def _listed(recipe: str | Path | Recipe | None, searching: bool) -> tuple[Recipe, ...]:
    """The given recipe; else the ladder, or nothing where a search takes its place."""
    known = recipe if recipe is None or isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    return (known,) if known else () if searching else default_recipes()


def _rate(replies_per_hour: float | None) -> float | None:
    """The given one, if it can be one."""
    if replies_per_hour is not None and not 0 < replies_per_hour < math.inf:
        raise BadInput("--replies-per-hour is above 0", got=f"{replies_per_hour:g}", hint="leave it out if unknown")
    return replies_per_hour


def _students(model: str, budget: Budget | None) -> tuple[Path, ...]:
    """What a search of the demo model begins with unless it is told."""
    if model != "demo" or budget is None:
        return ()
    from halfwatt import demo

    return demo.students()


def _searched(
    settings: RunSettings, name: str, job: Job, dialogues: str, split: Mapping[Split, DialogueSet]
) -> Provenance:
    return provenance(
        command=settings.command,
        seed=settings.seed,
        model=name,
        model_sha256=job.model.sha256,
        dialogues=dialogues,
        sha256={part: found.sha256 for part, found in split.items()},
    )


def _provenance(settings: RunSettings, model: str, spec: ServingSpec, found: DialogueSet) -> Provenance:
    return provenance(
        command=settings.command,
        seed=settings.seed,
        model=model,
        model_sha256=spec.artifact.sha256,
        dialogues=found.split,
        sha256={found.split: found.sha256},
    )
