"""What a trimmed vocabulary still reads, and that the network says the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from halfwatt.compress.base import StepContext
from halfwatt.compress.vocabulary_trim import Trim, trim, untrimmable
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate import parity
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from tests.support import tiny_models as tiny
from tests.support.sentencepiece_like import sentencepiece_like

CONTEXT = StepContext(dialogues=tiny.dialogues()[:2])


@pytest.fixture
def llama(tmp_path: Path) -> ChatModel:
    return load(tiny.folder(tmp_path))


def spec(model: ChatModel) -> dict[str, object]:
    report: dict[str, object] = json.loads(model.tokenizer.hf.backend_tokenizer.to_str())
    return report


def encoded(model: ChatModel, dialogue: Dialogue) -> list[int]:
    return model.tokenizer.encode(model.tokenizer.render(dialogue, prompt=False))


def test_bytes_specials_and_what_tokens_are_made_of_stay(llama: ChatModel) -> None:
    counts = Counter(i for d in CONTEXT.dialogues for i in encoded(llama, d))
    cut = trim(spec(llama), counts, 0.5)
    words = cut.spec["model"]["vocab"]
    assert len({w for w in words if len(w) == 1}) == 256
    assert set(tiny.SPECIAL) <= words.keys()
    assert len(cut.ids) % 64 == 0
    assert sorted(words.values()) == list(range(len(cut.ids)))
    for a, b in (m if isinstance(m, list) else m.split(" ") for m in cut.spec["model"]["merges"]):
        assert {a, b, a + b} <= words.keys()
    longer = [w for w in words if len(w) > 1 and w not in tiny.SPECIAL]
    merged = {"".join(m if isinstance(m, list) else m.split(" ")) for m in cut.spec["model"]["merges"]}
    assert set(longer) == merged


def test_a_text_of_kept_tokens_is_read_as_before_and_any_other_is_still_read(llama: ChatModel) -> None:
    smaller = Trim(1.0).apply(llama, CONTEXT)
    assert smaller.tokenizer.vocab_size < llama.tokenizer.vocab_size
    strange = Dialogue("x", (Message("user", "Zürich naïve 楽 🎵 qqq"), Message("assistant", "\x00\x7f ok")))
    for dialogue in (*tiny.dialogues(), strange):
        text = llama.tokenizer.render(dialogue, prompt=False)
        assert smaller.tokenizer.hf.decode(smaller.tokenizer.encode(text)) == llama.tokenizer.hf.decode(
            encoded(llama, dialogue)
        )
    for dialogue in CONTEXT.dialogues:
        assert len(encoded(smaller, dialogue)) == len(encoded(llama, dialogue))
    assert "+0.00% tokens" in smaller.lineage[-1]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "qwen2"])
def test_the_network_says_the_same_of_the_tokens_that_stayed(arch: tiny.Arch, tied: bool, tmp_path: Path) -> None:
    base = load(tiny.folder(tmp_path, arch, tied=tied))
    smaller = Trim(1.0).apply(base, CONTEXT)
    for dialogue in CONTEXT.dialogues:
        old, new = encoded(base, dialogue), encoded(smaller, dialogue)
        with torch.no_grad():
            a, b = (
                base.network(input_ids=torch.tensor([old])).logits,
                smaller.network(input_ids=torch.tensor([new])).logits,
            )
        assert torch.allclose(a[0, :-1].gather(1, torch.tensor(old[1:])[:, None]), b[0, :-1].gather(1, torch.tensor(new[1:])[:, None]), atol=1e-4)  # fmt: skip  # noqa: E501
    same = smaller.network.get_input_embeddings().weight is smaller.network.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    assert same == tied
    embedding: Any = smaller.network.get_input_embeddings()
    assert smaller.network.config.vocab_size == len(embedding.weight)


def test_stops_are_renumbered_everywhere_and_llama_cpp_reads_the_same_ids(llama: ChatModel, tmp_path: Path) -> None:
    smaller = Trim(0.9).apply(llama, CONTEXT)
    assert words_of(smaller, smaller.tokenizer.eos_ids) == words_of(llama, llama.tokenizer.eos_ids)
    smaller.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.tokenizer.eos_ids == smaller.tokenizer.eos_ids
    assert encoded(again, tiny.dialogues()[3]) == encoded(smaller, tiny.dialogues()[3])
    artifact = Gguf().write(smaller, tmp_path / "artifact")
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        report = parity.check(smaller, artifact, session, tiny.dialogues())
        own = parity.first_difference("llama.cpp", session.tokenize, smaller.tokenizer, tiny.dialogues())
        assert own is None
        assert session.reply([tiny.dialogues()[0].before(1)], smaller.generation)[0].token_ids
    assert report.problems == ()
    assert report.token_ids_equal


def words_of(model: ChatModel, ids: Sequence[int]) -> list[str]:
    return [model.tokenizer.hf.convert_ids_to_tokens(i) for i in ids]


def test_what_cannot_be_is_said_before_any_work(llama: ChatModel) -> None:
    assert Trim(0.0).problems(llama) == ["coverage lies above 0 and at most at 1, not 0"]
    assert Trim().problems(llama) == []
    assert "only BPE" in str(untrimmable({"model": {"type": "Unigram"}}))
    assert "a token for every byte" in str(
        untrimmable({"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Metaspace"}})
    )
    with pytest.raises(BadInput, match="needs dialogues"):
        Trim().apply(llama, StepContext())
    assert replace(Trim(), coverage=0.5).coverage == 0.5


@pytest.fixture
def spaced(tmp_path: Path) -> ChatModel:
    """Like Gemma: a token for every byte, and text falls back to them."""
    tokenizer, base = sentencepiece_like(), load(tiny.folder(tmp_path))
    return replace(base, tokenizer=tokenizer, network=tiny.network("llama", vocab_size=tokenizer.vocab_size + 8))


def test_a_vocabulary_that_falls_back_to_bytes_is_trimmed_too(spaced: ChatModel, tmp_path: Path) -> None:
    assert Trim().problems(spaced) == []
    smaller = Trim(1.0).apply(spaced, CONTEXT)
    words = smaller.tokenizer.hf.get_vocab()
    assert len(words) < spaced.tokenizer.vocab_size
    assert sum(word.startswith("<0x") for word in words) == 256
    assert "z" not in words, "a character that nobody writes is written in bytes"
    for dialogue in CONTEXT.dialogues:
        old, new = encoded(spaced, dialogue), encoded(smaller, dialogue)
        assert words_of(smaller, new) == words_of(spaced, old)
    strange = "Zürich naïve 楽 🎵 zzz"
    assert smaller.tokenizer.decode(smaller.tokenizer.encode(strange)) == strange
    assert smaller.tokenizer.hf.unk_token_id not in smaller.tokenizer.encode(strange)
    artifact = Gguf().write(smaller, tmp_path / "artifact")
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        assert parity.first_difference("llama.cpp", session.tokenize, smaller.tokenizer, tiny.dialogues()) is None
        assert parity.check(smaller, artifact, session, tiny.dialogues()).kl_mean < 1e-3


def by_hand(merges: list[tuple[str, str]], added: tuple[str, ...] = ()) -> dict[str, Any]:
    """A tokenizer.json over a, b, c, d and what they are merged to."""
    words = list(dict.fromkeys([*"abcd", *("".join(merge) for merge in merges)]))
    specials = [{"id": len(words) + i, "content": word, "special": True} for i, word in enumerate(added)]
    vocabulary = {word: i for i, word in enumerate(words)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [" ".join(merge) for merge in merges]}
    return {"model": model, "added_tokens": specials, "pre_tokenizer": {"type": "ByteLevel"}, "post_processor": None}


def test_of_several_merges_that_make_a_word_those_are_kept_by_which_it_is_made() -> None:
    """b and c go first, so abc is made of a and bc; the list names ab and c before."""
    spec = by_hand([("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc"), ("c", "d"), ("a", "cd")])
    cut = trim(spec, {spec["model"]["vocab"]["abc"]: 1}, 1.0)
    assert {"bc", "abc"} <= cut.spec["model"]["vocab"].keys()
    assert "a bc" in cut.spec["model"]["merges"]


def test_tokens_in_reserve_go_unless_they_are_used() -> None:
    names = ("<unused0>", "<unused1>", "<|reserved_special_token_3|>", "<|im_end|>", "<mask>")
    spec = by_hand([("a", "b")], added=names)
    used = spec["added_tokens"][1]["id"]
    left = [token["content"] for token in trim(spec, {used: 1}, 1.0).spec["added_tokens"]]
    assert left == ["<unused1>", "<|im_end|>", "<mask>"]
    always = trim(spec, {used: 1}, 1.0, always=[spec["added_tokens"][0]["id"]]).spec["added_tokens"]
    assert always[0]["content"] == "<unused0>"


def test_a_word_that_reads_like_a_byte_is_none_where_text_is_bytes_already() -> None:
    spec = by_hand([("a", "b")])
    spec["model"]["vocab"]["<0x41>"] = 99
    assert {*"abcd"} <= trim(spec, {0: 1}, 1.0).spec["model"]["vocab"].keys()


def test_what_a_post_processor_names_stays() -> None:
    spec = by_hand([("a", "b"), ("c", "d")], added=("<|reserved_0|>",))
    reserved, word = spec["added_tokens"][0]["id"], spec["model"]["vocab"]["cd"]
    spec["post_processor"] = {"type": "RobertaProcessing", "sep": ["<|reserved_0|>", reserved], "cls": ["cd", word]}
    cut = trim(spec, {0: 1}, 1.0)
    assert cut.spec["post_processor"]["sep"] == ["<|reserved_0|>", cut.ids[reserved]]
    assert cut.spec["post_processor"]["cls"] == ["cd", cut.ids[word]]


def test_a_word_that_must_stay_keeps_what_it_is_merged_from() -> None:
    spec = by_hand([("a", "b"), ("ab", "c"), ("abc", "d")])
    cut = trim(spec, {0: 1}, 1.0, always=[spec["model"]["vocab"]["abcd"]])
    assert {"ab", "abc", "abcd"} <= cut.spec["model"]["vocab"].keys()


def test_spaces_stay_spaces_where_the_dialogues_have_none(spaced: ChatModel) -> None:
    """As in Chinese: bytes of the sign that stands for a space would be shown as that sign."""
    talk = (Dialogue("d", (Message("user", "\u597d"), Message("assistant", "\u7684"))),)
    base = replace(spaced, tokenizer=ChatTokenizer(spaced.tokenizer.hf, UNSPACED, spaced.tokenizer.eos_ids))
    smaller = Trim(1.0).apply(base, StepContext(dialogues=talk))
    assert smaller.tokenizer.decode(smaller.tokenizer.encode("a b")) == "a b"


UNSPACED = "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ m['content'] }}<|im_end|>{% endfor %}"


Ends = tuple[tuple[str, int], tuple[str, int]]  # the tokens that end and begin a text, with their numbers
PROCESSORS: dict[str, Callable[[Ends], Any]] = {
    "template": lambda ends: processors.TemplateProcessing(single=f"{ends[1][0]} $A", special_tokens=[ends[1]]),
    "several in one": lambda ends: processors.Sequence([processors.ByteLevel(), PROCESSORS["template"](ends)]),
    "RoBERTa": lambda ends: processors.RobertaProcessing(ends[0], ends[1]),
    "BERT": lambda ends: processors.BertProcessing(ends[0], ends[1]),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_place_that_holds_an_id_is_renumbered(name: str, tmp_path: Path) -> None:
    """The special tokens are made the last ones, so that none keeps its number."""
    hf = tiny.tokenizer()
    fields = json.loads(hf.backend_tokenizer.to_str())
    order = sorted(fields["model"]["vocab"], key=lambda word: (word in tiny.SPECIAL, fields["model"]["vocab"][word]))
    fields["model"]["vocab"] = {word: i for i, word in enumerate(order)}
    for token in fields["added_tokens"]:
        token["id"] = fields["model"]["vocab"][token["content"]]
    backend = Tokenizer.from_str(json.dumps(fields))
    last_two = [(word, fields["model"]["vocab"][word]) for word in ("<|im_end|>", "<|endoftext|>")]
    backend.post_processor = PROCESSORS[name]((last_two[0], last_two[1]))
    wrap: Any = PreTrainedTokenizerFast
    moved = wrap(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>")
    start, end, last = moved.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    base = load(tiny.folder(tmp_path))
    base = replace(base, tokenizer=ChatTokenizer(moved, tiny.CHATML, (end, last)))
    settings: Any = base.network.generation_config
    light = moved.encode(" light", add_special_tokens=False)
    settings.suppress_tokens, settings.bad_words_ids = [start], [light, moved.encode("xyzzy", add_special_tokens=False)]
    smaller = Trim(0.9).apply(base, CONTEXT)
    now = smaller.tokenizer.hf.convert_tokens_to_ids
    assert now("<|im_end|>") != end
    assert words_of(smaller, smaller.tokenizer.hf.backend_tokenizer.encode("Hi").ids)[0] == "<|endoftext|>"
    settled: Any = smaller.network.generation_config
    assert settled.suppress_tokens == [now("<|im_start|>")]
    assert smaller.tokenizer.decode(settled.bad_words_ids[0]) == " light"
    settings.sequence_bias = {(start,): -10.0}
    assert Trim().problems(base) == ["sequence_bias of its generation settings holds ids"]


def test_special_tokens_in_reserve_that_go_are_listed_no_more(llama: ChatModel, tmp_path: Path) -> None:
    """Else whoever reads the saved folder adds them again, beyond the last row."""
    hf = tiny.tokenizer()
    hf.add_special_tokens({"additional_special_tokens": ["<|reserved_0|>", "<|tool|>"]})
    chat = ChatTokenizer(hf, tiny.CHATML, llama.tokenizer.eos_ids)
    base = replace(llama, tokenizer=chat, network=tiny.network("llama", vocab_size=chat.vocab_size))
    smaller = Trim().apply(base, CONTEXT)
    smaller.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.tokenizer.vocab_size == smaller.tokenizer.vocab_size <= smaller.network.config.vocab_size
    assert "<|tool|>" in again.tokenizer.special_tokens
    assert "<|reserved_0|>" not in again.tokenizer.special_tokens
