"""Distillation: a smaller or damaged model learns to answer as its teacher does.

    labels      cross-entropy of the human replies: no teacher; what distilling is compared with
    logits      knowledge distillation: w CE + (1 - w) D(teacher, student), temperature T     Hinton et al. 2015
    sequence    cross-entropy of the teacher's own sampled replies                            Kim and Rush 2016
    on_policy   D on replies that the student itself samples, mixed with the dialogues'       GKD, arXiv 2306.13649
    together    distillation training: teacher and student learn at once, the teacher from the labels and a little from
                the student, the student from both    Deep Mutual Learning, arXiv 1706.00384; weight 0 = logits

D is one of `losses.py`. All positions are the assistant's tokens, end of turn included. The student is the model that
the step is given (pruned, trimmed), the teacher the recipe's original. Both must read the same tokens: a recipe that
trims the vocabulary trims its teacher with it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from halfwatt.compress.base import Stage, Step, StepContext
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Batch, Predictor, Row, collate, encode_rows
from halfwatt.compress.training.loop import Objective, TrainingSettings, default_groups, learn_labels, train
from halfwatt.compress.training.teacher_cache import RuntimeTeacher, with_teacher
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.meters.cost import Cost, CostMeter
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.thinking import answer_of
from halfwatt.models.tokenizer import ChatTokenizer

Kind = Literal["labels", "logits", "sequence", "on_policy", "together"]
Divergence = Literal["forward_kl", "reverse_kl", "skewed_kl", "skewed_reverse_kl", "jsd"]
Forward = Callable[..., Any]

_PROMPTS_AT_ONCE = 32


def divergence(kind: Divergence, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """D of two [n, vocabulary] logits, [n]; the skewed ones and jsd are defined at temperature 1."""
    tempered = {"forward_kl": losses.forward_kl, "reverse_kl": losses.reverse_kl}
    if kind in tempered:
        return tempered[kind](teacher, student, temperature)
    untempered = {"skewed_kl": losses.skewed_kl, "skewed_reverse_kl": losses.skewed_reverse_kl, "jsd": losses.jsd}
    return untempered[kind](teacher, student)


def training_dialogues(context: StepContext, epochs: float) -> tuple[Dialogue, ...]:
    """What a training of so many epochs meets; of less than one other dialogues for other numbers, so that a second
    lesson is not the first one again. No teacher is asked about the rest.
    """
    return context.some(math.ceil(epochs * len(context.dialogues)), round(epochs * 1e6))


@torch.no_grad()
def sample(
    model: ChatModel, prompts: Sequence[Sequence[int]], temperature: float, cap: int, seed: int
) -> list[list[int]]:
    """One sampled continuation of each prompt, a stop token included where there is one."""
    network: Any = model.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = [torch.tensor(prompt) for prompt in prompts]
        ids = pad_sequence(rows, batch_first=True, padding_value=-1, padding_side="left").to(network.device)
        sequences = network.generate(
            input_ids=ids.clamp_min(0) + (ids < 0) * model.tokenizer.pad_id,
            attention_mask=(ids >= 0).long(),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=cap,
            eos_token_id=list(model.tokenizer.eos_ids),
            pad_token_id=model.tokenizer.pad_id,
        )
    replies: list[list[int]] = sequences[:, ids.shape[1] :].tolist()
    ends = (next((k for k, i in enumerate(ids, start=1) if i in model.tokenizer.eos_ids), None) for ids in replies)
    return [ids[:end] for ids, end in zip(replies, ends, strict=True)]


def answer_anew(
    model: ChatModel, dialogues: Sequence[Dialogue], cap: int, context: StepContext
) -> tuple[list[Dialogue], Cost]:
    """The dialogues with every reply of the assistant replaced by one of ``model``'s, given the human's turns before.

    Replies that ran to the cap or say nothing are dropped with all that follows; a dialogue without any is left out.
    Comes with what it took, a pass over the weights for each token of the longest reply of a batch.
    """
    cost_meter, tokens, passes = CostMeter(context.meter, context.device), 0, 0
    messages: list[tuple[Message, ...]] = [() for _ in dialogues]
    live, opened = list(range(len(dialogues))), model.tokenizer.opens_thinking
    for turn in range(max(len(d.assistant_turns) for d in dialogues)):
        ready = [i for i in live if turn < len(dialogues[i].assistant_turns)]
        live = []
        for start in range(0, len(ready), _PROMPTS_AT_ONCE):
            some, prompts = ready[start : start + _PROMPTS_AT_ONCE], []
            for i in some:
                last, at = (-1, *dialogues[i].assistant_turns)[turn : turn + 2]
                prompts.append(Dialogue(dialogues[i].id, (*messages[i], *dialogues[i].messages[last + 1 : at])))
            ids = [model.tokenizer.prompt_ids(prompt) for prompt in prompts]
            replies = sample(model, ids, 0.8, cap, seed=context.settings.seed + 1009 * turn + start)
            tokens, passes = tokens + sum(map(len, replies)), passes + max(map(len, replies))
            for i, prompt, reply in zip(some, prompts, replies, strict=True):
                text = answer_of(model.tokenizer.decode(reply), opened=opened)
                if reply and reply[-1] in model.tokenizer.eos_ids and text.strip():
                    messages[i] = (*prompt.messages, Message("assistant", text))
                    live.append(i)
            context.settings.progress(f"teacher's replies, turn {turn + 1}: {start + len(some)} of {len(ready)}")
    answered = [Dialogue(d.id, own, d.source) for d, own in zip(dialogues, messages, strict=True) if own]
    weights_b = sum(p.nbytes for p in model.network.parameters())
    return answered, cost_meter.lap(tokens, passes * weights_b)


class _Pair(nn.Module):
    """Student and teacher as one module, for training them together: (student's logits, teacher's logits)."""

    def __init__(self, student: Predictor, teacher: Predictor) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, ids: Tensor, reply: Tensor) -> tuple[Tensor, Tensor]:
        return self.student(ids, reply), self.teacher(ids, reply)


def _asked(original: ChatModel, context: StepContext) -> AbstractContextManager[RuntimeTeacher]:
    assert context.asking is not None, "whoever loads an original that can only be run says how it is asked"
    return context.asking(original.tokenizer)


def _require_same_words(student: ChatTokenizer, teacher: ChatTokenizer, rows: Sequence[Row]) -> None:
    """A teacher that reads the same ids as other words would teach nonsense. Raises BadInput where it does."""
    used = sorted({token for row in rows for token in row.ids})
    pairs = ((student.hf.convert_ids_to_tokens(token), teacher.hf.convert_ids_to_tokens(token)) for token in used)
    if (other := next((pair for pair in pairs if pair[0] != pair[1]), None)) is not None:
        own, theirs = map(repr, other)
        what = "teacher and student have as many tokens, but not the same"
        raise BadInput(what, got=f"{own} is the teacher's {theirs}", hint="trim both by the same dialogues")


@dataclass(frozen=True, slots=True)
class Distil(Step):
    """Learn from the original."""

    kind: Kind = "logits"
    """labels, logits, sequence, on_policy or together; docs/recipes.md says what each learns from."""
    divergence: Divergence = "forward_kl"
    """forward_kl covers all that the teacher might say; the default at temperature 2."""
    temperature: float = 2.0
    """Of both softmaxes; the loss is times its square."""
    label_weight: float = 0.3
    """Share of the human replies' cross-entropy in the loss."""
    epochs: float = 1.0
    """Passes over the dialogues; less than one is one pass over so many of them."""
    lr: float = 1e-3
    """1e-3 for 10 to 30M parameters, 3 to 5e-4 for 100 to 160M, 1 to 2e-4 for 350 to 500M."""
    batch_tokens: int = 4096
    """Of a step, padding included."""
    longest: int = 512
    """Tokens of a dialogue that are learned from."""
    horizon: float | None = None
    """Passes over the dialogues that the weights are a mean of: AdamW's decay is 1 / (lr x steps a pass x horizon). A
    few, where a network meets the same dialogues many times; None = a decay of 0.1."""
    own_share: float = 0.5
    """on_policy: share of the steps that learn from the student's own replies."""
    own_cap: int = 96
    """on_policy and sequence: the most tokens of a reply."""
    teacher_weight: float = 0.1
    """together: how much the teacher learns from the student; it learns the labels with the rest."""
    teacher_lr: float = 0.1
    """together: its learning rate, as a share of ``lr``."""
    cached: int = 0
    """logits at temperature 1: so many best tokens a position are kept of one pass; 0 = the teacher is asked always."""
    asked: float = 1.0
    """cached: share of the dialogues that the teacher is asked about; of the rest the human replies are learned."""

    name: ClassVar[str] = "distil"
    stage: ClassVar[Stage] = Stage.RECOVERY
    trains: ClassVar[bool] = True

    def problems(self, model: ChatModel) -> list[str]:
        shares = {"label_weight": self.label_weight, "own_share": self.own_share, "teacher_weight": self.teacher_weight}
        shares |= {"asked": self.asked}
        problems = [f"{name} must lie between 0 and 1, not {x:g}" for name, x in shares.items() if not 0 <= x <= 1]
        if self.epochs <= 0 or self.lr <= 0 or self.temperature <= 0:
            problems.append("epochs, lr and temperature must be above 0")
        if self.horizon is not None and self.horizon <= 0:
            problems.append(f"horizon must be above 0, not {self.horizon:g}")
        vocabulary = model.network.config.vocab_size
        if self.cached and not 0 < self.cached < vocabulary:
            problems.append(f"cached must lie between 0 and the vocabulary's {vocabulary}, not {self.cached}")
        if self.cached and (self.kind, self.divergence, self.temperature) != ("logits", "forward_kl", 1):
            problems.append("cached logits serve kind logits with forward_kl at temperature 1 alone")
        if model.grid:
            problems.append("the model is on the integer grid already: distil first, then quantize")
        return problems

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Train a float32 copy.

        Raises:
            BadInput: no original to learn from, one with another vocabulary, or no dialogues.
            TrainingDiverged: see `train`.
        """
        original = model if self.kind == "labels" else self._original(model, context)
        model = replace(model, tokenizer=model.tokenizer.answering_at_once())
        student: Any = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
        teacher: Any = None if original.run_only else copy.deepcopy(original.network)
        dialogues: Sequence[Dialogue] = training_dialogues(context, self.epochs)
        teacher_cost = Cost()
        if self.kind == "sequence":
            dialogues, teacher_cost = answer_anew(original, dialogues, self.own_cap, context)
        learner = replace(model, network=student)
        longest = min(self.longest, model.context)
        rows = encode_rows(dialogues, model.tokenizer, longest, context.settings.progress)
        _require_same_words(model.tokenizer, original.tokenizer, rows)
        settings = TrainingSettings(self.lr, max(1.0, self.epochs), self.batch_tokens, horizon=self.horizon)
        if self.kind == "together":
            pair = _Pair(Predictor(student), Predictor(teacher.float()))
            slower = (replace(group, lr_factor=self.teacher_lr) for group in default_groups(pair.teacher))
            history = train(pair, self._together, rows, settings, context, (*default_groups(pair.student), *slower))
        else:
            frozen = None if teacher is None else Predictor(teacher.to(context.device)).eval().requires_grad_(False)
            if self.cached:
                with nullcontext(frozen) if frozen else _asked(original, context) as source:
                    rows, teacher_cost = self._with_answers(rows, source, context)
            objective = self._objective(frozen, learner, context.settings.seed)
            history = train(Predictor(student), objective, rows, settings, context)
        lineage, spent = (*model.lineage, self._summary(history.steps)), teacher_cost + history.spent
        return replace(learner, network=student.cpu().eval(), lineage=lineage, spent=(*model.spent, spent))

    def _with_answers(
        self, rows: Sequence[Row], teacher: Predictor | RuntimeTeacher, context: StepContext
    ) -> tuple[list[Row], Cost]:
        """Rows with the teacher's answers, those that it is not asked about with the human ones in their place."""
        few = context.some(math.ceil(self.asked * len(context.dialogues)), crc32(b"asked"))
        names = {dialogue.id for dialogue in few}
        some, cost = with_teacher([row for row in rows if row.name in names], teacher, self.cached, context)
        return [*some, *(row.with_labels(self.cached) for row in rows if row.name not in names)], cost

    def _original(self, model: ChatModel, context: StepContext) -> ChatModel:
        if context.original is None:
            raise BadInput("there is no original to distil from", hint="give --teacher FOLDER")
        student, teacher = (m.network.config.vocab_size for m in (model, context.original))
        if student != teacher:
            raise BadInput(
                "teacher and student do not have the same vocabulary",
                got=f"{teacher} and {student} tokens",
                hint="trim the teacher with the same keep-set; a recipe does so by itself",
            )
        if context.original.run_only and not self.cached:
            hint = "give kind logits with cached 32 and temperature 1, or kind labels"
            raise BadInput("an original that can only be run teaches by cached logits alone", got=self.kind, hint=hint)
        return context.original

    def _objective(self, teacher: Predictor | None, learner: ChatModel, seed: int) -> Objective:
        if self.kind in ("labels", "sequence"):
            return learn_labels

        def objective(model: Forward, batch: Batch) -> Tensor:
            if batch.teacher is not None:
                logits = model(batch.ids, batch.reply)
                return self._with_labels(losses.tail_kl(batch.teacher, logits), logits, batch.labels)
            draw = crc32(repr((seed, batch.names)).encode())  # no state: a resumed run draws the same
            if own := self.kind == "on_policy" and draw / 2**32 < self.own_share:
                batch = self._own_replies(learner, batch, draw)
            assert teacher is not None, "what can only be run has answered before"
            with torch.no_grad():
                targets = teacher(batch.ids, batch.reply)
            logits = model(batch.ids, batch.reply)
            nats = divergence(self.divergence, targets, logits, self.temperature)
            return nats if own else self._with_labels(nats, logits, batch.labels)  # what the student says is no label

        return objective

    def _with_labels(self, nats: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The divergence from the teacher, and the human replies' share of the loss."""
        share = self.label_weight
        return share * losses.label_nll(logits, labels) + (1 - share) * nats if share else nats

    def _together(self, model: Forward, batch: Batch) -> Tensor:
        """The student's loss and the teacher's, added; neither sends a gradient into the other."""
        student, teacher = model(batch.ids, batch.reply)
        nats = divergence(self.divergence, teacher.detach(), student, self.temperature)
        student_loss, share = self._with_labels(nats, student, batch.labels), self.teacher_weight
        label_loss, from_student = losses.label_nll(teacher, batch.labels), losses.forward_kl(student.detach(), teacher)
        return student_loss + (1 - share) * label_loss + share * from_student

    def _own_replies(self, learner: ChatModel, batch: Batch, seed: int) -> Batch:
        """The batch's dialogues up to their last reply, which the student samples anew."""
        prompts = []
        for ids, reply in zip(batch.ids.tolist(), batch.reply.tolist(), strict=True):
            if any(reply):
                end = len(reply) - reply[::-1].index(True)
                prompts.append(ids[: next((k for k in range(end, 0, -1) if not reply[k - 1]), 0)])
        network: Any = learner.network
        network.eval()
        replies = sample(learner, prompts, 1.0, self.own_cap, seed)
        network.train()
        pairs = zip(prompts, replies, strict=True)
        rows = [Row("own", (*given, *ids), (*[False] * len(given), *[True] * len(ids))) for given, ids in pairs]
        return collate(rows).to(batch.ids.device)

    def _summary(self, steps: int) -> str:
        loss = "" if self.kind in ("labels", "sequence") else f", {self.divergence} at temperature {self.temperature:g}"
        return f"distilled ({self.kind}{loss}) for {steps} steps of {self.batch_tokens} tokens, lr {self.lr:g}"
