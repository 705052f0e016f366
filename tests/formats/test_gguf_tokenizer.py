"""Tokenizers in GGUF: llama.cpp's own tokenizer against the tokenizers library on the same texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from halfwatt.core.errors import ModelError
from halfwatt.core.settings import Access, Margins
from halfwatt.evaluate import parity
from halfwatt.evaluate.examine import prove
from halfwatt.evaluate.integrity import integrity_checks
from halfwatt.formats import gguf_tokenizer
from halfwatt.formats.gguf import Gguf
from halfwatt.formats.gguf_tokenizer import vocabulary
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.serving_process import ServingSpec
from tests.support import tiny_models as tiny
from tests.support.llamacpp_parity import parity_in_llamacpp
from tests.support.sentencepiece_like import sentencepiece_like

TEXTS = (
    "Hello there, it's 7:30 pm -- and I'LL pay 12345.67 for 2 tickets!",
    "  leading spaces, trailing spaces   ",
    "tabs\tand\n\nnewlines \n \r\n end",
    "Grüße aus Köln, “Zitat”…, 日本語のテキスト, русский текст, 한국어 🎵🎶 e\u0301",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "don't DON'T we've  x=y+z; foo_bar(baz) == [1,2,3] # comment",
    "",
    "a",
    " ",
    "\n",
)


def split(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
KNOWN = {
    "gpt-2": (BYTE_LEVEL, False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]), False),
    "qwen2": (split(gguf_tokenizer._QWEN2), False),
    "llama-bpe": (split(gguf_tokenizer._LLAMA3), True),
    "smaug-bpe": (split(gguf_tokenizer._LLAMA3), False),
    "tekken": (split(gguf_tokenizer._TEKKEN), True),
}


def chat(hf: PreTrainedTokenizerFast) -> ChatTokenizer:
    return ChatTokenizer(hf, tiny.CHATML, (tiny.END, tiny.TEXT_END))


def byte_level(pre_tokenizer: Any, ignore_merges: bool = False) -> ChatTokenizer:
    hf = tiny.tokenizer(pre_tokenizer=pre_tokenizer)
    hf.backend_tokenizer.model.ignore_merges = ignore_merges
    return chat(hf)


def model(into: Path, tokenizer: ChatTokenizer) -> ChatModel:
    base = load(tiny.folder(into, "llama"))
    return replace(base, tokenizer=tokenizer, network=tiny.network("llama", vocab_size=tokenizer.vocab_size + 8))


def assert_same_ids(made: ChatModel, into: Path) -> None:
    artifact = Gguf().write(made, into)
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        rendered = [made.tokenizer.render(d, prompt=False) for d in tiny.dialogues()]
        for text in (*TEXTS, *rendered):
            assert session.tokenize(text) == made.tokenizer.encode(text), text
        found = parity.check(made, artifact, session, tiny.dialogues())
        assert found.token_ids_equal
        assert found.eos_equal


@pytest.mark.parametrize("name", KNOWN)
def test_known_ways_of_splitting_are_named_and_give_the_same_ids(name: str, tmp_path: Path) -> None:
    tokenizer = byte_level(*KNOWN[name])
    assert vocabulary(tokenizer, 400).pre == name
    assert_same_ids(model(tmp_path, tokenizer), tmp_path / "out")


def test_a_sentencepiece_like_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    tokenizer = sentencepiece_like()
    words = vocabulary(tokenizer, tokenizer.vocab_size)
    assert (words.model, words.space_prefix, words.merges) == ("llama", True, ())
    assert_same_ids(model(tmp_path, tokenizer), tmp_path / "out")


UNKNOWN = {
    "prefix space": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "another regex": split(r"\w{1,2}|[^\w]+"),
    "words": pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), BYTE_LEVEL]),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_way_of_splitting_serves_but_is_reported(name: str, tmp_path: Path) -> None:
    tokenizer = byte_level(UNKNOWN[name])
    made = model(tmp_path, tokenizer)
    assert vocabulary(tokenizer, 400).pre == "default"
    spec = ServingSpec(Gguf().write(made, tmp_path / "out"), OperatingPoint(threads=1))
    record = prove(made, spec, tiny.dialogues()).parity
    assert record is not None
    assert (record.token_ids_equal, record.problems) == (True, ()), (
        "our ids are handed over: one odd text condemns nobody"
    )
    [remark] = record.remarks
    assert "runtime's own tokenizer (used by other programs, never by us) splits dialogue tiny-" in remark
    assert record.kl_mean < 1e-4
    assert remark in integrity_checks(record, Margins())[0].detail


def test_a_normalizer_that_llama_cpp_lacks_is_unknown() -> None:
    hf = tiny.tokenizer()
    hf.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert vocabulary(chat(hf), 384).pre == "default"
    hf.backend_tokenizer.normalizer = normalizers.NFC()
    assert vocabulary(chat(hf), 384).pre == "gpt-2"


def test_types_and_special_ids() -> None:
    hf = tiny.tokenizer()
    hf.add_tokens(["[tool]"])
    hf.add_special_tokens({"bos_token": "<|endoftext|>"})
    words = vocabulary(chat(hf), 400)
    assert words.tokens[:4] == tiny.SPECIAL
    assert set(words.types[:4]) == {gguf.TokenType.CONTROL}
    added = words.tokens.index("[tool]")
    assert words.types[added] == gguf.TokenType.USER_DEFINED
    assert words.types[added + 1 :] == (gguf.TokenType.UNUSED,) * (399 - added)
    assert words.types[10] == gguf.TokenType.NORMAL
    assert len(words.tokens) == len(set(words.tokens)) == 400
    assert words.special == {"bos": tiny.TEXT_END, "pad": tiny.PAD}
    assert not words.adds_bos


def test_a_tokenizer_that_adds_a_start_token_says_so() -> None:
    hf = tiny.tokenizer()
    hf.add_special_tokens({"bos_token": "<|endoftext|>"})
    hf.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tiny.TEXT_END)]
    )
    assert vocabulary(chat(hf), 384).adds_bos


def test_stop_tokens_in_the_file(tmp_path: Path) -> None:
    artifact = Gguf().write(load(tiny.folder(tmp_path, "llama")), tmp_path / "out")
    fields = gguf.GGUFReader(artifact.path / "model.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tiny.END
    assert fields["tokenizer.ggml.eot_token_id"].contents() == tiny.END
    assert fields["halfwatt.eos_token_ids"].contents() == "[2, 3]"
    assert fields["tokenizer.chat_template"].contents() == tiny.CHATML


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (models.WordLevel({"a": 0}, unk_token="a"), "WordLevel"),
        (models.Unigram([("a", 0.0)], 0, False), "Unigram"),
        (models.BPE({"a": 0}, [], end_of_word_suffix="</w>"), "marks on the parts"),
        (models.BPE({"a": 0}, [], byte_fallback=True), "<0x00> is missing"),
    ],
)
def test_kinds_that_gguf_cannot_hold_are_refused_by_name(made: Any, says: str) -> None:
    wrap: Any = PreTrainedTokenizerFast
    hf = wrap(tokenizer_object=Tokenizer(made), eos_token="</s>")
    with pytest.raises(ModelError, match=says):
        vocabulary(ChatTokenizer(hf, tiny.CHATML, (0,)), 10)


def test_more_ids_than_rows_are_refused() -> None:
    with pytest.raises(ModelError, match="more ids than the embedding has rows"):
        vocabulary(chat(tiny.tokenizer()), 100)


def test_a_vocabulary_of_bytes_alone_is_served_and_read_again(tmp_path: Path) -> None:
    """llama.cpp loads no byte-level file without a merge, so one is written that nothing can ever ask for."""
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(_bytes())}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    folder = tiny.folder(tmp_path, config={"vocab_size": 260})
    described = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, eos_token=tiny.SPECIAL[tiny.END], pad_token=tiny.SPECIAL[tiny.PAD]
    )
    described.add_tokens([AddedToken(text, special=True, normalized=False) for text in tiny.SPECIAL])
    described.chat_template = tiny.CHATML
    described.save_pretrained(folder)
    model = load(folder)
    record = parity_in_llamacpp(model, tmp_path / "out")
    assert record.problems == ()
    assert record.kl_mean < 1e-4
    back = Gguf().read(tmp_path / "out", Access())
    assert all(back.tokenizer.encode(text) == model.tokenizer.encode(text) for text in TEXTS)


def _bytes() -> list[str]:
    return [*tiny.SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
