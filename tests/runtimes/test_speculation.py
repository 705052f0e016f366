"""Guessing ahead in llama.cpp: the same replies in fewer passes, whatever was guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from halfwatt.compress.apply import apply_recipe
from halfwatt.compress.base import StepContext
from halfwatt.compress.ngram_draft import Draft
from halfwatt.compress.recipe import Recipe
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import DRAFT_FILE, Artifact
from halfwatt.formats.gguf import Gguf
from halfwatt.formats.transformers_folder import TransformersFolder
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.ngram_table import Guess, NgramTable
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint, Reply, Speculation
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.transformers_eager import TransformersEager
from tests.support import tiny_models as tiny
from tests.support.serving_requests import DRAWN, GREEDY, ONE, PROMPTS, STRICT

TABLE, LOOKUP = Speculation("table", longest=3, least=0.3), Speculation("lookup", longest=5)


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    """With a table of the model's own replies, so that many guesses come true, and of a few that never do."""
    model = load(tiny.folder(tmp_path_factory.mktemp("model"), "llama"))
    artifact = Gguf().write(model, tmp_path_factory.mktemp("plain") / "out")
    follows: dict[tuple[int, ...], Guess] = {}
    for reply in answers(artifact, ONE, GREEDY)[::2]:
        ids = reply.token_ids
        follows |= {ids[i : i + 2]: Guess(ids[i + 2], 0.9) for i in range(len(ids) - 2)}
    wrong = {(i,): Guess((i * 7 + 1) % model.tokenizer.vocab_size, 0.6) for i in range(model.tokenizer.vocab_size)}
    return replace(model, draft=NgramTable(wrong | follows, 2))


@pytest.fixture(scope="module")
def artifact(drafted: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Gguf().write(drafted, tmp_path_factory.mktemp("drafted") / "out")


def answers(
    artifact: Artifact, at: OperatingPoint, how: Sampling, prompts: Sequence[Dialogue] = PROMPTS
) -> list[Reply]:
    with LlamaCpp().open(artifact, at) as session:
        return session.reply(prompts, how)


@pytest.mark.parametrize("how", [GREEDY, DRAWN, STRICT], ids=["greedy", "drawn", "penalty"])
@pytest.mark.parametrize("speculation", [TABLE, LOOKUP], ids=lambda s: s.kind)
@pytest.mark.parametrize("reuse", [True, False])
def test_the_replies_stay_what_they_are(
    artifact: Artifact, speculation: Speculation, how: Sampling, reuse: bool
) -> None:
    plain = answers(artifact, replace(ONE, reuse_prefix=reuse), how)
    assert answers(artifact, replace(ONE, reuse_prefix=reuse, speculation=speculation), how) == plain


def test_a_streamed_reply_too(artifact: Artifact) -> None:
    with LlamaCpp().open(artifact, replace(ONE, speculation=TABLE)) as session:
        pieces = list(session.stream(PROMPTS[0], GREEDY))
        assert "".join(pieces) == answers(artifact, ONE, GREEDY, PROMPTS[:1])[0].text


def test_the_weights_are_read_less_often(artifact: Artifact) -> None:
    moved = []
    for speculation in (None, TABLE):
        with LlamaCpp().open(artifact, replace(ONE, speculation=speculation)) as session:
            replies = session.reply(PROMPTS[::2], GREEDY)
            moved.append(session.bytes_moved())
    tokens = sum(len(r.token_ids) for r in replies)
    assert tokens > 50
    assert moved[1] < 0.8 * moved[0]


def test_the_cap_holds_whatever_is_guessed(artifact: Artifact) -> None:
    for cap in (1, 2, 3, 5):
        for reply in answers(artifact, replace(ONE, speculation=TABLE), replace(GREEDY, max_new_tokens=cap)):
            assert len(reply.token_ids) <= cap


def test_a_table_that_is_not_there_or_not_its_own_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    bare = Gguf().write(load(tiny.folder(tmp_path, "llama")), tmp_path / "bare")
    at = replace(ONE, speculation=TABLE)
    with pytest.raises(BadInput, match="holds no table of drafts; add the step draft"), LlamaCpp().open(bare, at):
        pass
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in artifact.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / DRAFT_FILE).write_bytes((copy / DRAFT_FILE).read_bytes()[:-4] + b"\0\0\0\0")
    with (
        pytest.raises(ModelError, match="not the file that was exported"),
        LlamaCpp().open(replace(artifact, path=copy), at),
    ):
        pass
    eager = TransformersFolder().write(load(tiny.folder(tmp_path / "eager", "llama")), tmp_path / "eager-out")
    with (
        pytest.raises(BadInput, match="does not guess ahead"),
        TransformersEager().open(eager, replace(ONE, speculation=LOOKUP)),
    ):
        pass


def test_the_step_learns_the_models_own_first_choices(tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, "llama"))
    context = StepContext(tiny.dialogues(), cache=tmp_path / "work")
    made = apply_recipe(model, Recipe("", (Draft(order=3),)), context)
    again = apply_recipe(model, Recipe("", (Draft(order=3),)), context)
    assert made.draft is not None
    assert again.draft == made.draft, "it is not lost where what the steps made is kept"
    artifact = Gguf().write(made, tmp_path / "out")
    dialogue = tiny.dialogues()[1]
    with LlamaCpp().open(artifact, ONE) as session:
        said = session.logits(dialogue).argmax(-1)
    tokens = model.tokenizer.scored(dialogue)
    known = [
        (made.draft.follows[tuple(tokens.ids[i - 2 : i + 1])], int(said[i]))
        for i in range(2, len(tokens.ids) - 1)
        if tokens.reply[i + 1] and tuple(tokens.ids[i - 2 : i + 1]) in made.draft.follows
    ]
    assert known
    assert all(guess.share < 1 or guess.token == token for guess, token in known)
    with pytest.raises(BadInput, match="a draft needs dialogues"):
        apply_recipe(model, Recipe("", (Draft(),)), StepContext())
    with pytest.raises(ModelError, match="order must be above 0, not 0"):
        apply_recipe(model, Recipe("", (Draft(order=0),)), context)
