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
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from zlib import crc32

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from halfwatt.compress.base import Stage, StepContext
from halfwatt.compress.training import losses, teacher_cache
from halfwatt.compress.training.batches import Batch, Predictor, Row, collate, rows
from halfwatt.compress.training.loop import Group, Settings, default_groups, train
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.meters.cost import Cost, CostMeter
from halfwatt.models.chat_model import ChatModel

Kind = Literal["labels", "logits", "sequence", "on_policy", "together"]
Divergence = Literal["forward_kl", "reverse_kl", "skewed_kl", "skewed_reverse_kl", "jsd"]
Forward = Callable[..., Any]
Tensor = torch.Tensor

_PROMPTS_AT_ONCE = 32


# --- pure ----------------------------------------------------------------------------------------------------------


def divergence(kind: Divergence, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """D of two [n, vocabulary] logits, [n]; the skewed ones and jsd are defined at temperature 1."""
    if kind == "forward_kl":
        return losses.forward_kl(teacher, student, temperature)
    if kind == "reverse_kl":
        return losses.reverse_kl(teacher, student, temperature)
    if kind == "skewed_kl":
        return losses.skewed_kl(teacher, student)
    if kind == "skewed_reverse_kl":
        return losses.skewed_reverse_kl(teacher, student)
    return losses.jsd(teacher, student)


def share(context: StepContext, epochs: float) -> tuple[Dialogue, ...]:
    """What a training of so many epochs meets; of less than one other dialogues for other numbers, so that a second
    lesson is not the first one again. No teacher is asked about the rest.
    """
    return context.some(math.ceil(epochs * len(context.dialogues)), round(epochs * 1e6))


# --- replies to learn from -----------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    model: ChatModel, prompts: Sequence[Sequence[int]], temperature: float, cap: int, seed: int
) -> list[list[int]]:
    """One sampled continuation of each prompt, a stop token included where there is one."""
    network: Any = model.network
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flipped = [torch.tensor(list(reversed(p))) for p in prompts]  # padded on the left, as `generate` wants it
        ids = pad_sequence(flipped, batch_first=True, padding_value=-1).flip(1).to(device)
        made = network.generate(
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
    return [_until_stop(row.tolist(), model.tokenizer.eos_ids) for row in made[:, ids.shape[1] :]]


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    for k, token in enumerate(ids):
        if token in stops:
            return ids[: k + 1]
    return ids


def retold(
    model: ChatModel, dialogues: Sequence[Dialogue], cap: int, context: StepContext
) -> tuple[list[Dialogue], Cost]:
    """The dialogues with every reply of the assistant replaced by one of ``model``'s, given the human's turns before.

    Replies that ran to the cap or say nothing are dropped with all that follows; a dialogue without any is left out.
    Comes with what it took, a pass over the weights for each token of the longest reply of a batch.
    """
    laps, tokens, passes = CostMeter(context.meter, context.device), 0, 0
    told: dict[int, list[Message]] = {i: [] for i in range(len(dialogues))}
    live = list(range(len(dialogues)))
    for turn in range(max(len(d.assistant_turns) for d in dialogues)):
        asked = [i for i in live if turn < len(dialogues[i].assistant_turns)]
        live = []
        for start in range(0, len(asked), _PROMPTS_AT_ONCE):
            some = asked[start : start + _PROMPTS_AT_ONCE]
            prompts = []
            for i in some:
                at = dialogues[i].assistant_turns[turn]
                begun = dialogues[i].assistant_turns[turn - 1] + 1 if turn else 0
                told[i] += dialogues[i].messages[begun:at]
                prompts.append(model.tokenizer.prompt_ids(Dialogue(dialogues[i].id, tuple(told[i]))))
            replies = sample(model, prompts, 0.8, cap, seed=context.seed + 1009 * turn + start)
            tokens, passes = tokens + sum(map(len, replies)), passes + max(map(len, replies))
            for i, ids in zip(some, replies, strict=True):
                text = model.tokenizer.decode(ids)
                if ids and ids[-1] in model.tokenizer.eos_ids and text.strip():
                    told[i].append(Message("assistant", text))
                    live.append(i)
            context.progress(f"teacher's replies, turn {turn + 1}: {start + len(some)} of {len(asked)}")
    done = [Dialogue(d.id, _ending_in_reply(told[i]), d.source) for i, d in enumerate(dialogues)]
    weights_b = sum(p.nbytes for p in model.network.parameters())
    return [d for d in done if d.messages], laps.lap(tokens, passes * weights_b)


def _ending_in_reply(messages: list[Message]) -> tuple[Message, ...]:
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]
    return tuple(messages)


# --- the step ------------------------------------------------------------------------------------------------------


class _Pair(nn.Module):
    """Student and teacher as one module, for training them together: (student's logits, teacher's logits)."""

    def __init__(self, student: Predictor, teacher: Predictor) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, ids: Tensor, reply: Tensor) -> tuple[Tensor, Tensor]:
        return self.student(ids, reply), self.teacher(ids, reply)


@dataclass(frozen=True, slots=True)
class Distil:
    """Learn from the original.

    kind:            labels, logits, sequence, on_policy or together; docs/recipes.md says what each learns from
    divergence:      forward_kl covers all that the teacher might say; the default at temperature 2
    temperature:     of both softmaxes; the loss is times its square
    label_weight:    share of the human replies' cross-entropy in the loss
    epochs:          passes over the dialogues; less than one is one pass over so many of them
    lr:              1e-3 for 10 to 30M parameters, 3 to 5e-4 for 100 to 160M, 1 to 2e-4 for 350 to 500M
    batch_tokens:    of a step, padding included
    longest:         tokens of a dialogue that are learned from
    own_share:       on_policy: share of the steps that learn from the student's own replies
    own_cap:         on_policy and sequence: the most tokens of a reply
    teacher_weight:  together: how much the teacher learns from the student; it learns the labels with the rest
    teacher_lr:      together: its learning rate, as a share of ``lr``
    cached:          logits: the teacher is asked once, and its so many best tokens of each position are kept, the rest
                     as one bucket (forward KL at temperature 1); 0 = it is asked in every step
    """

    kind: Kind = "logits"
    divergence: Divergence = "forward_kl"
    temperature: float = 2.0
    label_weight: float = 0.3
    epochs: float = 1.0
    lr: float = 1e-3
    batch_tokens: int = 4096
    longest: int = 512
    own_share: float = 0.5
    own_cap: int = 96
    teacher_weight: float = 0.1
    teacher_lr: float = 0.1
    cached: int = 0

    name: ClassVar[str] = "distil"
    stage: ClassVar[Stage] = Stage.RECOVERY
    source: ClassVar[str] = "Hinton et al. 2015; Kim and Rush 2016; GKD, arXiv 2306.13649; arXiv 1706.00384"

    def problems(self, model: ChatModel) -> list[str]:
        """Values that cannot be, and a model that is on the grid already."""
        shares = {"label_weight": self.label_weight, "own_share": self.own_share, "teacher_weight": self.teacher_weight}
        found = [f"{name} must lie between 0 and 1, not {x:g}" for name, x in shares.items() if not 0 <= x <= 1]
        if self.epochs <= 0 or self.lr <= 0 or self.temperature <= 0:
            found.append("epochs, lr and temperature must be above 0")
        found += self._uncachable(model.network.config.vocab_size) if self.cached else []
        if model.grid:
            found.append("the model is on the integer grid already: distil first, then quantize")
        return found

    def _uncachable(self, vocabulary: int) -> list[str]:
        """Why k tokens and a bucket cannot stand for the teacher."""
        found = []
        if not 0 < self.cached < vocabulary:
            found.append(f"cached must lie between 0 and the vocabulary's {vocabulary}, not {self.cached}")
        if self.kind != "logits" or self.divergence != "forward_kl" or self.temperature != 1:
            found.append("cached logits serve kind logits with forward_kl at temperature 1 alone")
        return found

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Train a float32 copy.

        Raises:
            BadInput: no original to learn from, one with another vocabulary, or no dialogues.
            TrainingDiverged: see `train`.
        """
        original = model if self.kind == "labels" else self._teacher(model, context)
        student: Any = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
        teacher: Any = copy.deepcopy(original.network)
        dialogues: Sequence[Dialogue] = share(context, self.epochs)
        asked = Cost()
        if self.kind == "sequence":
            dialogues, asked = retold(original, dialogues, self.own_cap, context)
        learner = replace(model, network=student)
        told = rows(dialogues, model.tokenizer, min(self.longest, model.context))
        epochs = max(1.0, self.epochs)
        settings = Settings(self.lr, epochs, self.batch_tokens, precision=context.precision, seed=context.seed)
        bench = context.bench(self.name, model.tokenizer.pad_id)
        if self.kind == "together":
            pair = _Pair(Predictor(student), Predictor(teacher.float()))
            groups = (*default_groups(pair.student), *self._slower(default_groups(pair.teacher)))
            history = train(pair, self._together, told, settings, bench, groups)
        else:
            frozen = Predictor(teacher.to(context.device)).eval().requires_grad_(False)
            if self.cached:
                told, asked = teacher_cache.taught(told, frozen, self.cached, bench, context.shared)
            history = train(Predictor(student), self._objective(frozen, learner, context), told, settings, bench)
        spent = (*model.spent, asked + history.spent)
        return replace(
            learner, network=student.cpu().eval(), lineage=(*model.lineage, self._summary(history.steps)), spent=spent
        )

    def _teacher(self, model: ChatModel, context: StepContext) -> ChatModel:
        if context.original is None:
            raise BadInput("there is no original to distil from", hint="give --teacher FOLDER")
        wanted, found = model.network.config.vocab_size, context.original.network.config.vocab_size
        if wanted != found:
            raise BadInput(
                "teacher and student do not have the same vocabulary",
                got=f"{found} and {wanted} tokens",
                hint="trim the teacher with the same keep-set; a recipe does so by itself",
            )
        return context.original

    def _slower(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        return tuple(replace(g, lr_factor=self.teacher_lr) for g in groups)

    def _objective(self, teacher: Predictor, learner: ChatModel, context: StepContext) -> Callable[..., Tensor]:
        if self.kind in ("labels", "sequence"):
            return lambda model, batch: losses.label_nll(model(batch.ids, batch.reply), batch.labels)

        def objective(model: Forward, batch: Batch) -> Tensor:
            seed = crc32(repr((context.seed, batch.names)).encode())  # no state: a resumed run draws the same
            if batch.taught is not None:
                said = model(batch.ids, batch.reply)
                return self._mixed(said, batch.labels, losses.tail_kl(batch.taught, said))
            own = self.kind == "on_policy" and seed / 2**32 < self.own_share
            if own:
                batch = self._own_replies(learner, batch, seed)
            with torch.no_grad():
                wanted = teacher(batch.ids, batch.reply)
            said = model(batch.ids, batch.reply)
            apart = divergence(self.divergence, wanted, said, self.temperature)
            return apart if own else self._mixed(said, batch.labels, apart)  # what the student made up is no label

        return objective

    def _mixed(self, said: Tensor, labels: Tensor, apart: Tensor) -> Tensor:
        """The human replies' share of the loss, and the teacher's."""
        if not self.label_weight:
            return apart
        return self.label_weight * losses.label_nll(said, labels) + (1 - self.label_weight) * apart

    def _together(self, model: Forward, batch: Batch) -> Tensor:
        """The student's loss and the teacher's, added; neither sends a gradient into the other."""
        said, taught = model(batch.ids, batch.reply)
        apart = divergence(self.divergence, taught.detach(), said, self.temperature)
        student = self._mixed(said, batch.labels, apart)
        own = losses.label_nll(taught, batch.labels)
        from_student = losses.forward_kl(said.detach(), taught)
        return student + (1 - self.teacher_weight) * own + self.teacher_weight * from_student

    def _own_replies(self, learner: ChatModel, batch: Batch, seed: int) -> Batch:
        """The batch's dialogues up to their last reply, which the student samples anew."""
        prompts = []
        for ids, reply in zip(batch.ids.tolist(), batch.reply.tolist(), strict=True):
            if not any(reply):
                continue
            last = len(reply) - 1 - reply[::-1].index(True)
            first = last
            while first > 0 and reply[first - 1]:
                first -= 1
            prompts.append(ids[:first])
        network: Any = learner.network
        network.eval()
        said = sample(learner, prompts, 1.0, self.own_cap, seed)
        network.train()
        made = [
            Row("own", (*prompt, *ids), (*[False] * len(prompt), *[True] * len(ids)))
            for prompt, ids in zip(prompts, said, strict=True)
        ]
        return collate(made, learner.tokenizer.pad_id).to(batch.ids.device)

    def _summary(self, steps: int) -> str:
        how = "" if self.kind in ("labels", "sequence") else f", {self.divergence} at temperature {self.temperature:g}"
        return f"distilled ({self.kind}{how}) for {steps} steps of {self.batch_tokens} tokens, lr {self.lr:g}"
