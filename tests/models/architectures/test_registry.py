"""The list of architectures, and that nobody else knows one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import halfwatt
from halfwatt.core.errors import ModelError
from halfwatt.models.architectures.registry import architectures, by_class_name

SOURCE = Path(halfwatt.__file__).parent
ELSEWHERE = re.compile(
    r"Conv1D|\bGPT2|base_model_prefix|num_key_value_heads\b(?!\")|base_model[.]layers|[.](h|ln_f)\b|model_type"
)


def test_what_is_not_supported_is_refused_in_a_line_that_names_what_is() -> None:
    with pytest.raises(ModelError) as error:
        by_class_name("BertModel", "some/folder")
    message = str(error.value)
    assert "\n" not in message
    for part in ("some/folder", "BertModel", *architectures()):
        assert part in message


def test_each_has_a_name_and_a_type_of_its_own() -> None:
    assert {"LlamaForCausalLM", "GPT2LMHeadModel"} <= architectures().keys()
    assert len({own.model_type for own in architectures().values()}) == len(architectures())


def test_no_other_file_asks_for_one() -> None:
    names = re.compile("|".join([ELSEWHERE.pattern, *architectures()]))
    for path in SOURCE.rglob("*.py"):
        if path.parent.name == "architectures":
            continue
        lines = [line for line in path.read_text().splitlines() if names.search(line)]
        assert not lines, (path, lines)
