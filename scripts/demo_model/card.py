"""The demo model's card and its curves, from the ``training.json`` that training left in the model's folder.

    python -m scripts.demo_model.card src/halfwatt/demo/model --curves docs/demo_training.svg

Every figure in the card comes from that file or from the weights beside it.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from halfwatt import demo

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

None of the training dialogues, nor one that opens with the same words, is in the demo's tune and test splits.

{sources}

The weights are offered under CC BY-SA 4.0, the strictest of the four.

## Training

{stages}
AdamW (0.9, 0.95), cosine to a tenth of the peak, gradients clipped at 1, bf16 autocast. The loss counts the
assistant's tokens fully and the user's by `--user-weight`. `--home`, `--service`, `--support` and `--chitchat` say how
often an epoch shows each source; `--pairs`, which share of the customer-service copies holds two questions a dialogue.

**Energy of training: {energy}**

Nats per assistant token (end of turn included) on the tune split, which training never saw:

| stage | step | tokens (padding included) | mean | {heads_row} |
|---|---|---|---|{rule}
{curve}

The weights are those of the last stage's lowest mean, {best:.3f}. Transcripts: `docs/demo_transcripts.md`.
"""


def card(folder: Path) -> str:
    """The model card of ``folder``."""
    stages = _stages(folder)
    settings = stages[-1]["settings"]
    return _CARD.format(
        parameters=parameters(folder) / 1e6,
        sources=_licences(),
        stages="\n".join(_stage(number, story) for number, story in enumerate(stages, start=1)),
        energy=_energy(stages),
        heads_row=" | ".join(SOURCES.values()),
        rule="---|" * len(SOURCES),
        curve="\n".join(row for number, story in enumerate(stages, start=1) for row in _rows(number, story["curve"])),
        best=stages[-1]["best_tune"],
        **{name: settings[name] for name in ("width", "layers", "heads", "kv_heads", "ffn", "vocabulary")},
    )


def parameters(folder: Path) -> int:
    """How many numbers the safetensors file holds; tied tensors are stored once."""
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        return sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118 (no mapping)


def curves(folder: Path, to: Path) -> None:
    """Tune loss against tokens, a line a source, as SVG."""
    from matplotlib.figure import Figure

    curve = _joined(_stages(folder))
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
    lines = (Path(demo.__file__).parent / "LICENCES.md").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def _stages(folder: Path) -> list[dict[str, Any]]:
    """The stories of the stages of training, first to last."""
    stages: list[dict[str, Any]] = json.loads((folder / "training.json").read_text())["stages"]
    return stages


def _stage(number: int, story: dict[str, Any]) -> str:
    options = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in story["settings"].items())
    start = "" if number == 1 else f" --start STAGE{number - 1}/model"
    steps, minutes = story["curve"][-1]["step"], story["seconds"] / 60
    return (
        f"Stage {number}: {steps:,} steps, {minutes:.0f} minutes on {story['device']} with {story['threads']} threads, "
        f"torch {story['torch']}; an epoch is {story['dialogues_an_epoch']:,} dialogues, "
        f"{story['tokens_an_epoch'] / 1e6:.1f}M tokens.\n\n"
        f"    python -m scripts.demo_model.train --data DATA --out STAGE{number}{start} {options}\n"
    )


def _joined(stages: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One curve, the tokens counted through."""
    joined: list[dict[str, float]] = []
    for story in stages:
        before = joined[-1]["tokens"] if joined else 0
        joined += [row | {"tokens": row["tokens"] + before} for row in story["curve"]]
    return joined


def _energy(stages: list[dict[str, Any]]) -> str:
    if any(story["joules"] is None for story in stages):
        return "not measured; the machine had no energy counter."
    return f"{sum(story['joules'] for story in stages) / 1e3:,.0f} kJ ({stages[-1]['joules_meter']})."


def _rows(stage: int, curve: list[dict[str, float]]) -> list[str]:
    """About eight rows of a curve, the last one always."""
    return [_row(stage, row) for row in curve[:: -max(1, len(curve) // 8)][::-1]]


def _row(stage: int, row: dict[str, float]) -> str:
    figures = [f"{row[name]:.3f}" for name in ("tune", *SOURCES)]
    return f"| {stage} | {row['step']:,} | {row['tokens'] / 1e6:.1f}M | " + " | ".join(figures) + " |"


def main() -> None:
    """Write README.md into the folder, and the curves where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--curves", type=Path)
    args = parser.parse_args()
    (args.folder / "README.md").write_text(card(args.folder))
    if args.curves:
        curves(args.folder, args.curves)


if __name__ == "__main__":
    main()
