"""Vocabulary trim: keep the tokens that the traffic uses, and everything needed to still write anything at all.

    kept = all bytes + every special and added token that is not there in reserve + the most frequent tokens, until
           ``coverage`` of the dialogues is written with them, each with all that it is merged from, down to characters

The pre-tokenizer stays, so a GGUF file names the same one, and merges keep their order. A text whose tokens are all
kept is encoded as before: each merge that made its tokens is kept, and among fewer merges the first is still the first.
Any other text falls into shorter pieces, of a byte each where a vocabulary like SentencePiece's lost a character, never
into "unknown". Embedding and head lose the rows of what went.
Source: Ushio et al., arXiv 2305.15020; the closure over merges is this project's.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, ClassVar

import torch

from halfwatt.compress.base import Stage, Step, StepContext
from halfwatt.compress.search_ranges import OneOf
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.stored_tokenizer import FURTHER
from halfwatt.models.surgery import rebuilt, resized
from halfwatt.models.tokenizer import ChatTokenizer, without_odd

MULTIPLE = 64  # rows of the head: what kernels like
_IN_RESERVE = re.compile(r"<\W?(unused|reserved)\w*\W?>")  # thousands of them in some vocabularies
_SPACE = "\u2581"  # as SentencePiece spells it
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ENDS = "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"
_WISHES = "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids"
_UNTOLD = "forced_decoder_ids", "sequence_bias"  # ids beside other numbers, and as keys


@dataclass(frozen=True, slots=True)
class Cut:
    """A tokenizer.json with fewer tokens. ids: old id -> new one, of what is kept, in the order of the new ones."""

    spec: dict[str, Any]
    ids: dict[int, int]


def trim(spec: Mapping[str, Any], counts: Mapping[int, int], coverage: float, always: Sequence[int] = ()) -> Cut:
    """Cut a BPE tokenizer.json that has a token for every byte.

    Args:
        counts: how often each id occurs in the traffic.
        coverage: share of all occurrences that must be written with the very tokens that they have now.
        always: ids that stay whatever the counts say.
    """
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in spec["model"]["merges"]]
    always = (*always, *_ids_in(spec.get("post_processor")))
    used = {*always, *(i for i, n in counts.items() if n)}
    stay = [t for t in spec.get("added_tokens", []) if t["id"] in used or not _IN_RESERVE.fullmatch(t["content"])]
    added = {token["id"] for token in stay}
    in_bytes = bool(spec["model"].get("byte_fallback"))
    kept = _kept_words(vocabulary, merges, counts, coverage, {*added, *always}, in_bytes)
    order = sorted(vocabulary[w] for w in kept)
    order += sorted(added - set(vocabulary.values()))  # added tokens that the model's own table does not hold
    ids = {old: new for new, old in enumerate(order)}
    cut = copy.deepcopy(dict(spec))
    cut["model"]["vocab"] = {w: ids[i] for w, i in sorted(vocabulary.items(), key=lambda x: x[1]) if w in kept}
    pairs = zip(spec["model"]["merges"], merges, strict=True)
    cut["model"]["merges"] = [merge for merge, (a, b) in pairs if {a, b, a + b} <= kept]
    cut["added_tokens"] = [token | {"id": ids[token["id"]]} for token in stay]
    cut["post_processor"] = _renumbered(spec.get("post_processor"), ids)
    return Cut(cut, ids)


def _ids_in(processor: Any) -> set[int]:
    """That a post-processor names."""
    if not isinstance(processor, dict | list):
        return set()
    fields = processor if isinstance(processor, dict) else {}
    own = {i for entry in fields.get("special_tokens", {}).values() for i in entry["ids"]}
    own |= {fields[key][1] for key in ("sep", "cls") if key in fields}
    return own.union(*map(_ids_in, fields.values() if fields else processor))


def _renumbered(processor: Any, ids: Mapping[int, int]) -> Any:
    """A post-processor, or several in one, with the new ids: of templates, and of BERT's and RoBERTa's ends."""
    if isinstance(processor, list):
        return [_renumbered(part, ids) for part in processor]
    if not isinstance(processor, dict):
        return processor
    new = {key: _renumbered(value, ids) for key, value in processor.items()}
    for key in ("sep", "cls"):
        if key in processor:
            new[key] = [processor[key][0], ids[processor[key][1]]]
    for name, entry in processor.get("special_tokens", {}).items():
        new["special_tokens"][name] = entry | {"ids": [ids[i] for i in entry["ids"]]}
    return new


def _kept_words(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, ...]],
    counts: Mapping[int, int],
    coverage: float,
    always: set[int],
    in_bytes: bool,
) -> set[str]:
    words = {i: word for word, i in vocabulary.items()}
    ranks: dict[tuple[str, ...], int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge, rank)
    kept = {w for w in vocabulary if (_BYTE.fullmatch(w) or w == _SPACE if in_bytes else len(w) == 1)}
    kept |= {part for i in always if i in words for part in _merged_from(words[i], ranks) if part in vocabulary}
    target = coverage * sum(counts.values())
    covered = sum(n for i, n in counts.items() if words.get(i) in kept)
    ranked = [words[i] for i, n in Counter(counts).most_common() if n and i in words]
    for word in ranked:
        if covered >= target:
            break
        if word not in kept:
            new = _merged_from(word, ranks) - kept
            covered += sum(counts.get(vocabulary[w], 0) for w in new)
            kept |= new
    merged = ("".join(merge) for merge in merges)
    for word in chain(ranked, merged):  # the best to fill the last 64, none of which needs another
        if len(kept) % MULTIPLE == 0:
            break
        if _merged_from(word, ranks) - {word} <= kept:
            kept.add(word)
    return kept


def _merged_from(word: str, ranks: Mapping[tuple[str, ...], int]) -> set[str]:
    """The word and all that it is merged from, down to characters: as byte pair encoding of the word alone goes, and so
    inside of any text in which it is a token, because no merge there crossed its ends."""
    pieces, closure = list(word), {word, *word}
    while len(pieces) > 1:
        rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(pieces)))
        if rank == len(ranks):
            return {word}  # no merge makes it
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        closure.add(pieces[at])
    return closure


def untrimmable(spec: Mapping[str, Any]) -> str | None:
    """The reason why this tokenizer.json cannot be trimmed, or None."""
    if (kind := spec["model"].get("type")) != "BPE":
        return f"only BPE vocabularies can be trimmed, not {kind}"
    as_bytes = sum(bool(_BYTE.fullmatch(word)) for word in spec["model"].get("vocab", {}))
    falls_back = spec["model"].get("byte_fallback") and as_bytes == 256
    if "ByteLevel" not in json.dumps(spec.get("pre_tokenizer")) and not falls_back:
        return "only BPE vocabularies with a token for every byte can be trimmed: others cannot write every text then"
    if spec["model"].get("continuing_subword_prefix"):
        return "only vocabularies that write the middle of words as their beginnings can be trimmed"
    if spec["model"].get("ignore_merges"):
        return "this tokenizer looks whole words up before it merges, so fewer tokens would encode texts otherwise"
    return None


@dataclass(frozen=True, slots=True)
class Trim(Step):
    """Keep the tokens that the dialogues use."""

    coverage: Annotated[float, OneOf(0.999, 0.9999)] = 0.9999
    """Share of the dialogues' tokens that stay as they are; the rest is written with shorter ones."""

    name: ClassVar[str] = "trim"
    opens: ClassVar[bool] = False
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __str__(self) -> str:
        return f"trim {self.coverage:g}"

    def problems(self, model: ChatModel) -> list[str]:
        problems = [] if 0 < self.coverage <= 1 else [f"coverage lies above 0 and at most at 1, not {self.coverage:g}"]
        if model.grid:
            problems.append("the model is on the integer grid already: trim first, then quantize")
        generation = model.network.generation_config
        problems += [f"{key} of its generation settings holds ids" for key in _UNTOLD if getattr(generation, key, None)]
        reason = untrimmable(_spec(model.tokenizer))
        return [*problems, reason] if reason else problems

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Cut tokenizer, embedding and head.

        Raises:
            BadInput: no dialogues to see what is used.
            ModelError: the trimmed tokenizer reads a dialogue otherwise though all of its tokens were kept.
        """
        cut, before = self._cut(model, context.dialogues)
        tokenizer = _tokenizer(model.tokenizer, cut)
        if tokenizer.vocab_size > len(cut.ids):
            got = f"{tokenizer.vocab_size} tokens for {len(cut.ids)} rows"
            raise ModelError("the trimmed tokenizer names tokens that were cut", got=got)
        after = 0
        for name, text in _texts(model.tokenizer, context.dialogues):
            old, new = model.tokenizer.encode(text), tokenizer.encode(text)
            after += len(new)
            if all(i in cut.ids for i in old) and [cut.ids[i] for i in old] != new:
                raise ModelError("the trimmed tokenizer reads a text otherwise", got=f"dialogue {name}")
        kept = f"vocabulary trimmed: {len(cut.ids)} of {model.network.config.vocab_size} tokens kept"
        lineage = (*model.lineage, f"{kept}, {after / before - 1:+.2%} tokens on the dialogues it was chosen by")
        if model.run_only:  # an outline has sizes alone
            with torch.device("meta"):
                network = resized(model.network, {"vocab_size": len(cut.ids)})
        else:
            network = _network(model.network, cut.ids)
        return replace(model, network=network, tokenizer=tokenizer, lineage=lineage)

    def sizes(self, model: ChatModel, dialogues: Sequence[Dialogue]) -> dict[str, Any]:
        """Entries of the config as they will be.

        Raises:
            BadInput: no dialogues to see what is used.
        """
        return {"vocab_size": len(self._cut(model, dialogues)[0].ids)}

    def _cut(self, model: ChatModel, dialogues: Sequence[Dialogue]) -> tuple[Cut, int]:
        """The tokenizer, cut; and the tokens of the dialogues as it was."""
        if not dialogues:
            raise BadInput("trimming needs dialogues to see which tokens they use", hint="pass --dialogues FILE")
        texts, hf = _texts(model.tokenizer, dialogues), model.tokenizer.hf
        counts = Counter(i for _, text in texts for i in model.tokenizer.encode(text))
        named = chain.from_iterable([v] if isinstance(v, str) else v for v in hf.special_tokens_map.values())
        always = (*model.tokenizer.eos_ids, model.tokenizer.pad_id, *map(hf.convert_tokens_to_ids, named))
        return trim(_spec(model.tokenizer), counts, self.coverage, always), sum(counts.values())


def _texts(tokenizer: ChatTokenizer, dialogues: Sequence[Dialogue]) -> list[tuple[str, str]]:
    """Names and rendered texts, but of odd ones that the template does not render."""
    return [(d.id, text) for d, text in without_odd(dialogues, partial(tokenizer.render, prompt=False))[0]]


def _spec(tokenizer: ChatTokenizer) -> dict[str, Any]:
    return dict(json.loads(tokenizer.hf.backend_tokenizer.to_str()))


def _tokenizer(old: ChatTokenizer, cut: Cut) -> ChatTokenizer:
    """Written down and read back, as every later reader will read it."""
    with TemporaryDirectory(prefix="halfwatt-") as name:
        folder = Path(name)
        stops = {"eos_token_id": [cut.ids[i] for i in old.eos_ids], "pad_token_id": cut.ids[old.pad_id]}
        (folder / "generation_config.json").write_text(json.dumps(stops))
        old.save(folder)
        (folder / "tokenizer.json").write_text(json.dumps(cut.spec, ensure_ascii=False), encoding="utf-8")
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        config.pop("added_tokens_decoder", None)  # by old ids; tokenizer.json holds the new ones
        stay = {token["content"] for token in cut.spec["added_tokens"]}
        for name in FURTHER:
            if isinstance(further := config.get(name), list):  # else what was cut would be added again
                config[name] = [token for token in further if token in stay]
        (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        return ChatTokenizer.load(folder)


def _network(network: Any, ids: Mapping[int, int]) -> Any:
    rows = torch.tensor(list(ids))
    ends = {id(network.get_input_embeddings().weight), id(network.get_output_embeddings().weight)}
    state = {
        name: parameter.detach().index_select(0, rows) if id(parameter) in ends else parameter.detach()
        for name, parameter in network.state_dict(keep_vars=True).items()
    }

    def new(value: Any) -> Any:
        if not isinstance(value, list):
            return ids.get(value)
        whole = [v for v in value if (set(v) if isinstance(v, list) else {v}) <= ids.keys()]  # others cannot be said
        return [[ids[i] for i in v] if isinstance(v, list) else ids[v] for v in whole]

    def renumbered(config: Any) -> dict[str, Any]:
        return {name: new(value) for name in (*_ENDS, *_WISHES) if (value := getattr(config, name, None)) is not None}

    smaller: Any = rebuilt(network, {"vocab_size": len(ids), **renumbered(network.config)}, state)
    for name, value in renumbered(smaller.generation_config).items():
        setattr(smaller.generation_config, name, value)
    return smaller
