"""Who meets whom, on what: peers are made and served, all are measured in one interleaved run and judged alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.ladder import plain, say
from benchmarks.peers import llamacpp, torchao
from benchmarks.peers.toolkits import Workshop, write_texts
from halfwatt import demo
from halfwatt.compress.recipe import Recipe
from halfwatt.core.settings import MeasurePlan, RunSettings
from halfwatt.dialogues.dialogue import Dialogue, DialogueSet
from halfwatt.dialogues.splits import SealedSplit
from halfwatt.evaluate import energy_analysis
from halfwatt.evaluate.energy_protocol import Run
from halfwatt.evaluate.facts import facts_of
from halfwatt.evaluate.fit import fit_of_candidate
from halfwatt.evaluate.gate import likelihood_check, overall_verdict, statistical_checks, teacher_checks
from halfwatt.evaluate.records import Fit, GateCheck, Measurement, QualityInputs, TeacherScore
from halfwatt.evaluate.replies import generate_replies
from halfwatt.evaluate.saving_explained import SavingExplained, cpu_s_per_token, explain_saving
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.discover import Instruments
from halfwatt.models.chat_model import ChatModel
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.search.build import build_artifact
from halfwatt.search.job import Job
from halfwatt.search.judgement import FitOrder, all_reference_replies, judge_named, reference_fit
from halfwatt.search.lab import Contender, Lab
from halfwatt.search.stage_store import StageStore
from halfwatt.search.stages import MeasureOrder, TuneOrder, likelihood, measure, tune

FIRST_LOOK = 60  # dialogues: what loses 0.06 nats where 0.02 are allowed is beyond doubt on so many


@dataclass(frozen=True, slots=True)
class Field:
    """Who meets, on what.

    reference:  B1
    judged:     dialogues of the split on which the gate looks at each, its first ones; 0 = it does not
    at:         how the others are served; None = each at the operating point that is the best for it
    train:      dialogues that careful toolkits calibrate on
    folder:     of the original, as toolkits read it
    known:      what the gate said before, on the same dialogues, by name
    asked:      what it read then: the reference's replies and how they fit
    best_only:  of the peers, the cheapest first, none is judged once one has passed
    """

    lab: Lab
    reference: Contender
    winner: Contender
    plan: MeasurePlan
    judged: int
    train: tuple[Dialogue, ...]
    folder: Path
    at: OperatingPoint | None = None
    known: Mapping[str, Sequence[GateCheck]] = field(default_factory=dict)
    asked: QualityInputs | None = None
    best_only: bool = False

    def serve(self, name: str, artifact: Artifact) -> Contender:
        """At its operating point."""
        contender = Contender(name, artifact, self.at or OperatingPoint())
        if self.at is not None:
            return contender
        plan = self.lab.job.settings.protocol.tune
        return replace(contender, at=self.lab.run(tune, TuneOrder(contender, plan)).best)


def lab_of(
    model: ChatModel,
    dialogues: DialogueSet,
    out: Path,
    tools: Instruments,
    shops: Sequence[Workshop],
    settings: RunSettings,
) -> Lab:
    """The dialogues that are measured, and the workers that serve the toolkits' models."""
    serve = {shop.toolkit.module: shop.serves for shop in shops}
    sealed = SealedSplit(demo.dialogues("test"), out / "unused.json")
    job = Job(model, demo.dialogues("tune"), sealed, out, tools, replace(settings, commands=serve, progress=say))
    identity = {"model": model.sha256, "dialogues": dialogues.sha256, "judge": settings.judge or "the original"}
    return Lab.of(job, StageStore(out / "stages", identity), dialogues, "test")


def original(lab: Lab) -> Contender:
    """B1, not tuned yet."""
    job = lab.job
    artifact = build_artifact(job.model, Recipe("B1"), proof_of(lab), job.out / "artifacts")
    return Contender("B1", artifact, OperatingPoint())


def run_field(field: Field, names: Sequence[str], shops: Sequence[Workshop]) -> list[dict[str, Any]]:
    """A row for each peer, B1 and the winner."""
    field = replace(field, reference=field.serve("B1", field.reference.artifact))
    peers = llamacpp_peers(field) if "llamacpp" in names else []
    peers += [peer for shop in shops for peer in toolkit_peers(shop, field)]
    run = field.lab.run(measure, MeasureOrder((*peers, field.reference, field.winner), field.plan))
    rows, passed = dict[str, dict[str, Any]](), False
    for peer in sorted(peers, key=lambda peer: _cost(peer, run).cpu_s_per_reply.mean):
        asked = replace(field, judged=0) if field.best_only and passed else field
        rows[peer.name] = row(asked, peer, run)
        passed |= rows[peer.name]["verdict"] == "PASS"
    return [*(rows[peer.name] for peer in peers), row(field, field.reference, run), row(field, field.winner, run)]


def proof_of(lab: Lab) -> tuple[Dialogue, ...]:
    """What exports are proved on: as many dialogues as a search takes."""
    return lab.workload.dialogues[: lab.job.settings.protocol.parity_dialogues]


# --- the peers --------------------------------------------------------------------------------------------------------


def llamacpp_peers(field: Field) -> list[Contender]:
    """llama.cpp's own integers, in the runtime that halfwatt serves with."""
    b1, folder = field.reference.artifact, field.lab.job.out / "artifacts"
    artifacts = {kind: llamacpp.quantize(b1, kind, folder / kind.lower()) for kind in llamacpp.KINDS}
    return [field.serve(f"llama.cpp {kind}", artifact) for kind, artifact in artifacts.items()]


def toolkit_peers(shop: Workshop, field: Field) -> list[Contender]:
    """All that a toolkit makes of the original; what is judged with care too."""
    job = field.lab.job
    texts = write_texts(field.train, job.model.tokenizer, job.out / "texts.jsonl")
    peers = []
    for kind in (*shop.toolkit.kinds, *(shop.toolkit.careful if field.judged else ())):
        name = f"{shop.toolkit.name} {kind}"
        say(f"{name}: making it")
        folder = job.out / "artifacts" / Recipe(name).slug
        peers.append(field.serve(name, shop.build(kind, field.folder, field.reference.artifact, texts, folder)))
    return peers


# --- the rows ---------------------------------------------------------------------------------------------------------


def _cost(contender: Contender, run: Run) -> Measurement:
    return energy_analysis.measurement(contender.name, run.windows, run.meter)


def row(field: Field, contender: Contender, run: Run) -> dict[str, Any]:
    """Its cost over the winner's, and what the gate says."""
    name, artifact = contender.name, contender.artifact
    cost = _cost(contender, run)
    reference, itself = name == "B1", name == "winner"
    checks = [] if reference or not field.judged else field.known.get(name) or gate_checks(field, contender)
    change = likelihood_check(checks)
    verdict = "reference" if reference else overall_verdict([c.verdict for c in checks]) if checks else "not judged"
    figure, vs = energy_analysis.cpu_s_per_reply, (name, "winner", run.windows)
    why = explained(field, contender, run)
    return {
        "name": name,
        "version": llamacpp.VERSION if artifact.runtime == llamacpp.RUNTIME else artifact.lineage[-1],
        "precision": artifact.precision,
        "weights_read_b": artifact.weights_read_b,
        "threads": contender.at.threads,
        "verdict": verdict,
        "not_passed": not_passed(checks),
        "nll_change": plain(None if change is None else change.estimate),
        "cpu_s_per_reply": plain(cost.cpu_s_per_reply),
        "cpu_s_ratio": None if itself else plain(energy_analysis.ratio(*vs, figure)),
        "of_it_a_token": None if itself else plain(energy_analysis.ratio(*vs, cpu_s_per_token)),
        "counted": None if why is None else plain(why.counted),
        "energy_ratio": None if itself else plain(energy_analysis.energy_ratio(*vs, run.meter)),
        "energy_kind": cost.kind,
    }


def not_passed(checks: Sequence[GateCheck]) -> list[str]:
    """Which checks a verdict hangs on, where it is no PASS."""
    return [f"{check.layer} {check.name}" for check in checks if check.verdict != "PASS"]


def explained(field: Field, contender: Contender, run: Run) -> SavingExplained | None:
    """What the winner saves over a peer whose replies the gate has read, as `evaluate.saving_explained` tells it of B1;
    None where they were not, or what it asked was not the winner."""
    if field.asked is None or "winner" not in field.known or not field.lab.store.has(_quality(field, contender)):
        return None
    inputs = replace(field.asked, replies_ref=read(field, contender).replies_cand)
    return explain_saving(contender.name, field.winner.name, run.windows, inputs)


def _stage(candidate: Contender) -> str:
    """The same weights, eager and compiled, are judged once."""
    return f"{Recipe(candidate.name.removesuffix(torchao.COMPILED)).slug}-{candidate.artifact.sha256[:12]}"


def _quality(field: Field, candidate: Contender) -> str:
    return f"quality-{_stage(candidate)}-{field.judged}"


def gate_checks(field: Field, candidate: Contender) -> list[GateCheck]:
    """G1 to G7 against the original, on the split that was measured; of what fails by its likelihood on the
    first dialogues G1 and G2, as in a search."""
    stage = _stage(candidate)
    whole, pair = field.lab.part(0, field.judged), (field.reference, candidate)
    look, margins = whole.part(0, FIRST_LOOK), whole.job.settings.margins
    scores = look.store.once(f"look-{stage}", tuple[TeacherScore, ...], lambda: likelihood(look, pair))
    first = teacher_checks(scores, margins)
    if any(check.verdict == "FAIL" for check in first):
        return first
    return statistical_checks(read(field, candidate, scores), margins, whole.job.model.tokenizer.special_tokens)


def read(field: Field, candidate: Contender, looked: tuple[TeacherScore, ...] = ()) -> QualityInputs:
    """What the gate reads of a candidate beside the original, once. looked: what is known of the first dialogues."""
    lab = field.lab.part(0, field.judged)
    return lab.store.once(_quality(field, candidate), QualityInputs, lambda: _inputs(field, lab, candidate, looked))


def where_asked(inputs: QualityInputs) -> tuple[Fit, ...]:
    """Of the dialogues that the reference answered, which are the first ones."""
    return tuple(fit for fit in inputs.fit if fit.reference)


def _inputs(field: Field, lab: Lab, candidate: Contender, looked: tuple[TeacherScore, ...]) -> QualityInputs:
    """Of the lab's dialogues. looked: the likelihoods of the first ones."""
    reference, ours = field.reference, lab.spec(candidate)
    judge, proof = judge_named(lab) or reference.for_likelihood(), reference.artifact.parity
    assert proof is not None  # the original's own: G1 to G7 do not look at it
    threads = candidate.at.threads or 1  # AutoRound's kernels take five times as long on one
    replies = generate_replies(ours, lab.workload.requests(), say, f"{candidate.name}: replies", threads=threads)
    scores, rest = looked, lab.part(len(looked), field.judged)
    if rest.workload.dialogues:
        scores += likelihood(rest, (reference, candidate))
    theirs = all_reference_replies(lab, reference) if field.asked is None else field.asked.replies_ref
    known = lab.run(reference_fit, FitOrder(reference, judge)) if field.asked is None else where_asked(field.asked)
    fit = fit_of_candidate(lab.spec(judge), lab.workload, known, replies, say)
    return QualityInputs(proof, scores, theirs, replies, facts_of(lab.workload.dialogues), fit)
