"""The tokenizer that a GGUF file describes, for the tokenizers library: the same ids as llama.cpp's own.

What gguf_tokenizer.py writes is read here, and what llama.cpp's converter writes.

    "gpt2"    byte-level BPE: merges as they stand, words split as llama.cpp splits them under the name in ``pre``
    "llama"   SentencePiece: a pair is merged whose result is a token, the highest score first. As merges: all pairs
              that make a token, in the order of scores. Gemma's are of this kind too
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from halfwatt.core.errors import ModelError, first_line
from halfwatt.formats.gguf_tokenizer import DIGITS, EOS_KEY, NO_MERGE, Split, split_called
from halfwatt.models.template_sandbox import check_template
from halfwatt.models.tokenizer import ChatTokenizer, no_template

_KEY = "tokenizer.ggml."
_SPACE = "\u2581"  # SentencePiece's


def read_tokenizer(entries: Mapping[str, Any], path: Path, template: str | None) -> ChatTokenizer:
    """From a file's keys. template: instead of the file's own.

    Raises:
        ModelError: a kind of tokenizer that is not known, or no chat template (names the option), or no stop token.
    """
    template = entries.get("tokenizer.chat_template") if template is None else template
    if not template:
        raise no_template(path)
    check_template(template)
    try:
        hf = _hf_tokenizer({key.removeprefix(_KEY): value for key, value in entries.items()})
        chat = ChatTokenizer(hf, template, _stops(entries))
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception; a stranger's keys may be of any type
        raise ModelError(f"the tokenizer of {path} cannot be read", got=first_line(error)) from error
    return _with_turn_end(chat, path)


def _hf_tokenizer(keys: Mapping[str, Any]) -> Any:
    from transformers import PreTrainedTokenizerFast

    texts, types = keys["tokens"], keys.get("token_type", [TokenType.NORMAL] * len(keys["tokens"]))
    used = {text: i for i, (text, kind) in enumerate(zip(texts, types, strict=True)) if kind != TokenType.UNUSED}
    special = {role: keys.get(f"{name}_token_id") for role, name in _SPECIAL.items()}
    named = {role: texts[token] for role, token in special.items() if token is not None}
    if (kind := keys["model"]) == "gpt2":
        backend = _byte_level(used, keys["merges"], split_called(keys.get("pre", "default")))
    elif kind == "llama":
        backend = _sentencepiece(
            used, dict(zip(texts, keys["scores"], strict=True)), types, keys, named.get("unk_token")
        )
    else:
        raise ModelError("no such tokenizer is known", got=str(kind), hint="known are gpt2 and llama")
    added = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    tokens = [(text, added[types[i]]) for text, i in used.items() if types[i] in added]
    backend.add_tokens([AddedToken(text, special=control, normalized=False) for text, control in tokens])
    if "bos_token" in named and keys.get("add_bos_token", kind == "llama"):
        start = named["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=[start, "$A"], pair=[start, "$A", start, "$B:1"], special_tokens=[(start, special["bos_token"])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)  # type: ignore[no-untyped-call]


_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def _byte_level(vocabulary: dict[str, int], merges: list[str], split: Split) -> Tokenizer:
    pairs = [(first, second) for first, second in (merge.split(" ", 1) for merge in merges if merges != [NO_MERGE])]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=split.whole_words))
    parts: list[Any] = [
        pre_tokenizers.Digits(individual_digits=True) if p == DIGITS else pre_tokenizers.Split(Regex(p), "isolated")
        for p in split.patterns
    ]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.own_regex)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*parts, byte_level]) if parts else byte_level
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(
    vocabulary: dict[str, int], scores: Mapping[str, float], types: list[int], keys: Mapping[str, Any], unk: str | None
) -> Tokenizer:
    plain = [text for text, i in vocabulary.items() if types[i] == TokenType.NORMAL]
    known = set(plain)
    ranked = sorted((text for text in plain if len(text) > 1), key=lambda text: -scores[text])
    halves = ((text[:at], text[at:]) for text in ranked for at in range(1, len(text)))
    merges = [(a, b) for a, b in halves if a in known and b in known]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token=unk, fuse_unk=True))
    spaces, prefix = normalizers.Replace(" ", _SPACE), keys.get("add_space_prefix", True)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    parts: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    return backend


def _stops(entries: Mapping[str, Any]) -> tuple[int, ...]:
    """All of them, as we write them; else the ends of text, turn and message that GGUF has keys for."""
    if EOS_KEY in entries:
        return tuple(map(int, json.loads(entries[EOS_KEY])))
    ends = (entries.get(f"{_KEY}{name}_token_id") for name in ("eos", "eot", "eom"))
    if not (stops := tuple(dict.fromkeys(int(end) for end in ends if end is not None))):
        raise ModelError("the file names no stop token", got=f"no {_KEY}eos_token_id")
    return stops


def _with_turn_end(chat: ChatTokenizer, path: Path) -> ChatTokenizer:
    """With the token by which the template ends an assistant's turn: a base model's file does not name it."""
    if max(chat.eos_ids) >= chat.vocab_size:
        raise ModelError(f"a stop token of {path} lies outside the vocabulary", got=str(max(chat.eos_ids)))
    said = "Hi"
    text = chat.render(chat.one_exchange(said), prompt=False)
    after = chat.encode(text[text.rfind(said) + len(said) :])
    ends = [i for i in after if chat.hf.convert_ids_to_tokens(i) in chat.special_tokens]
    return ChatTokenizer(chat.hf, chat.template, tuple(dict.fromkeys((*chat.eos_ids, *ends[:1]))))
