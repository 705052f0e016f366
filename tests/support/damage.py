"""Models broken on purpose, each in one way, for the gate to reject. Broken weights, files and decoding, all real.

reference  the demo model in llama.cpp at 16 bits
candidate  the same model, damaged, exported and proved by the real pipeline
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from llama_cpp import llama_cpp as llama

from halfwatt.compress.apply import apply_step
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe
from halfwatt.core.files import sha256_file
from halfwatt.core.settings import Margins
from halfwatt.evaluate import examine, facts
from halfwatt.evaluate.examine import Yardstick
from halfwatt.evaluate.fit import fit_of_candidate
from halfwatt.evaluate.gate import judge
from halfwatt.evaluate.records import QualityInputs, QualityReport, ScoredReply
from halfwatt.evaluate.replies import scored_reply, special_ids
from halfwatt.evaluate.requests import Workload
from halfwatt.formats import gguf
from halfwatt.formats.artifact import Artifact
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.sampling import Sampling
from halfwatt.models.weights import untie, weights
from halfwatt.runtimes import llamacpp_session
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.serving_process import ServingSpec
from halfwatt.search.build import build_artifact

REPEAT_BONUS = 3.0  # logits


@dataclass(frozen=True)
class Bench:
    """What every damage starts from."""

    model: ChatModel
    workload: Workload
    yardstick: Yardstick
    work: Path

    @property
    def reference(self) -> ServingSpec:
        return self.yardstick.reference

    @property
    def replies(self) -> tuple[ScoredReply, ...]:
        """The reference's."""
        return self.yardstick.replies

    @classmethod
    def of(cls, model: ChatModel, workload: Workload, work: Path) -> Bench:
        """Export the model as it is and let it answer."""
        reference = exported(model, Recipe("B1"), workload, work / "reference")
        return cls(model, workload, Yardstick.of(reference, reference, workload, lambda _: None), work)

    def judged(self, candidate: ServingSpec) -> QualityReport:
        """The gate's report on a candidate."""
        return self.report(examine.examine(self.yardstick, candidate, self.workload, lambda _: None))

    def of_replies(self, replies: Sequence[ScoredReply], beside: Sequence[ScoredReply] | None = None) -> QualityReport:
        """The reference's weights, saying something else; ``beside`` what the reference itself says, unless given."""
        known, workload, parity = self.yardstick.fit, self.workload, self.reference.artifact.parity
        assert parity is not None
        scores = examine.teacher_scores(self.reference, self.reference, workload, lambda _: None)
        fit = fit_of_candidate(self.yardstick.judge, workload, known, replies, lambda _: None)
        theirs, values = tuple(beside or self.replies), facts.facts_of(workload.dialogues)
        return self.report(QualityInputs(parity, scores, theirs, tuple(replies), values, fit))

    def report(self, inputs: QualityInputs) -> QualityReport:
        special = self.model.tokenizer.special_tokens
        return judge(inputs, split="tune", margins=Margins(), special=special, seed=0)

    def of_weights(self, name: str, change: Callable[[Any], None], *, untied: bool = False) -> ServingSpec:
        """Export a float32 copy of the network after ``change``."""
        network = copy.deepcopy(self.model.network).float()  # type: ignore[no-untyped-call]
        if untied:
            untie(network)
        with torch.no_grad():
            change(network)
        return exported(replace(self.model, network=network), Recipe(name), self.workload, self.work / name)


def exported(model: ChatModel, recipe: Recipe, workload: Workload, folder: Path) -> ServingSpec:
    return ServingSpec(build_artifact(model, recipe, workload.dialogues[:64], folder), OperatingPoint(threads=1))


# --- the damages ---------------------------------------------------------------------------------------------------


def eos_bias(bench: Bench) -> QualityReport:
    """-2 on the logit of the end-of-turn token: least squares over real hidden states, for there is no bias to set."""

    def change(network: Any) -> None:
        states = torch.cat([_hidden(network, ids) for ids in _some_ids(bench, 24)])
        shift = torch.linalg.lstsq(states, torch.full((len(states), 1), -2.0)).solution.squeeze(1)
        for token in bench.model.tokenizer.eos_ids:
            network.lm_head.weight[token] += shift

    return bench.judged(bench.of_weights("eos-bias", change, untied=True))


def eos_swapped(bench: Bench) -> QualityReport:
    """The artifact's folder names another token as the one that ends a turn."""
    folder = bench.work / "eos-swapped"
    shutil.copytree(bench.reference.artifact.path, folder)
    path = folder / "generation_config.json"
    other = bench.model.tokenizer.encode("the")[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [other]}))
    return bench.judged(replace(bench.reference, artifact=replace(bench.reference.artifact, path=folder)))


def template_removed(bench: Bench) -> QualityReport:
    """The artifact's folder has lost its chat template."""
    folder = bench.work / "template-removed"
    shutil.copytree(bench.reference.artifact.path, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    return bench.judged(replace(bench.reference, artifact=replace(bench.reference.artifact, path=folder)))


def layer_zeroed(bench: Bench) -> QualityReport:
    """One layer adds nothing."""

    def change(network: Any) -> None:
        layer = network.model.layers[len(network.model.layers) // 2]
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            weight.zero_()

    return bench.judged(bench.of_weights("layer-zeroed", change))


def two_bits(bench: Bench) -> QualityReport:
    """Every matrix rounded to four levels, 32 weights a scale."""

    def change(network: Any) -> None:
        for weight in weights(network):
            groups = weight.parameter.view(-1, 32)
            scale = groups.abs().amax(1, keepdim=True).clamp_min(1e-9) / 2
            weight.parameter.copy_(((groups / scale).round().clamp(-2, 1) * scale).view_as(weight.parameter))

    return bench.judged(bench.of_weights("two-bits", change))


def nan_scale(bench: Bench) -> QualityReport:
    """One fp16 scale of an int8 artifact is NaN; the file's hash is made to fit, as by a faulty exporter."""
    spec = exported(bench.model, Recipe("int8", (Quantize(8),)), bench.workload, bench.work / "nan-scale")
    path = spec.artifact.path / "model.gguf"
    tensors = GGUFReader(path).tensors
    victim = next(t for t in tensors if t.tensor_type == GGMLQuantizationType.Q8_0 and "ffn" in t.name)
    with path.open("r+b") as file:
        file.seek(int(victim.data_offset))
        file.write(np.float16("nan").tobytes())
    broken: Artifact = replace(spec.artifact, sha256=sha256_file(path))
    model = apply_step(Quantize(8), bench.model)
    return bench.judged(replace(spec, artifact=examine.prove(model, replace(spec, artifact=broken), _few(bench))))


def head_random(bench: Bench) -> QualityReport:
    """The head is untied from the embedding and random."""

    def change(network: Any) -> None:
        torch.manual_seed(0)
        network.lm_head.weight.normal_(0.0, float(network.lm_head.weight.std()))

    return bench.judged(bench.of_weights("head-random", change, untied=True))


def rows_shuffled(bench: Bench) -> QualityReport:
    """The rows of the embedding and head belong to other words; the special tokens keep theirs."""

    def change(network: Any) -> None:
        rows = network.get_input_embeddings().weight
        first = len(bench.model.tokenizer.special_tokens)
        order = torch.randperm(len(rows) - first, generator=torch.Generator().manual_seed(0)) + first
        rows[first:] = rows[order].clone()

    return bench.judged(bench.of_weights("rows-shuffled", change))


def tokenizer_shuffled(bench: Bench) -> QualityReport:
    """The artifact's tokenizer gives two common words each other's ids."""
    folder = bench.work / "tokenizer-shuffled"
    shutil.copytree(bench.reference.artifact.path, folder)
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text())
    words = table["model"]["vocab"]
    a, b = "\u0120the", "\u0120you"
    words[a], words[b] = words[b], words[a]
    path.write_text(json.dumps(table))
    return bench.judged(replace(bench.reference, artifact=replace(bench.reference.artifact, path=folder)))


def repeat_bonus(bench: Bench) -> QualityReport:
    """+3 on the logit of every token that the reply holds already: a presence penalty of -3 in the sampler."""

    def tempted(sampling: Sampling, vocabulary: int, longest: int) -> Any:
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        bonus = llama.llama_sampler_init_penalties(vocabulary, longest, 1.0, 0.0, -REPEAT_BONUS)
        for link in (bonus, plain(sampling, vocabulary, longest)):
            llama.llama_sampler_chain_add(chain, link)
        return chain

    plain = llamacpp_session._sampler
    special = special_ids(bench.model.tokenizer)
    sampled = patch.multiple(llamacpp_session, _sampler=tempted, _is_greedy=lambda _: False)  # greedy, by a sampler
    with sampled, LlamaCpp().open(*_opening(bench.reference)) as session:
        replies = [
            scored_reply(p, session.reply([p.prompt], p.sampling)[0], special)
            for rows in bench.workload.requests()
            for p in rows
        ]
    return bench.of_replies(replies)


def values_swapped(bench: Bench) -> QualityReport:
    """What people answered, beside the same with every value swapped for another one."""
    known = {(f.dialogue, f.turn): f for f in facts.facts_of(bench.workload.dialogues)}

    def swapped(reply: ScoredReply) -> ScoredReply:
        text = reply.text
        for value in known[reply.dialogue, reply.turn].values:
            other = "".join(str((int(c) + 1) % 10) if c.isdigit() else "xyz"[ord(c) % 3] for c in value)
            text = re.sub(rf"(?<!\w){re.escape(value)}", other, text, flags=re.IGNORECASE)
        return replace(reply, text=text)

    people = [replace(reply, text=reply.reference) for reply in bench.replies]
    return bench.of_replies([swapped(reply) for reply in people], people)


def other_dialogues_replies(bench: Bench) -> QualityReport:
    """What a person answered, well styled, in another dialogue of the same source."""
    return bench.of_replies([_elsewhere(bench, reply) for reply in bench.replies])


def parrots_the_tenth(bench: Bench) -> QualityReport:
    """Right nine times of ten; the tenth dialogue gets what a person answered in another one."""
    tenth = {dialogue.id for dialogue in bench.workload.dialogues[::10]}
    return bench.of_replies([_elsewhere(bench, r) if r.dialogue in tenth else r for r in bench.replies])


def _elsewhere(bench: Bench, reply: ScoredReply) -> ScoredReply:
    """What a person said in the dialogue beside it, of the same source where there is one."""
    ordered = sorted(bench.workload.dialogues, key=lambda d: d.source)
    at = next(n for n, dialogue in enumerate(ordered) if dialogue.id == reply.dialogue)
    other = ordered[at - 1 if at and ordered[at - 1].source == ordered[at].source else (at + 1) % len(ordered)]
    turns = other.assistant_turns
    text = other.messages[turns[reply.turn // 2 % len(turns)]].content
    tokens = len(bench.workload.tokenizer.encode(text)) + 1
    return replace(reply, text=text, tokens=min(tokens, reply.cap), stopped=True, leaked=0)


def itself(bench: Bench) -> QualityReport:
    """No damage at all."""
    return bench.judged(bench.reference)


def in_float32(bench: Bench) -> QualityReport:
    """No damage either: the same weights served in float32, which only rounds otherwise."""
    with patch.object(gguf, "held_by_f16", lambda _: False):
        return bench.judged(bench.of_weights("float32", lambda _: None))


DAMAGES: tuple[tuple[Callable[[Bench], QualityReport], str], ...] = (
    (eos_bias, "G2"),
    (eos_swapped, "G0"),
    (template_removed, "G0"),
    (layer_zeroed, "G1"),
    (two_bits, "G1"),
    (nan_scale, "G0"),
    (head_random, "G1"),
    (rows_shuffled, "G1"),
    (tokenizer_shuffled, "G0"),
    (repeat_bonus, "G3"),
    (values_swapped, "G6"),
    (other_dialogues_replies, "G7"),
)
"""Each with the layer that has to see it, whatever the others say."""


def caught_by(report: QualityReport) -> Sequence[str]:
    """The layers that say FAIL."""
    return sorted({check.layer for check in report.checks if check.verdict == "FAIL"})


def _hidden(network: Any, ids: torch.Tensor) -> torch.Tensor:
    """[tokens, width] of what the head is given."""
    states: torch.Tensor = network.model(input_ids=ids).last_hidden_state[0]
    return states


def _some_ids(bench: Bench, count: int) -> list[torch.Tensor]:
    return [torch.tensor([bench.model.tokenizer.scored(d).ids]) for d in bench.workload.dialogues[:count]]


def _opening(spec: ServingSpec) -> tuple[Artifact, OperatingPoint]:
    return spec.artifact, spec.at


def _few(bench: Bench) -> Any:
    return bench.workload.dialogues[:8]
