"""The Python face: load, quantize, measure, compare, optimize. The command line calls exactly these.

>>> import halfwatt as hw                                                           # doctest: +SKIP
>>> result = hw.optimize("my_model", "chats.jsonl", max_loss=0.01, out="out")       # doctest: +SKIP
>>> result.claim.verdict, result.claim.energy_ratio_vs_B1                           # doctest: +SKIP
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from halfwatt import accounting, pipeline, search
from halfwatt.artifacts import Access, RuntimeChoice, model_source, servable
from halfwatt.chat_model import ChatModel, load, outline
from halfwatt.deliver import deliver
from halfwatt.dialogue import DialogueSet, SealedSplit, Split, by_source, read, split_set
from halfwatt.errors import BadInput
from halfwatt.explore import Budget
from halfwatt.files import locked
from halfwatt.generation import generate
from halfwatt.grids import Bits, ScaleSearch
from halfwatt.hardware import TABLE, find
from halfwatt.pipeline import Speech
from halfwatt.planner import Plan as Planned
from halfwatt.planner import plan as planned
from halfwatt.provenance import provenance
from halfwatt.quality import Margins, judge
from halfwatt.quantized import Quantized
from halfwatt.recipe import Recipe, ladder
from halfwatt.recipe import read as read_recipe
from halfwatt.records import Artifact, Made, Provenance, QualityInputs
from halfwatt.result import Comparison, Measured, Result
from halfwatt.steps.adopt import Adopt
from halfwatt.steps.base import Step, StepContext
from halfwatt.steps.quantize import Quantize
from halfwatt.worker import Spec
from halfwatt.workload import Arm, Plan, Progress, instruments
from halfwatt.workload import measure as run_measure

FRACTIONS: dict[Split, float] = {"train": 0.3, "tune": 0.3, "test": 0.4}  # of a user's dialogues, by first user turn
MIN_TEST = 200  # dialogues that the gate wants at least
OUTSIDE = 64  # dialogues of each other kind, at most

__all__ = ["compare", "load", "measure", "optimize", "plan", "quantize"]


@dataclass(frozen=True, slots=True)
class Options:
    """What every verb takes."""

    access: Access = field(default_factory=Access)
    seed: int = 0
    rapl_root: str | None = None
    command: str = "halfwatt (Python)"
    progress: Progress = lambda _: None


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


def quantize_to(
    model: str, out: Path, step: Step, dialogues: str | Path | DialogueSet | None, options: Options
) -> Artifact:
    """Quantize, export for llama.cpp and prove the export on ``dialogues`` (None = the demo's).

    Interrupted while it trains, the same call goes on from its last checkpoint.

    Raises:
        ModelError: the model cannot be used, or the export is not what was computed in memory.
        BadInput: ``out`` exists already.
    """
    if out.exists():
        raise BadInput(f"{out} exists already", hint="choose another -o folder")
    loaded = _load(model, options.access)
    found = _dialogues(model, dialogues)
    with locked(out.parent), _scratch(out.parent) as cache:
        options.progress("quantizing, exporting and proving the export")
        traffic = pipeline.traffic(found, Speech(loaded.tokenizer, loaded.generation, loaded.context))
        learned = () if dialogues is None and model != "demo" else _for_training(model, dialogues).dialogues
        work = _training(out)
        context = StepContext(learned, loaded, work, seed=options.seed, progress=options.progress)
        artifact = pipeline.build(loaded, Recipe("quantized", (step,)), traffic.dialogues, cache, "cpu", context)
        artifact.path.rename(out)
        shutil.rmtree(work, ignore_errors=True)
    return replace(artifact, path=out)


def transform(
    model: str,
    step: Step,
    out: Path,
    dialogues: str | Path | DialogueSet | None,
    teacher: Path | None,
    options: Options,
) -> Made:
    """Apply one step and write the model folder. Interrupted, the same call goes on from its last checkpoint.

    Args:
        dialogues: what the step reads or learns from; None = the demo's training split, for the demo model only.
        teacher: the model to distil from; None = ``model`` itself.

    Raises:
        ModelError: the step does not fit the model. BadInput: ``out`` exists already, or there are no dialogues.
        TrainingDiverged: a loss or gradient is not finite.
    """
    if out.exists():
        raise BadInput(f"{out} exists already", hint="choose another -o folder")
    loaded = _load(model, options.access)
    original = loaded if teacher is None else _load(str(teacher), options.access)
    work = _training(out)
    with locked(out.parent):
        context = StepContext(
            dialogues=_for_training(model, dialogues).dialogues,
            original=original,
            work=work,
            shared=work,
            seed=options.seed,
            progress=options.progress,
        )
        made = pipeline.apply(step, loaded, context)
        made.save(out)
        shutil.rmtree(work, ignore_errors=True)
    sizes = tuple(sum(p.numel() for p in m.network.parameters()) for m in (loaded, made))
    return Made(out, (sizes[0], sizes[1]), made.lineage, made.spent)


def optimize(  # noqa: PLR0913 - one name for each flag of the verb
    model: str | Path | ChatModel,
    dialogues: str | Path | DialogueSet | None = None,
    *,
    max_loss: float | None = None,
    recipe: str | Path | Recipe | None = None,
    budget: str | Budget | None = None,
    candidates: Sequence[str | Path] = (),
    storage: str | None = None,
    outside: str | Path | DialogueSet | None = None,
    out: str | Path = "out",
    options: Options | None = None,
) -> Result:
    """Find the form of ``model`` that answers ``dialogues`` as well for the fewest joules, and prove it.

    Args:
        dialogues: a file or set; None = the demo's own, for the demo model only.
        max_loss: the perplexity that may be lost, 0.01 = 1 %; None = the gate's default of 2 %.
        recipe: the one candidate to make and measure, or the file that holds it; None = the ladder.
        budget: what a search may cost, in place of the ladder: "10m", "500kJ", "20" trials.
        candidates, storage: smaller models that it may begin with (folders); where searches share trials (path, URL).
        outside: dialogues of other kinds, to show what the winner lost on them; None = the demo's.
        out: the folder for result.json, report.html and the winner. A run that was interrupted there goes on.

    Raises:
        BadInput: unusable input. RunLocked: ``out`` is in use. EnvironmentFault: nothing could be measured here.
    """
    options = options or Options()
    limit = Budget.parse(budget) if isinstance(budget, str) else budget
    recipes = _listed(recipe, limit is not None)
    folder, access = Path(out), options.access.resolved()
    with locked(folder), closing(instruments(access.device, rapl_root=options.rapl_root)) as tools:
        loaded = model if isinstance(model, ChatModel) else _load(str(model), access)
        name = str(loaded.source) if isinstance(model, ChatModel) else str(model)
        splits = _splits(name, dialogues, options.seed)
        job = search.Job(
            model=loaded,
            tune=splits["tune"],
            test=SealedSplit(splits["test"], folder / "stages" / "test-opened.json"),
            out=folder,
            tools=tools,
            train=splits["train"],
            outside=_outside(dialogues, outside),
            recipes=recipes,
            budget=limit,
            adopted=tuple(Adopt(str(folder)) for folder in candidates),
            storage=storage,
            rapl_root=options.rapl_root,
            margins=_margins(max_loss),
            device=access.device,
            dtype=access.dtype,
            seed=options.seed,
            progress=options.progress,
        )
        outcome = search.optimize(job)
        digests = {split: found.sha256 for split, found in splits.items()}
        run: dict[str, Any] = {"seed": options.seed, "dialogues": _origin(dialogues), "sha256": digests}
        made = provenance(command=options.command, model=name, model_sha256=loaded.sha256, **run)
        return deliver(outcome, job, made)


def measure(
    model: str | Path,
    dialogues: str | Path | DialogueSet | None = None,
    *,
    runtime: RuntimeChoice = "auto",
    plan: Plan | None = None,
    options: Options | None = None,
) -> Measured:
    """What one model or artifact uses per reply on this machine.

    Raises:
        BadInput, EnvironmentFault: as for `optimize`.
    """
    options = options or Options()
    access = options.access.resolved()
    with _scratch() as cache, closing(instruments(access.device, rapl_root=options.rapl_root)) as tools:
        spec = servable(str(model), access, cache, runtime)
        found = _dialogues(str(model), dialogues)
        traffic = pipeline.traffic(found, Speech.of(spec.artifact))
        plan = replace(plan or Plan(), seed=options.seed)
        run = run_measure([Arm("model", spec)], traffic.dialogues, traffic.greedy, plan, tools, options.progress)
    return Measured(
        provenance=_provenance(options, str(model), spec, found),
        meters=run.meters,
        artifact=spec.artifact,
        at=spec.at,
        measurement=accounting.measurement("model", run.windows, run.meter),
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
    options: Options | None = None,
) -> Comparison:
    """Energy and quality of two models or artifacts, paired: A is the reference, B the candidate.

    Raises:
        BadInput, EnvironmentFault: as for `optimize`.
    """
    options = options or Options()
    access = options.access.resolved()
    with _scratch() as cache, closing(instruments(access.device, rapl_root=options.rapl_root)) as tools:
        a = servable(str(reference), access, cache / "a", runtime)
        b = servable(str(candidate), access, cache / "b", runtime)
        found = _dialogues(str(reference), dialogues)
        traffic = pipeline.traffic(found, Speech.of(a.artifact))
        arms = [Arm("A", a), Arm("B", b)]
        plan = Plan(prefill=False, seed=options.seed)
        run = run_measure(arms, traffic.dialogues, traffic.greedy, plan, tools, options.progress)
        inputs = _examined(a, b, traffic, options)
    special = traffic.tokenizer.special_tokens
    report = judge(inputs, split=found.split, margins=_margins(max_loss), special=special, seed=options.seed)
    return Comparison(
        provenance=_provenance(options, f"{reference} against {candidate}", a, found),
        meters=run.meters,
        artifacts=(a.artifact, b.artifact),
        measurements=tuple(accounting.measurement(arm.name, run.windows, run.meter) for arm in arms),
        cpu_s_ratio=accounting.ratio("A", "B", run.windows, accounting.cpu_s_per_reply),
        energy_ratio=None if run.meter is None else accounting.energy_ratio("A", "B", run.windows, run.meter),
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
    options: Options | None = None,
) -> Planned:
    """What recipes (files, or `Recipe`) beside the ladder would save on hardware that is not at hand, predicted.

    Args:
        hardware: names of `hardware.TABLE`; none = all of it.
        dialogues: the traffic; None = the demo's.

    Raises:
        BadInput: an unknown device, or two recipes of one name. ModelError: no such model, or a recipe does not fit it.
    """
    access = (options or Options()).access
    devices = find(hardware) if hardware else TABLE
    given = [read_recipe(Path(r)) if isinstance(r, str | Path) else r for r in recipes]
    sizes = outline(model_source(str(model)), chat_template=access.chat_template, offline=access.offline)
    found = _dialogues(str(model), dialogues).dialogues
    return replace(planned(sizes, (*ladder(), *given), devices, found, batch), model=str(model))


# --- small shared pieces -------------------------------------------------------------------------------------------


def _examined(a: Spec, b: Spec, traffic: pipeline.Traffic, options: Options) -> QualityInputs:
    """What the gate reads of B against A; an artifact that was never proved is proved first."""
    if b.artifact.parity is None:
        options.progress("proving B in its own runtime")
        b = replace(b, artifact=pipeline.prove(load(b.artifact.path), b, traffic.dialogues))
    replies = generate(a, traffic.prompts(), options.progress, "A's replies")
    return pipeline.examine(a, b, traffic, replies, options.progress)


def _load(name: str, access: Access) -> ChatModel:
    return load(model_source(name), chat_template=access.chat_template, dtype=access.dtype, offline=access.offline)


def _listed(recipe: str | Path | Recipe | None, searching: bool) -> tuple[Recipe, ...]:
    """The given recipe; else the ladder, or nothing where a search takes its place."""
    known = recipe if recipe is None or isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    return (known,) if known else () if searching else ladder()


def _origin(dialogues: str | Path | DialogueSet | None) -> str:
    """Where they came from, for the record."""
    if dialogues is None:
        return "demo"
    return "given in Python" if isinstance(dialogues, DialogueSet) else str(dialogues)


def _margins(max_loss: float | None) -> Margins:
    return Margins() if max_loss is None else Margins().with_max_loss(max_loss)


def _given(dialogues: str | Path | DialogueSet, split: Split) -> DialogueSet:
    """A set as it is; a file read as ``split``."""
    return dialogues if isinstance(dialogues, DialogueSet) else read(Path(dialogues), split=split)


def _dialogues(model: str, given: str | Path | DialogueSet | None) -> DialogueSet:
    """The dialogues of a verb that judges nothing for good: the given ones, or the demo's tune split."""
    if given is not None:
        return _given(given, "tune")
    if model != "demo" and not Path(model).exists():
        raise BadInput(f"no dialogues for {model}", hint="pass --dialogues FILE")
    from halfwatt import demo

    return demo.dialogues("tune")


def _for_training(model: str, given: str | Path | DialogueSet | None) -> DialogueSet:
    """The dialogues that a step may learn from: the given ones, or the demo's training split."""
    if given is not None:
        return _given(given, "train")
    if model != "demo":
        raise BadInput(f"no dialogues for {model}", hint="pass --dialogues FILE")
    from halfwatt import demo

    return demo.dialogues("train")


def _splits(model: str, given: str | Path | DialogueSet | None, seed: int) -> dict[Split, DialogueSet]:
    """train, tune and test; the user's dialogues are split by first user turn.

    Raises:
        BadInput: no dialogues for a model that is not the demo, or too few to judge anything.
    """
    from halfwatt import demo

    if given is None:
        if model != "demo":
            raise BadInput(f"no dialogues for {model}", hint="pass --dialogues FILE")
        return {"train": demo.dialogues("train"), "tune": demo.dialogues("tune"), "test": demo.dialogues("test")}
    whole = _given(given, "train")
    splits = split_set(whole, dict(FRACTIONS), seed=seed)
    if len(splits["test"]) < 2 or len(splits["tune"]) < 2:
        raise BadInput(
            f"{len(whole)} dialogues are too few to choose on one part and judge on another",
            hint=f"give at least {round(MIN_TEST / FRACTIONS['test'])}, so that {MIN_TEST} are left for the gate",
        )
    return splits


def _outside(
    dialogues: str | Path | DialogueSet | None, given: str | Path | DialogueSet | None
) -> dict[str, DialogueSet]:
    """Other dialogues than the user's own, by kind: the given ones, or the demo's unless they are the traffic."""
    from halfwatt import demo

    if given is not None:
        return by_source(_given(given, "tune"), OUTSIDE)
    return {} if dialogues is None else by_source(demo.dialogues("tune"), OUTSIDE)


def _provenance(options: Options, model: str, spec: Spec, found: DialogueSet) -> Provenance:
    return provenance(
        command=options.command,
        seed=options.seed,
        model=model,
        model_sha256=spec.artifact.sha256,
        dialogues=found.split,
        sha256={found.split: found.sha256},
    )


def _training(out: Path) -> Path:
    """Where the checkpoints of what will be ``out`` lie until it is there."""
    return out.parent / f".{out.name}.training"


@contextmanager
def _scratch(parent: Path | None = None) -> Iterator[Path]:
    """A folder for exports that are not kept."""
    with TemporaryDirectory(prefix=".halfwatt-", dir=parent) as folder:
        yield Path(folder)
