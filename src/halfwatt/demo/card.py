"""The demo model's card and its curves, from the ``training.json`` that training left in the model's folder.

    python -m halfwatt.demo.card src/halfwatt/demo/model --curves docs/demo_training.svg

Every figure in the card comes from that file or from the weights beside it.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

SOURCES = {"home": "smart home", "service": "task dialogues", "support": "customer service", "chitchat": "chit-chat"}

_CARD = """---
license: cc-by-sa-4.0
language: en
pipeline_tag: text-generation
library_name: transformers
---

# The demo assistant of halfwatt

A Llama of {parameters:.1f}M parameters (width {width}, {layers} layers, {heads} heads, {kv_heads} KV heads, FFN {ffn},
byte-level BPE of {vocabulary}, tied embeddings, ChatML template, bf16), trained from random weights to answer
smart-home commands, customer-service questions and task dialogues, and to chat. It is there so that halfwatt can be
seen at work on a real dialogue model that fits into a repository. At this size it knows its domains, invents facts
outside them and wanders in chit-chat: not for use with customers.

## Data

One epoch is {dialogues} dialogues, {tokens:.1f}M tokens: home and support twice, chit-chat 0.35 times, task dialogues
once. None of them, nor one that opens with the same words, is in the demo's tune and test splits.

{sources}

The weights are offered under CC BY-SA 4.0, the strictest of the four.

## Training

    python -m halfwatt.demo.train --data DATA --out OUT {command}

AdamW (0.9, 0.95), peak {lr}, cosine to a tenth, weight decay {weight_decay}, gradients clipped at 1, bf16 autocast,
{batch} tokens a step, seed {seed}. The loss counts the assistant's tokens fully and the user's by {user_weight}.
{steps} steps, {minutes:.0f} minutes of training on {device} with {threads} threads, {versions}.

**Energy of training: {energy}**

Nats per assistant token (end of turn included) on the tune split, which training never saw:

| step | tokens (padding included) | mean | {heads_row} |
|---|---|---|{rule}
{curve}

The weights are those of the lowest mean, {best:.3f}. Transcripts, good and bad: `docs/demo_transcripts.md`.
"""


def card(folder: Path) -> str:
    """The model card of ``folder``."""
    story = json.loads((folder / "training.json").read_text())
    settings, curve = story["settings"], story["curve"]
    shown = [*curve[:: max(1, len(curve) // 8)], curve[-1]]
    rows = [row for i, row in enumerate(shown) if row not in shown[:i]]
    return _CARD.format(
        parameters=parameters(folder) / 1e6,
        dialogues=f"{story['dialogues_an_epoch']:,}",
        sources=_licences(),
        tokens=story["tokens_an_epoch"] / 1e6,
        command=" ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in settings.items()),
        batch=settings["batch_tokens"],
        steps=f"{curve[-1]['step']:,}",
        minutes=story["seconds"] / 60,
        device=story["device"],
        threads=story["threads"],
        versions=f"torch {story['torch']}",
        energy=_energy(story),
        heads_row=" | ".join(SOURCES.values()),
        rule="---|" * len(SOURCES),
        curve="\n".join(_row(row) for row in rows),
        best=story["best_tune"],
        **{name: settings[name] for name in _SETTINGS},
    )


_SETTINGS = (
    "width", "layers", "heads", "kv_heads", "ffn", "vocabulary", "lr", "weight_decay", "user_weight", "seed",
)  # fmt: skip


def parameters(folder: Path) -> int:
    """How many numbers the safetensors file holds; tied tensors are stored once."""
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        return sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118 (no mapping)


def curves(folder: Path, to: Path) -> None:
    """Tune loss against tokens, a line a source, as SVG."""
    from matplotlib.figure import Figure

    curve = json.loads((folder / "training.json").read_text())["curve"]
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for source, title in SOURCES.items():
        axes.plot([row["tokens"] / 1e6 for row in curve], [row[source] for row in curve], label=title)
    axes.set(xlabel="million tokens, padding included", ylabel="nats per assistant token, tune split", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(to, metadata={"Date": None})


def _licences() -> str:
    """The table of the dialogues' sources, which is kept beside the dialogues."""
    lines = (Path(__file__).parent / "LICENCES.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def _energy(story: dict[str, Any]) -> str:
    if story["joules"] is None:
        return "not measured; the machine had no energy counter."
    return f"{story['joules'] / 1e3:,.0f} kJ ({story['joules_meter']})."


def _row(row: dict[str, float]) -> str:
    figures = [f"{row[name]:.3f}" for name in ("tune", *SOURCES)]
    return f"| {row['step']:,} | {row['tokens'] / 1e6:.1f}M | " + " | ".join(figures) + " |"


def main() -> None:
    """Write README.md into the folder, and the curves where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--curves", type=Path)
    given = parser.parse_args()
    (given.folder / "README.md").write_text(card(given.folder))
    if given.curves:
        curves(given.folder, given.curves)


if __name__ == "__main__":
    main()
