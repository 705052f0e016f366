"""The demo model that is shipped: what its card says, and that it talks sense in its domains."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from halfwatt import demo
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.formats.transformers_folder import TransformersFolder
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.transformers_eager import TransformersEager
from scripts.demo_model import card


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return load(demo.path())


def test_it_is_a_llama_of_15_to_20_million_bf16_parameters(model: ChatModel) -> None:
    assert model.network.config.model_type == "llama"
    assert 15e6 < card.parameters(demo.path()) < 20e6
    with safe_open(demo.path() / "model.safetensors", framework="pt") as stored:
        assert {stored.get_slice(name).get_dtype() for name in stored.keys()} == {"BF16"}  # noqa: SIM118


def test_the_card_is_what_training_left() -> None:
    assert (demo.path() / "README.md").read_text() == card.card(demo.path())


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("turn off the kitchen light", ("kitchen", "light")),
        ("I want to cancel my order", ("order",)),
    ],
)
def test_it_answers_in_its_domains(model: ChatModel, question: str, words: tuple[str, ...], tmp_path: Path) -> None:
    artifact = TransformersFolder().write(model, tmp_path / "exported")
    with TransformersEager().open(artifact, OperatingPoint()) as session:
        reply = session.reply([Dialogue("question", (Message("user", question),))], Sampling(max_new_tokens=200))[0]
    assert reply.stopped
    assert all(word in reply.text.lower() for word in words), reply.text
