"""A Hugging Face tokenizer in GGUF's words, so that other programs (Ollama, LM Studio) tokenise as ours does.

Our own sessions feed the ids of `ChatTokenizer`; whether others get the same is proven by `halfwatt.evaluate.parity`.

Two families are known: byte-level BPE (GGUF model "gpt2") and SentencePiece-like BPE with byte fallback ("llama").
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType

from halfwatt.core.errors import ModelError
from halfwatt.models.tokenizer import ChatTokenizer

UNKNOWN_SPLIT = "default"  # what is written for a byte-level BPE whose way of splitting words llama.cpp does not know
NO_MERGE = "-- --"  # llama.cpp wants one merge at least; two letters at once are nothing that another has not made
EOS_KEY = "halfwatt.eos_token_ids"
"""All stop tokens, as JSON text because llama.cpp gives no access to arrays."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FALLBACK = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")  # llama.cpp's, for what it does not know
DIGITS = "digits"


@dataclass(frozen=True, slots=True)
class Split:
    """How words are split before they are merged.

    patterns:      one after the other; `DIGITS` = each digit by itself
    own_regex:     then ByteLevel's own
    whole_words:   what is a token already is not merged again
    """

    patterns: tuple[str, ...]
    own_regex: bool = False
    whole_words: bool = False


# By llama.cpp's names (llama-vocab.cpp); of several for one way of splitting, the first is written.
_SPLITS = {
    "gpt-2": Split((), own_regex=True),
    "smollm": Split((DIGITS,), own_regex=True),
    "llama-bpe": Split((_LLAMA3,), whole_words=True),
    "smaug-bpe": Split((_LLAMA3,)),
    "qwen2": Split((_QWEN2,)),
    "qwen35": Split((_QWEN35,)),
    "tekken": Split((_TEKKEN,), whole_words=True),
    "gpt-4o": Split((_GPT4O,)),
    UNKNOWN_SPLIT: Split(_FALLBACK),
}
_ALSO = {
    "gpt-2": "phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling modern-bert",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 glm4",
    "smaug-bpe": "dbrx chatglm-bpe",
    "qwen2": "deepseek-r1-qwen kormo megrez stablelm2 hunyuan solar-open grok-2",
    "gpt-4o": "llama4 kanana2 minimax-m2",
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One entry a row of the network's embedding."""

    model: str  # "gpt2" or "llama"
    pre: str  # llama.cpp's name for the way words are split
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]  # "gpt2" only
    scores: tuple[float, ...]  # "llama" only
    space_prefix: bool
    special: Mapping[str, int]  # "bos", "pad", "unk" -> id, where there is one
    adds_bos: bool


def vocabulary(chat: ChatTokenizer, rows: int) -> Vocabulary:
    """The tokenizer as it is used, read from the tokenizers library's own description of it.

    rows: of the network's embedding; ids beyond the tokenizer's become unused tokens.

    Raises:
        ModelError: a kind that GGUF cannot hold, two ids for one text, or more ids than rows.
    """
    described = json.loads(chat.hf.backend_tokenizer.to_str())
    family = _family(described)
    tokens, types = _tokens(described, rows, byte_tokens=family == "llama")
    merges = tuple(m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"])
    named = {"bos": chat.hf.bos_token_id, "pad": chat.hf.pad_token_id, "unk": chat.hf.unk_token_id}
    special = {role: token for role, token in named.items() if token is not None}
    return Vocabulary(
        model=family,
        pre=_split_name(described) if family == "gpt2" else "default",
        tokens=tokens,
        types=types,
        merges=merges if family == "gpt2" else (),
        scores=_scores(tokens, merges) if family == "llama" else (),
        space_prefix=family == "llama" and _prepends_space(described),
        special=special,
        adds_bos="bos" in special and _adds_bos(described, tokens[special["bos"]]),
    )


def write_tokenizer(writer: GGUFWriter, words: Vocabulary, chat: ChatTokenizer) -> None:
    """Add the vocabulary, the chat template and the whole list of stop tokens to a GGUF file.

    GGUF has room for one end-of-text and one end-of-turn id; the whole list goes into a key of our own as well.
    """
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(list(words.tokens))
    writer.add_token_types(list(words.types))
    if words.model == "gpt2":
        writer.add_token_merges(list(words.merges) or [NO_MERGE])
    if words.scores:
        writer.add_token_scores(list(words.scores))
    writer.add_add_space_prefix(words.space_prefix)
    writer.add_add_bos_token(words.adds_bos)
    writer.add_add_eos_token(False)
    for role, token in words.special.items():
        getattr(writer, f"add_{role}_token_id")(token)
    if chat.eos_ids:
        writer.add_eos_token_id(chat.eos_ids[0])
        writer.add_string(EOS_KEY, json.dumps(list(chat.eos_ids)))
    if (end := _turn_end(chat)) is not None:
        writer.add_eot_token_id(end)
    writer.add_chat_template(chat.template)


def _family(described: Mapping[str, Any]) -> str:
    model = described["model"]
    if (kind := model.get("type", "?")) != "BPE":
        hint = "supported: BPE, byte-level or byte-fallback"
        raise ModelError("GGUF cannot hold this tokenizer", got=kind, hint=hint)
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ModelError("GGUF cannot hold this tokenizer", got="BPE with marks on the parts of words")
    if not model.get("byte_fallback"):
        return "gpt2"
    if missing := [b for b in range(256) if f"<0x{b:02X}>" not in model["vocab"]]:
        raise ModelError("byte fallback without its 256 byte tokens", got=f"<0x{missing[0]:02X}> is missing")
    return "llama"


def _tokens(described: Mapping[str, Any], rows: int, *, byte_tokens: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Text and type of every row."""
    texts: list[str | None] = [None] * rows
    types = [int(TokenType.UNUSED)] * rows
    for text, token in described["model"]["vocab"].items():
        _place(texts, token, text)
        is_byte = byte_tokens and len(text) == 6 and text.startswith("<0x")
        types[token] = int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for added in described.get("added_tokens", []):
        token = added["id"]
        _place(texts, token, added["content"])
        types[token] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    unk = described["model"].get("unk_token")
    if byte_tokens and unk in described["model"]["vocab"]:
        types[described["model"]["vocab"][unk]] = int(TokenType.UNKNOWN)
    complete = tuple(f"[unused {i}]" if text is None else text for i, text in enumerate(texts))
    if len(set(complete)) < rows:  # llama.cpp would abort the process
        raise ModelError("two token ids stand for the same text", got=repr(Counter(complete).most_common(1)[0][0]))
    return complete, tuple(types)


def _place(texts: list[str | None], token: int, text: str) -> None:
    if token >= len(texts):
        raise ModelError("the tokenizer has more ids than the embedding has rows", got=f"id {token}, {len(texts)} rows")
    texts[token] = text


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> tuple[float, ...]:
    """SentencePiece joins the pair whose result scores highest, BPE the pair that was learned first: score = -rank."""
    rank = {merges[i].replace(" ", "", 1): float(i + 1) for i in reversed(range(len(merges)))}  # the first one counts
    return tuple(-rank[t] if t in rank else 0.0 for t in tokens)


def _split_name(described: Mapping[str, Any]) -> str:
    """llama.cpp's name for this pre-tokenizer, by comparing what it does; `UNKNOWN_SPLIT` if none is the same."""
    if _parts(described.get("normalizer"), "normalizers") not in ([], [{"type": "NFC"}]):
        return UNKNOWN_SPLIT
    parts = _parts(described.get("pre_tokenizer"), "pretokenizers")
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return UNKNOWN_SPLIT
    own_regex, whole_words = parts[-1].get("use_regex", True), bool(described["model"].get("ignore_merges"))
    split = Split(tuple(map(_essence, parts[:-1])), own_regex, whole_words)
    names = {known: name for name, known in _SPLITS.items()} | {Split((_GPT2,)): "gpt-2"}
    return names.get(split, UNKNOWN_SPLIT)


def split_called(name: str) -> Split:
    """The way of splitting that llama.cpp has under a name.

    Raises:
        ModelError: not known here.
    """
    known = next((first for first, others in _ALSO.items() if name in others.split()), name)
    if known not in _SPLITS:
        raise ModelError("llama.cpp's way of splitting words is not known here", got=name)
    return _SPLITS[known]


def _essence(part: Mapping[str, Any]) -> str:
    if part["type"] == "Digits" and part.get("individual_digits"):
        return DIGITS
    if part["type"] == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        return str(part["pattern"].get("Regex", ""))
    return str(part)


def _parts(node: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """A sequence flattened into its members."""
    if node is not None and node["type"] == "Sequence":
        return [leaf for child in node[key] for leaf in _parts(child, key)]
    return [] if node is None else [node]


def _prepends_space(described: Mapping[str, Any]) -> bool:
    splits = _parts(described.get("pre_tokenizer"), "pretokenizers")
    return any(p["type"] == "Prepend" for p in _parts(described.get("normalizer"), "normalizers")) or any(
        p["type"] == "Metaspace" and p.get("prepend_scheme", "always") != "never" for p in splits
    )


def _adds_bos(described: Mapping[str, Any], bos: str) -> bool:
    """Whether the tokenizer itself puts ``bos`` before plain text."""
    steps = _parts(described.get("post_processor"), "processors")
    firsts = [step["single"][0] for step in steps if step["type"] == "TemplateProcessing" and step["single"]]
    return any(first.get("SpecialToken", {}).get("id") == bos for first in firsts)


def _turn_end(chat: ChatTokenizer) -> int | None:
    """The token that ends an assistant's turn in this template."""
    scored = chat.scored(chat.one_exchange("Hi"))
    ends = [token for token, end in zip(scored.ids, scored.end, strict=True) if end]
    return ends[-1] if ends and ends[-1] in chat.eos_ids else None
