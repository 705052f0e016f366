"""A teacher asked once: what it says at every learned position, cut to its k best tokens, kept for all epochs.

    6 bytes a token of the k, 4 a position: k = 32 takes 200 B a position, all logits of a vocabulary of 8,192 16 KB

The rest of the vocabulary is one bucket, so nothing is renormalised (losses.py, `tail_kl`). Worth it when the student
is trained for more than one epoch: the teacher's pass is then paid once. The file is named after the teacher and all
that it was asked, so recipes with the same teacher and dialogues share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Predictor, Row, collate
from halfwatt.compress.training.loop import TrainingEnvironment
from halfwatt.compress.training.losses import TopK
from halfwatt.core.files import require_space, write_atomic
from halfwatt.core.json_records import from_json, to_json
from halfwatt.meters.cost import Cost, CostMeter

_AT_ONCE = 4096  # tokens


def taught(
    rows: Sequence[Row], teacher: Predictor, k: int, bench: TrainingEnvironment, folder: Path | None
) -> tuple[list[Row], Cost]:
    """The rows with the teacher's answers, and what asking took, when it was done: ``folder`` may hold them already.

    teacher:  in evaluation mode, on the bench's device
    """
    positions = [row.positions for row in rows]
    file = None if folder is None else folder / f"teacher-top-{k}-{_digest(rows, teacher)}.safetensors"
    if file is not None and file.exists():
        whole, spent = _read(file)
    else:
        whole, spent = _asked(rows, positions, teacher, k, bench)
        if file is not None:
            _write(file, whole, spent)
    cuts = [getattr(whole, name).split(positions) for name in TopK.__slots__]
    return [replace(row, taught=TopK(*parts)) for row, *parts in zip(rows, *cuts, strict=True)], spent


@torch.no_grad()
def _asked(
    rows: Sequence[Row], positions: Sequence[int], teacher: Predictor, k: int, bench: TrainingEnvironment
) -> tuple[TopK, Cost]:
    """The teacher's pass over all rows, those of like length together."""
    laps, tokens, passes = CostMeter(bench.meter, bench.device), 0, 0
    total = sum(positions)
    whole = TopK(
        torch.empty(total, k, dtype=torch.float16), torch.empty(total, k, dtype=torch.int32), torch.empty(total)
    )
    starts = [0, *torch.tensor(positions).cumsum(0).tolist()]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    device = torch.device(bench.device)
    done = 0
    while done < len(order):
        some = order[done : done + max(1, _AT_ONCE // len(rows[order[done]].ids))]
        batch = collate([rows[i] for i in some], bench.pad_id).to(device)
        found = losses.top_k(teacher(batch.ids, batch.reply), k).to(torch.device("cpu"))
        at = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in some])
        for name in TopK.__slots__:
            kept: torch.Tensor = getattr(whole, name)
            kept[at] = getattr(found, name).to(kept.dtype)
        done, tokens, passes = done + len(some), tokens + batch.ids.numel(), passes + 1
        bench.progress(f"asking the teacher: {done} of {len(order)} dialogues")
    weights_b = sum(p.nbytes for p in teacher.parameters())
    return whole, laps.lap(tokens, passes * weights_b)


def _digest(rows: Sequence[Row], teacher: Predictor) -> str:
    """12 hex digits of the teacher's weights and of what it is asked."""
    digest = hashlib.sha256(repr([(row.ids, row.reply) for row in rows]).encode())
    for name, value in teacher.state_dict().items():
        digest.update(name.encode() + value.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:12]


def _read(file: Path) -> tuple[TopK, Cost]:
    with safe_open(file, framework="pt") as stored:
        spent = from_json(stored.metadata()["spent"], Cost)
    return TopK(**load_file(file)), spent


def _write(file: Path, whole: TopK, spent: Cost) -> None:
    tensors = {name: getattr(whole, name) for name in TopK.__slots__}
    file.parent.mkdir(parents=True, exist_ok=True)
    require_space(file.parent, sum(t.nbytes for t in tensors.values()))
    write_atomic(file, save(tensors, metadata={"spent": to_json(spent)}))
