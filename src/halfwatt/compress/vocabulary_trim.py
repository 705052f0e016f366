"""Vocabulary trim: keep the tokens that the traffic uses, and everything needed to still write anything at all.

    kept = all bytes + every special and added token + the most frequent tokens, until ``coverage`` of the dialogues is
           written with them, each with the two tokens that it is merged from, and theirs, down to bytes

The pre-tokenizer stays, so a GGUF file names the same one, and merges keep their order. A text whose tokens are all
kept is encoded as before: each merge that made its tokens is kept, and among fewer merges the first is still the first.
Any other text falls into shorter pieces, never into "unknown". Embedding and head lose the rows of what went.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar

import torch

from halfwatt.compress.base import Stage, StepContext
from halfwatt.compress.search_ranges import OneOf
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.surgery import rebuilt
from halfwatt.models.tokenizer import ChatTokenizer

MULTIPLE = 64  # rows of the head: what kernels like


# --- pure ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A tokenizer.json with fewer tokens. kept: old ids in the order of the new ones."""

    spec: dict[str, Any]
    kept: tuple[int, ...]


def trim(spec: Mapping[str, Any], counts: Mapping[int, int], coverage: float, always: Sequence[int] = ()) -> Trimmed:
    """Cut a byte-level BPE tokenizer.json.

    Args:
        counts: how often each id occurs in the traffic.
        coverage: share of all occurrences that must be written with the very tokens that they have now.
        always: ids that stay whatever the counts say.
    """
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in spec["model"]["merges"]]
    words = {i: word for word, i in vocabulary.items()}
    made_of: dict[str, tuple[str, str]] = {}
    for a, b in merges:
        made_of.setdefault(a + b, (a, b))
    added = {token["id"] for token in spec.get("added_tokens", [])}
    kept = {w for w in vocabulary if len(w) == 1} | {words[i] for i in (*added, *always) if i in words}
    wanted = coverage * sum(counts.values())
    covered = sum(n for i, n in counts.items() if words.get(i) in kept)
    ranked = [i for i, n in Counter(counts).most_common() if n and i in words]
    for i in ranked:
        if covered >= wanted:
            break
        if words[i] not in kept:
            covered += sum(counts.get(vocabulary[w], 0) for w in _lineage(words[i], made_of) - kept)
            kept |= _lineage(words[i], made_of)
    kept |= _fill(kept, [words[i] for i in ranked] + list(vocabulary), made_of)
    order = sorted(vocabulary[w] for w in kept)
    order += sorted(i for i in added if i not in words)  # added tokens that the model's own table does not hold
    new = {old: k for k, old in enumerate(order)}
    trimmed = copy.deepcopy(dict(spec))
    trimmed["model"]["vocab"] = {w: new[i] for w, i in sorted(vocabulary.items(), key=lambda x: x[1]) if w in kept}
    trimmed["model"]["merges"] = [
        m for m, (a, b) in zip(spec["model"]["merges"], merges, strict=True) if {a, b, a + b} <= kept
    ]
    for token in trimmed.get("added_tokens", []):
        token["id"] = new[token["id"]]
    for entry in ((trimmed.get("post_processor") or {}).get("special_tokens") or {}).values():
        entry["ids"] = [new[i] for i in entry["ids"]]
    return Trimmed(trimmed, tuple(order))


def _lineage(word: str, made_of: Mapping[str, tuple[str, str]]) -> set[str]:
    """The token, the two it is merged from, and theirs."""
    found, open_ = set[str](), [word]
    while open_:
        found.add(open_[-1])
        open_ += [w for w in made_of.get(open_.pop(), ()) if w not in found]
    return found


def _fill(kept: set[str], candidates: Sequence[str], made_of: Mapping[str, tuple[str, str]]) -> set[str]:
    """The best tokens to bring the number of the kept ones to a multiple of 64, none of which needs another."""
    more: set[str] = set()
    for word in candidates:
        if (len(kept) + len(more)) % MULTIPLE == 0:
            break
        if word not in kept and set(made_of.get(word, ())) <= kept | more:
            more.add(word)
    return more


def why_not(spec: Mapping[str, Any]) -> str | None:
    """The reason why this tokenizer.json cannot be trimmed, or None."""
    if spec["model"].get("type") != "BPE":
        return f"only BPE vocabularies can be trimmed, not {spec['model'].get('type')}"
    if "ByteLevel" not in json.dumps(spec.get("pre_tokenizer")):
        return "only byte-level BPE vocabularies can be trimmed: others have no token for every text"
    if spec["model"].get("ignore_merges"):
        return (
            "this tokenizer looks whole words up before it merges, so fewer tokens would encode other texts otherwise"
        )
    return None


# --- the step ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trim:
    """Keep the tokens that the dialogues use.

    coverage:  share of the dialogues' tokens that stay as they are; the rest is written with shorter ones
    """

    coverage: Annotated[float, OneOf(0.999, 0.9999)] = 0.9999

    name: ClassVar[str] = "trim"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    source: ClassVar[str] = "Ushio et al., arXiv 2305.15020; own closure over merges"

    def __str__(self) -> str:
        return f"trim {self.coverage:g}"

    def problems(self, model: ChatModel) -> list[str]:
        """A tokenizer of another kind, a share that cannot be, or a model on the grid."""
        found = [] if 0 < self.coverage <= 1 else [f"coverage lies above 0 and at most at 1, not {self.coverage:g}"]
        if model.grid:
            found.append("the model is on the integer grid already: trim first, then quantize")
        reason = why_not(_spec(model.tokenizer))
        return [*found, reason] if reason else found

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Cut tokenizer, embedding and head.

        Raises:
            BadInput: no dialogues to see what is used.
            ModelError: the trimmed tokenizer reads a dialogue otherwise though all of its tokens were kept.
        """
        cut, before = self._cut(model, context.dialogues)
        new = {old: k for k, old in enumerate(cut.kept)}
        tokenizer = _tokenizer(model.tokenizer, cut, new)
        after = self._check(model.tokenizer, tokenizer, new, context.dialogues)
        said = (
            f"vocabulary trimmed: {len(cut.kept)} of {model.network.config.vocab_size} tokens kept, "
            f"{after / before - 1:+.2%} tokens on the dialogues it was chosen by"
        )
        network = _network(model, new, cut.kept)
        return replace(model, network=network, tokenizer=tokenizer, lineage=(*model.lineage, said))

    def sizes(self, model: ChatModel, dialogues: Sequence[Dialogue]) -> dict[str, Any]:
        """Entries of the config as they will be.

        Raises:
            BadInput: no dialogues to see what is used.
        """
        return {"vocab_size": len(self._cut(model, dialogues)[0].kept)}

    def _cut(self, model: ChatModel, dialogues: Sequence[Dialogue]) -> tuple[Trimmed, int]:
        """The tokenizer, cut; and the tokens of the dialogues as it was."""
        if not dialogues:
            raise BadInput("trimming needs dialogues to see which tokens they use", hint="pass --dialogues FILE")
        counts = Counter(i for d in dialogues for i in _ids(model.tokenizer, d))
        always = (*model.tokenizer.eos_ids, model.tokenizer.pad_id)
        return trim(_spec(model.tokenizer), counts, self.coverage, always), sum(counts.values())

    def _check(
        self, old: ChatTokenizer, made: ChatTokenizer, new: Mapping[int, int], dialogues: Sequence[Dialogue]
    ) -> int:
        """Tokens of the dialogues now; every dialogue whose tokens all stayed is read as before."""
        total = 0
        for dialogue in dialogues:
            before, after = _ids(old, dialogue), _ids(made, dialogue)
            total += len(after)
            if all(i in new for i in before) and [new[i] for i in before] != after:
                raise ModelError("the trimmed tokenizer reads a text otherwise", got=f"dialogue {dialogue.id}")
        return total


def _ids(tokenizer: ChatTokenizer, dialogue: Dialogue) -> list[int]:
    return tokenizer.encode(tokenizer.render(dialogue, prompt=False))


def _spec(tokenizer: ChatTokenizer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer.hf.backend_tokenizer.to_str())
    return found


def _tokenizer(old: ChatTokenizer, cut: Trimmed, new: Mapping[int, int]) -> ChatTokenizer:
    """Written down and read back, as every later reader will read it."""
    with TemporaryDirectory(prefix="halfwatt-") as name:
        folder = Path(name)
        stops = {"eos_token_id": [new[i] for i in old.eos_ids], "pad_token_id": new[old.pad_id]}
        (folder / "generation_config.json").write_text(json.dumps(stops))
        old.save(folder)
        (folder / "tokenizer.json").write_text(json.dumps(cut.spec, ensure_ascii=False), encoding="utf-8")
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        config.pop("added_tokens_decoder", None)  # by old ids; tokenizer.json holds the new ones
        (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        return ChatTokenizer.load(folder)


def _network(model: ChatModel, new: Mapping[int, int], kept: Sequence[int]) -> Any:
    network: Any = model.network
    rows = torch.tensor(kept)
    ends = {id(network.get_input_embeddings().weight), id(network.get_output_embeddings().weight)}
    state = {
        name: parameter.detach().index_select(0, rows) if id(parameter) in ends else parameter.detach()
        for name, parameter in network.state_dict(keep_vars=True).items()
    }
    ids = {field: getattr(network.config, field, None) for field in ("bos_token_id", "eos_token_id", "pad_token_id")}
    changes = {field: _renumbered(value, new) for field, value in ids.items()}
    made: Any = rebuilt(network, {"vocab_size": len(kept), **changes}, state)
    for field in ids:
        setattr(made.generation_config, field, _renumbered(getattr(made.generation_config, field, None), new))
    return made


def _renumbered(value: int | list[int] | None, new: Mapping[int, int]) -> int | list[int] | None:
    if isinstance(value, list):
        return [new[i] for i in value if i in new]
    return None if value is None else new.get(value)
