"""The stages of a candidate but the last, each from a frozen order to a frozen outcome.

    build    a recipe                 -> an artifact, exported and proved, or why there is none
    screen   an artifact              -> what it saves, about, and its likelihood; given up here if it cannot win
    tune     an artifact              -> the operating points that were tried, the cheapest first
    measure  artifacts at their points -> windows, interleaved

The fifth, judging, is in judgement.py. `Lab.run` keeps every outcome on disk under the hash of its order, so that a run
that was killed goes on at the stage where it stopped. B0, B1, every candidate and the winner pass through these and
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from halfwatt.compress.base import Step
from halfwatt.compress.pretrained import Adopt
from halfwatt.compress.recipe import Recipe, from_toml
from halfwatt.compress.training.loop import TrainingDiverged
from halfwatt.core.child_process import ChildDied
from halfwatt.core.errors import BadInput, HalfwattError
from halfwatt.core.estimate import Estimate
from halfwatt.core.machine import cores
from halfwatt.core.settings import Margins, MeasurePlan
from halfwatt.evaluate import energy_analysis, energy_protocol, gate
from halfwatt.evaluate.energy_protocol import Arm, Run
from halfwatt.evaluate.examine import parity_beside, teacher_scores
from halfwatt.evaluate.integrity import integrity_checks
from halfwatt.evaluate.records import (
    GateCheck,
    TeacherScore,
    Window,
)
from halfwatt.formats.artifact import ARTIFACT, Artifact, read_artifact
from halfwatt.formats.gguf_given import as_transformers_loads
from halfwatt.formats.transformers_folder import TransformersFolder
from halfwatt.meters.base import MeterInfo
from halfwatt.meters.cost import Cost
from halfwatt.models.lineage import read_origin
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.serving_process import ServingProcess, ServingSpec
from halfwatt.search.build import AS_GIVEN, build_artifact, build_given
from halfwatt.search.build_process import BuildRequest, build_in_process
from halfwatt.search.job import Job
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.operating_points import PLAIN_KV_BITS, by_batches, by_caches, by_guesses, by_threads
from halfwatt.search.trial import Served

AS_COMMONLY_RUN = "transformers_folder"
_BEYOND_BYTES = 2.0  # int4 reads 3.5 times less and saved 2.0 to 2.2x, on two models and kinds of traffic
KV_NOISE = 1.03  # a coarser KV cache changes replies: it has to save more than noise does


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """A recipe as TOML ("" = the original as it is), the model it begins with and what its steps learn from."""

    name: str
    recipe: str
    model_sha256: str
    learned_from: str = ""
    format: str = "gguf"


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """The artifact, or what was wrong with its recipe."""

    artifact: Artifact | None
    fault: str | None = None


def build(lab: Lab, order: BuildOrder) -> BuildOutcome:
    """Apply the steps, export, and prove the export. A fault of the recipe ends its candidate, not the run."""
    lab.say(f"{order.name}: building it")
    steps = from_toml(order.recipe, "the search's recipe").steps if order.recipe else ()
    try:
        learns = any(step.trains for step in steps)
        with lab.store.cost.training() if learns else nullcontext(list[Cost]()) as trained:
            artifact = _build(lab, Recipe(order.name, steps), order)
            trained += artifact.spent[_trainings_before(lab.job, steps) :]
            return BuildOutcome(artifact)
    except (BadInput, ChildDied, TrainingDiverged) as error:
        return BuildOutcome(None, str(error))


def _trainings_before(job: Job, steps: Sequence[Step]) -> int:
    """Of the original and of the models that are adopted, whose cost stands in the artifact too."""
    adopted = [read_origin(Path(step.folder)) for step in steps if isinstance(step, Adopt)]
    return len(job.model.spent) + sum(len(origin.spent) for origin in adopted if origin)


def _build(lab: Lab, recipe: Recipe, order: BuildOrder) -> Artifact:
    job, settings, context = lab.job, lab.job.settings, lab.job.step_context()
    folder, proof = job.out / "artifacts", lab.workload.dialogues[: settings.protocol.parity_dialogues]
    if order.format == AS_COMMONLY_RUN:
        served = folder / order.name.lower()
        if (served / ARTIFACT).exists():  # written by a run that was killed before it was noted
            return read_artifact(served)
        return TransformersFolder(settings.access.dtype).write(as_transformers_loads(job.model), served)
    if order.format == AS_GIVEN:
        return build_given(job.model, proof, folder / AS_GIVEN, context.device)
    if job.name is None or not recipe.steps:
        return build_artifact(job.model, recipe, proof, folder, context, context.device)
    request = BuildRequest(
        model=job.name,
        access=settings.access,
        sha256=order.model_sha256,
        recipe=order.recipe,
        proof=proof,
        learned_from=context.dialogues,
        out=job.out,
        seed=settings.seed,
        precision=settings.precision,
        rapl_root=settings.rapl_root,
        threads=lab.threads,
    )
    return build_in_process(request, lab.say)


@dataclass(frozen=True, slots=True)
class ScreenOrder:
    """A candidate beside the reference, at the reference's operating point."""

    reference: Contender
    candidate: Contender
    plan: MeasurePlan
    margins: Margins
    best: Estimate | None  # the saving that it has to beat; None = nothing passed so far
    hope: float  # times more that its own operating point may save than a first look shows
    likelihood: bool  # is read too, not only the cost
    as_long: bool = False  # nothing taught it other replies: it cannot save by their length


@dataclass(frozen=True, slots=True)
class Screening:
    """What a first look shows."""

    windows: tuple[Window, ...]
    saving: Estimate | None  # reference's cost over the candidate's; None = it was not measured
    reason: str | None = None  # why it goes no further; None = it goes on
    over: float = 0.0  # see `halfwatt.evaluate.gate.missed`


def screen(lab: Lab, order: ScreenOrder) -> Screening:
    """Give up what cannot beat the best so far, or fails the gate's G0, G1 or G2 whatever its replies say."""
    candidate, best = order.candidate, order.best
    if (reads := _reads_too_much(order)) is not None:
        lab.say(f"{candidate.name}: {reads}")
        return Screening((), None, reads, gate.NOT_PASSED)
    look = None if best is None else _first_look(lab, order)  # else there is nothing to beat
    if best is not None and look is not None and look.saving is not None and order.hope * look.saving.hi < best.lo:
        reason, over = f"saves {_in_words(look.saving)} where the best so far saves {_in_words(best)}", gate.NOT_PASSED
    else:
        failed = _failed_checks(lab, order) if order.likelihood else []
        if not failed:
            return look or Screening((), None)
        reason = "; ".join(f"{c.layer} {c.name} is {_in_words(c.estimate)}, {c.margin}" for c in failed if c.estimate)
        reason = reason or f"G0: {failed[0].detail}"
        over = gate.missed(failed)
    lab.say(f"{candidate.name}: {reason}")
    return replace(look or _first_look(lab, order), reason=reason, over=over)  # a search learns from what fails too


def _first_look(lab: Lab, order: ScreenOrder) -> Screening:
    reference, candidate = order.reference, order.candidate
    lab.say(f"{candidate.name}: a first look at what it saves")
    run = lab.run(measure, MeasureOrder((reference, candidate), order.plan))
    return Screening(run.windows, saving_of(reference.name, candidate.name, run))


def _reads_too_much(order: ScreenOrder) -> str | None:
    """Why the bytes alone rule a candidate out, in words. What rounds or cuts weights saves a token about as many times
    as it reads fewer bytes; more by faster products of the prompt, never `_BEYOND_BYTES` times as much."""
    fewer = order.reference.artifact.weights_read_b / order.candidate.artifact.weights_read_b
    if order.best is None or not order.as_long or order.hope * _BEYOND_BYTES * fewer >= order.best.lo:
        return None
    return f"reads {fewer:.3g} times fewer bytes a token where the best so far saves {_in_words(order.best)}"


def _failed_checks(lab: Lab, order: ScreenOrder) -> list[GateCheck]:
    """Of G0, without which no likelihood means anything; or of G1 and G2, on as many dialogues as they need."""
    own = parity_beside(lab.spec(order.candidate), lab.workload)
    checks, scores = integrity_checks(own, order.margins), tuple[TeacherScore, ...]()
    equal = gate.overall_verdict([check.verdict for check in checks]) == "PASS"
    for part in lab.parts() if equal else ():
        scores += likelihoods(part, order.reference, order.candidate)
        checks = gate.teacher_checks(scores, order.margins)
        if gate.overall_verdict([check.verdict for check in checks]) != "INCONCLUSIVE":
            break
    return [check for check in checks if check.verdict == "FAIL"]


def _in_words(e: Estimate) -> str:
    return f"{e.mean:.3g} [{e.lo:.3g}, {e.hi:.3g}] {e.unit}"


def likelihoods(lab: Lab, reference: Contender, candidate: Contender) -> tuple[TeacherScore, ...]:
    """Both models over the same turns; read once, whether for the screen or for the gate."""
    return lab.run(likelihood, (reference.for_likelihood(), candidate.for_likelihood()))


def likelihood(lab: Lab, order: tuple[Contender, Contender]) -> tuple[TeacherScore, ...]:
    """Of the human replies by both, as they are asked for logits."""
    return teacher_scores(lab.spec(order[0]), lab.spec(order[1]), lab.workload, lab.say)


@dataclass(frozen=True, slots=True)
class TuneOrder:
    """An artifact whose cheapest operating point is asked for."""

    candidate: Contender
    plan: MeasurePlan
    users: int = 1
    fixed: bool = False  # serve it as it is ordered: as commonly run
    coarser: bool = False  # a KV cache of fewer bits may be chosen, which changes replies


@dataclass(frozen=True, slots=True)
class Tuning:
    """The operating points that were tried, the one to choose first."""

    ways: tuple[Served, ...]

    @property
    def best(self) -> OperatingPoint:
        """The cheapest."""
        return self.ways[0].at

    @property
    def plain(self) -> OperatingPoint:
        """The cheapest that keeps its KV cache as it computes it."""
        return next(way.at for way in self.ways if way.at.kv_bits == PLAIN_KV_BITS)


def tune(lab: Lab, order: TuneOrder) -> Tuning:
    """Try threads, and with the best of these what else can be chosen."""
    contender = order.candidate
    if order.fixed:
        return Tuning((Served(contender.at, 1.0),))
    lab.say(f"{contender.name}: searching the operating point")
    ways = sorted(_try_points(lab, order, by_threads(cores())), key=lambda way: way.share)
    first = ways[0]
    more = by_guesses(contender.artifact, first.at), by_batches(first.at, order.users, cores())
    for further in (*more, _caches(lab, contender, first.at) if order.coarser else []):
        if len(further) > 1:
            shares = _try_points(lab, order, further)[1:]
            ways += [replace(way, share=way.share * first.share) for way in shares]
    noise = {PLAIN_KV_BITS: 1.0}
    return Tuning(tuple(sorted(ways, key=lambda way: way.share * noise.get(way.at.kv_bits, KV_NOISE))))


def _try_points(lab: Lab, order: TuneOrder, points: list[OperatingPoint]) -> list[Served]:
    """Each with its share of the first one's cost, on brief replies: an original may ramble, and says no more so."""
    if len(points) == 1:  # as threads where there is one core
        return [Served(points[0], 1.0)]
    lab = replace(lab, workload=lab.workload.brief())
    contenders = tuple(Contender(str(n), order.candidate.artifact, at) for n, at in enumerate(points))
    run = lab.run(measure, MeasureOrder(contenders, order.plan))
    figure = cost_of(run.meter)
    costs = [fmean(energy_analysis.per_block(c.name, run.windows, figure).values()) for c in contenders]
    return [Served(at, cost / costs[0]) for at, cost in zip(points, costs, strict=True)]


def _caches(lab: Lab, contender: Contender, at: OperatingPoint) -> list[OperatingPoint]:
    return [way for way in by_caches(at) if way == at or _can_serve(lab.spec(replace(contender, at=way)))]


def _can_serve(spec: ServingSpec) -> bool:
    """Only the runtime knows whether it can keep its cache so: the size of a head decides, for one."""
    with suppress(HalfwattError), ServingProcess(spec):
        return True
    return False


@dataclass(frozen=True, slots=True)
class MeasureOrder:
    """Who is measured against each other, and how long."""

    contenders: tuple[Contender, ...]
    plan: MeasurePlan
    context: int = 0  # of the first contenders, see `halfwatt.evaluate.energy_protocol.Arm`


def measure(lab: Lab, order: MeasureOrder) -> Run:
    """All of them interleaved, on the replies to the lab's workload."""
    arms = [Arm(c.name, lab.spec(c), n < order.context) for n, c in enumerate(order.contenders)]
    return energy_protocol.measure(arms, lab.workload, order.plan, lab.job.tools, lab.say)


def saving_of(reference: str, candidate: str, run: Run) -> Estimate:
    """Reference over candidate, by what operating points are chosen by; the model's own error is the same for both."""
    return energy_analysis.ratio(reference, candidate, run.windows, cost_of(run.meter))


def cost_of(meter: MeterInfo | None) -> energy_analysis.Figure:
    """What an operating point is chosen by: joules, or measured CPU-seconds where joules would only be modelled.

    The model's error is largest between thread counts, and it knows nothing of what a pass over several tokens costs.
    """
    if meter is None or meter.kind == "modelled":
        return energy_analysis.cpu_s_per_reply
    return energy_analysis.joules(meter)
