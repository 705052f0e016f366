"""A tokenizer read from its files is the one that transformers makes of them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from halfwatt import demo
from halfwatt.models.stored_tokenizer import StoredTokenizer
from halfwatt.models.tokenizer import ChatTokenizer
from tests.support import tiny_models as tiny
from tests.support.sentencepiece_like import sentencepiece_like


def saved(plain: PreTrainedTokenizerFast, into: Path) -> None:
    """As an artifact holds it."""
    ChatTokenizer(plain, tiny.CHATML, (tiny.END,)).save(into)


def chatml(into: Path) -> None:
    saved(tiny.tokenizer(), into)


def more_special(into: Path) -> None:
    plain = tiny.tokenizer()
    plain.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<|tool|>"]})
    saved(plain, into)


def like_sentencepiece(into: Path) -> None:
    sentencepiece_like().save(into)


def of_the_demo(into: Path) -> None:
    ChatTokenizer.load(demo.path()).save(into)


def as_published(entries: dict[str, object], folder: Path) -> tuple[ChatTokenizer, ChatTokenizer]:
    """A tokenizer with so many more entries in its configuration, and what an artifact of it is read as."""
    tiny.tokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    chat = ChatTokenizer(PreTrainedTokenizerFast.from_pretrained(folder), tiny.CHATML, (tiny.END,))
    (folder / "artifact").mkdir()
    chat.save(folder / "artifact", plain=True)
    return chat, ChatTokenizer.load(folder / "artifact")


TEXTS = [
    "Turn on the light.",
    " two  blanks\n\n",
    "第3扇门。 Ünï",
    "<|im_start|>user\nhi<|im_end|>",
    "<think>a</think> b",
    "",
]


@pytest.mark.parametrize("make", [chatml, more_special, like_sentencepiece, of_the_demo])
def test_it_is_the_one_that_transformers_makes(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    theirs, ours = PreTrainedTokenizerFast.from_pretrained(tmp_path), StoredTokenizer.read(tmp_path)
    assert ours is not None
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "chat_template", "is_fast"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert dict(ours.special_tokens_map) == theirs.special_tokens_map
    assert set(ours.all_special_tokens) == set(theirs.all_special_tokens)
    assert {i: (str(t), t.special) for i, t in ours.added_tokens_decoder.items()} == {
        i: (str(t), t.special) for i, t in theirs.added_tokens_decoder.items()
    }
    assert ours.get_vocab() == theirs.get_vocab()
    for text in TEXTS:
        ids = theirs.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert ours.backend_tokenizer.encode(text, add_special_tokens=False).ids == ids
    draw, size = random.Random(0), max(ours.get_vocab().values()) + 1
    for _ in range(50):
        ids = [draw.randrange(size) for _ in range(draw.randrange(30))]
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert [ours.convert_ids_to_tokens(i) for i in ids] == theirs.convert_ids_to_tokens(ids)


def test_what_only_transformers_would_honour_is_left_to_it(tmp_path: Path) -> None:
    chatml(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for more in ({"clean_up_tokenization_spaces": True}, {"tokenizer_class": "GPT2Tokenizer"}, {"add_bos_token": True}):
        path.write_text(json.dumps(config | more))
        assert StoredTokenizer.read(tmp_path) is None
        assert ChatTokenizer.load(tmp_path, chat_template=tiny.CHATML).encode("hi")


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
def test_older_files_beside_it_are_left_to_transformers(name: str, tmp_path: Path) -> None:
    chatml(tmp_path)
    (tmp_path / name).write_text("{}")
    assert StoredTokenizer.read(tmp_path) is None


@pytest.mark.parametrize(
    "entry", [{"eos_token": "light"}, {"eos_token": "<|new|>"}, {"extra_special_tokens": ["<|x|>"]}]
)
def test_a_token_that_would_be_added_is_left_to_transformers(entry: dict[str, object], tmp_path: Path) -> None:
    chatml(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entry))
    assert StoredTokenizer.read(tmp_path) is None


def test_it_is_saved_back_as_it_was(tmp_path: Path) -> None:
    more_special(tmp_path)
    (tmp_path / "again").mkdir()
    chat = ChatTokenizer.load(tmp_path)
    assert isinstance(chat.hf, StoredTokenizer)
    chat.save(tmp_path / "again")
    again = ChatTokenizer.load(tmp_path / "again")
    assert (again.special_tokens, again.eos_ids, again.pad_id) == (chat.special_tokens, chat.eos_ids, chat.pad_id)
    assert again.prompt_ids(tiny.dialogues()[0].before(1)) == chat.prompt_ids(tiny.dialogues()[0].before(1))


@pytest.mark.parametrize(
    "entries",
    [
        {"add_prefix_space": False, "add_bos_token": True, "legacy": False, "model_max_length": 2048},
        {"additional_special_tokens": ["<|tool|>"], "tokenizer_class": "GPT2Tokenizer", "errors": "replace"},
        {"clean_up_tokenization_spaces": True},  # which transformers 5 ignores of BPE
    ],
)
def test_what_only_informs_is_left_out_of_an_artifact(entries: dict[str, object], tmp_path: Path) -> None:
    chat, again = as_published(entries, tmp_path)
    assert isinstance(again.hf, StoredTokenizer)
    assert (again.special_tokens, again.eos_ids, again.pad_id) == (chat.special_tokens, chat.eos_ids, chat.pad_id)
    assert (again.vocab_size, again.template) == (chat.vocab_size, chat.template)
    for text in TEXTS:
        assert again.encode(text) == chat.encode(text)
        assert again.decode(again.encode(text)) == chat.decode(chat.encode(text))


@pytest.mark.parametrize(
    "entry",
    [
        {
            "clean_up_tokenization_spaces": True,
            "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
        },
        {"extra_special_tokens": {"image_token": "<|image|>"}},
        {"split_special_tokens": True},  # which tokenizer.json does not hold
    ],
)
def test_an_artifact_keeps_what_only_transformers_honours(entry: dict[str, object], tmp_path: Path) -> None:
    chat, again = as_published(entry, tmp_path)
    ids = chat.encode("Well , that is it .")
    assert not isinstance(again.hf, StoredTokenizer)
    assert again.encode(TEXTS[3]) == chat.encode(TEXTS[3])
    assert dict(again.hf.special_tokens_map) == dict(chat.hf.special_tokens_map)
    assert again.decode(ids) == chat.decode(ids)


def test_transformers_is_not_imported_for_it(tmp_path: Path) -> None:
    chatml(tmp_path)
    code = f"""
import sys
from pathlib import Path
from halfwatt.models.tokenizer import ChatTokenizer
ChatTokenizer.load(Path({str(tmp_path)!r}))
assert not {{"transformers", "torch"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
