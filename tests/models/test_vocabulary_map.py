"""A trimmed vocabulary against the whole one: what counts as the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halfwatt.compress.base import StepContext
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.models.vocabulary_map import VocabularyMap
from tests.support import tiny_models as tiny


@pytest.fixture
def whole(tmp_path: Path) -> ChatModel:
    return load(tiny.folder(tmp_path))


@pytest.fixture
def trimmed(whole: ChatModel) -> ChatModel:
    return Trim(1.0).apply(whole, StepContext(dialogues=tiny.dialogues()[:2]))


def test_a_trimmed_vocabulary_is_told_from_an_equal_and_from_a_shuffled_one(
    whole: ChatModel, trimmed: ChatModel, tmp_path: Path
) -> None:
    found = VocabularyMap.between(whole.tokenizer, trimmed.tokenizer)
    assert found is not None
    assert VocabularyMap.between(whole.tokenizer, whole.tokenizer) is None
    assert VocabularyMap.between(trimmed.tokenizer, whole.tokenizer) is None
    folder = tmp_path / "shuffled"
    folder.mkdir()
    trimmed.tokenizer.save(folder)
    spec = json.loads((folder / "tokenizer.json").read_text())
    words = spec["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    assert VocabularyMap.between(whole.tokenizer, ChatTokenizer.load(folder)) is None


def test_the_same_tokens_and_texts_that_may_differ(whole: ChatModel, trimmed: ChatModel) -> None:
    found = VocabularyMap.between(whole.tokenizer, trimmed.tokenizer)
    assert found is not None
    known, strange = "Turn on the kitchen light", "I'd like a table for 4 people."
    assert found.same(whole.tokenizer.encode(known), trimmed.tokenizer.encode(known))
    assert not found.same(whole.tokenizer.encode(strange), trimmed.tokenizer.encode(strange))
    assert found.allows(whole.tokenizer.encode(strange), trimmed.tokenizer.encode(strange))
    assert not found.allows(whole.tokenizer.encode(known), trimmed.tokenizer.encode(known)[:-1])
