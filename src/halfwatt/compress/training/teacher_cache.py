"""A teacher asked once: what it predicts at every learned position, cut to its k best tokens, kept for all epochs.

    6 bytes a token of the k, 4 a position: k = 32 takes 200 B a position, all logits of a vocabulary of 8,192 16 KB

The rest of the vocabulary is one bucket, so nothing is renormalised (losses.py, `tail_kl`). Worth it when the student
is trained for more than one epoch: the teacher's pass is then paid once. The file is named after the teacher and all
that it was asked, so recipes with the same teacher and dialogues share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save

from halfwatt.compress.base import StepContext
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Predictor, Row, collate
from halfwatt.compress.training.losses import TopK
from halfwatt.compress.training.team import team
from halfwatt.core.files import require_space, write_atomic
from halfwatt.core.json_records import from_json, to_json
from halfwatt.meters.cost import Cost, CostMeter

_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class RuntimeTeacher:
    """An original that only its runtime computes, as a `Predictor`.

    logits:     float32 [rows, the original's vocabulary] after those of these ids
    kept:       the original's ids of its student's, which may have fewer
    name:       of its file
    weights_b:  that a pass reads
    """

    logits: Callable[[Sequence[int], Sequence[int]], NDArray[np.float32]]
    kept: Sequence[int]
    name: str
    weights_b: int

    def __call__(self, ids: torch.Tensor, reply: torch.Tensor) -> torch.Tensor:
        """ids, reply: as in `Batch`. Logits of the student's tokens alone, as of a teacher that was trimmed with it."""
        columns, parts = list(self.kept), list[torch.Tensor]()
        for row, learned in zip(ids.tolist(), reply[:, 1:], strict=True):
            at = learned.nonzero()[:, 0]
            if len(at):  # padding comes after the last position that is learned
                asked = [columns[i] for i in row[: int(at[-1]) + 1]]
                parts.append(torch.from_numpy(self.logits(asked, at.tolist())[:, columns]))
        return torch.cat(parts)


def with_teacher(
    rows: Sequence[Row], teacher: Predictor | RuntimeTeacher, k: int, context: StepContext
) -> tuple[list[Row], Cost]:
    """The rows with the teacher's predictions, and what they took when they were computed: the cache may hold them.

    teacher:  in evaluation mode, on the context's device
    """
    file = context.cache and context.cache / f"teacher-top-{k}-{_digest(rows, teacher)}.safetensors"
    if file is not None and file.exists():
        with safe_open(file, framework="pt") as stored:
            cost = from_json(stored.metadata()["spent"], Cost)
        predictions = TopK(**load_file(file))
    else:
        predictions, cost = _predict(rows, teacher, k, context)
        if file is not None:
            tensors = {name: getattr(predictions, name) for name in TopK.__slots__}
            file.parent.mkdir(parents=True, exist_ok=True)
            require_space(file.parent, sum(t.nbytes for t in tensors.values()))
            write_atomic(file, save(tensors, metadata={"spent": to_json(cost)}))
    positions = [row.positions for row in rows]
    cuts = [getattr(predictions, name).split(positions) for name in TopK.__slots__]
    return [replace(row, teacher=TopK(*parts)) for row, *parts in zip(rows, *cuts, strict=True)], cost


@torch.no_grad()
def _predict(
    rows: Sequence[Row], teacher: Predictor | RuntimeTeacher, k: int, context: StepContext
) -> tuple[TopK, Cost]:
    """The teacher's pass over all rows, those of like length together; of several processes each asks about its own."""
    cost_meter, tokens, passes, workers = CostMeter(context.meter, context.device), 0, 0, team(context.device)
    starts = [0, *accumulate(row.positions for row in rows)]
    best = torch.zeros(starts[-1], k, dtype=torch.float16)
    whole = TopK(best, torch.zeros_like(best, dtype=torch.int32), torch.zeros(starts[-1]))
    order = workers.share(sorted(range(len(rows)), key=lambda i: len(rows[i].ids)))
    done = 0
    while done < len(order):
        some = order[done : done + max(1, _BATCH_TOKENS // len(rows[order[done]].ids))]
        batch = collate([rows[i] for i in some]).to(torch.device(context.device))
        part = losses.top_k(teacher(batch.ids, batch.reply), k).to(torch.device("cpu"))
        at = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in some])
        for name in TopK.__slots__:
            values: torch.Tensor = getattr(whole, name)
            values[at] = getattr(part, name).to(values.dtype)
        done, tokens, passes = done + len(some), tokens + batch.ids.numel(), passes + 1
        context.settings.progress(f"asking the teacher: {done} of {len(order)} dialogues")
    own = teacher.weights_b if isinstance(teacher, RuntimeTeacher) else sum(p.nbytes for p in teacher.parameters())
    cost = cost_meter.lap(tokens, passes * own)
    used = workers.total(torch.tensor([cost.tokens, cost.cpu_s, cost.bytes_b], dtype=torch.float64)).tolist()
    merged = TopK(*(workers.total(getattr(whole, name)) for name in TopK.__slots__))
    return merged, replace(cost, tokens=int(used[0]), cpu_s=used[1], bytes_b=int(used[2]))


def _digest(rows: Sequence[Row], teacher: Predictor | RuntimeTeacher) -> str:
    """12 hex digits of the teacher's weights and of what it is asked."""
    digest = hashlib.sha256(repr([(row.ids, row.reply) for row in rows]).encode())
    if isinstance(teacher, RuntimeTeacher):
        digest.update(repr((teacher.name, tuple(teacher.kept))).encode())
        return digest.hexdigest()[:12]
    for name, value in teacher.state_dict().items():
        digest.update(name.encode() + value.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:12]
