"""Tiny models that have learned a handful of sentences: replies that end, and a gate with something to judge.

chats = taught.chats(tmp_path, taught.dialogues())   # a messages JSONL file
folder = taught.folder(tmp_path, "gpt2", taught.dialogues())  # a Hugging Face folder, taught for a few seconds
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.chat_model import load, write
from tests.support import tiny_models as tiny
from tests.support.tiny_models import Arch

ROOMS = ("kitchen", "garage", "living room", "bath", "hall")
THINGS = ("light", "music", "heater", "fan", "door")


@dataclass(frozen=True)
class School:
    """How large the model is and how long it learns."""

    width: int = 64
    layers: int = 2
    steps: int = 160
    lr: float = 4e-3


def dialogues(rooms: Sequence[str] = ROOMS, things: Sequence[str] = THINGS) -> list[Dialogue]:
    """Three of one or two exchanges for each thing in each room; no two open with the same words."""
    made = []
    for room, thing in product(rooms, things):
        on = (f"Turn on the {thing} in the {room}", f"Turning on the {room} {thing} now.")
        off = (f"Turn off the {room} {thing}", f"The {room} {thing} is off.")
        ask = (f"Is the {room} {thing} on?", f"The {thing} in the {room} is on.")
        made += [(on,), (off, ("Thanks", "You're welcome.")), (ask, (f"And the {room} light?", "The light is on."))]
    return [
        Dialogue(f"taught-{i}", tuple(Message(role, text) for pair in pairs for role, text in _roles(pair)))  # type: ignore[arg-type]
        for i, pairs in enumerate(made)
    ]


def chats(into: Path, told: Sequence[Dialogue]) -> Path:
    """The dialogues as a file."""
    path = into / "chats.jsonl"
    rows = [{"messages": [{"role": m.role, "content": m.content} for m in d.messages]} for d in told]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def folder(into: Path, arch: Arch, told: Sequence[Dialogue], school: School | None = None) -> Path:
    """A model of ``arch`` that has seen the dialogues for some hundred steps."""
    school = school or School()
    torch.manual_seed(0)
    own = {"do_sample": True, "temperature": 0.7}
    blank = load(tiny.folder(into / "blank", arch, generation=own, width=school.width, layers=school.layers))
    network = blank.network.train()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(0.1 if "emb" in name or "wte" in name else 0.3)  # tiny draws them wide
    rows = [torch.tensor(blank.tokenizer.scored(d).ids) for d in told]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    optimizer = torch.optim.AdamW(network.parameters(), lr=school.lr, weight_decay=0.0)
    for step in range(school.steps):
        for group in optimizer.param_groups:
            group["lr"] = school.lr * (1 - step / school.steps)
        batch = ids[torch.randperm(len(ids))[:25]]
        loss = network(input_ids=batch.clamp_min(0), labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    network.eval()
    path = into / f"taught-{arch}"
    path.mkdir()
    write(blank, path)
    (path / "README.md").write_text("---\nlicense: mit\n---\n")
    return path


def _roles(pair: tuple[str, str]) -> list[tuple[str, str]]:
    return [("user", pair[0]), ("assistant", pair[1])]
