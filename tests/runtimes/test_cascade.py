"""A student in front of its original: who answers, as which of the two would alone, and what a damaged one says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact, read_artifact
from halfwatt.models.sampling import Sampling
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint, Reply
from halfwatt.runtimes.cascade import TOO_LONG, WORDS_FILE, Cascade, CascadeSession
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.registry import by_name
from tests.support.cascades import AT, LIMIT, SAID, asking, tiny_cascade

GREEDY = Sampling(max_new_tokens=16)
KNOWN, OTHER = asking(SAID[0]), asking("Quelle heure est-il?")
MIXED = asking(SAID[0], "Quelle heure est-il, 5 ou 6?")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def session(artifact: Artifact) -> Iterator[CascadeSession]:
    with by_name("cascade").make(Access()).open(artifact, AT) as session:
        assert isinstance(session, CascadeSession)
        yield session


def alone(artifact: Artifact, part: str, dialogue: Dialogue) -> Reply:
    with LlamaCpp().open(read_artifact(artifact.path / part), AT) as session:
        return session.reply([dialogue], GREEDY)[0]


def drained(stream: Generator[str, None, Reply]) -> tuple[str, Reply]:
    pieces = list[str]()
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return "".join(pieces), end.value


def test_the_student_answers_what_it_was_taught_and_the_original_the_rest(
    artifact: Artifact, session: CascadeSession
) -> None:
    for dialogue, part in ((KNOWN, "student"), (OTHER, "original"), (MIXED, "original")):
        (reply,), other = session.reply([dialogue], GREEDY), {"student": "original"}.get(part, "student")
        assert reply.text == alone(artifact, part, dialogue).text, part
        assert reply.text != alone(artifact, other, dialogue).text, "or nothing would be seen here"


def test_token_ids_are_the_originals_whoever_answers(artifact: Artifact, session: CascadeSession) -> None:
    tokenizer, student = (ChatTokenizer.load(artifact.path / part) for part in ("original", "student"))
    assert student.vocab_size < tokenizer.vocab_size, "its ids are others"
    for reply in session.reply([KNOWN, OTHER], GREEDY):
        assert tokenizer.decode(reply.token_ids) == reply.text
        assert reply.stopped == (reply.token_ids[-1] in tokenizer.eos_ids)


@pytest.mark.parametrize("batch", [1, 2])
def test_several_at_once_are_each_as_alone(artifact: Artifact, session: CascadeSession, batch: int) -> None:
    prompts = [KNOWN, OTHER, asking(SAID[1]), MIXED, asking(SAID[2]), asking("Wer bist du?")]
    each = [session.reply([prompt], GREEDY)[0].token_ids for prompt in prompts]
    assert [reply.token_ids for reply in session.replies(prompts, [GREEDY] * len(prompts))] == each
    with by_name("cascade").make(Access()).open(artifact, OperatingPoint(threads=1, batch=batch)) as together:
        assert [reply.token_ids for reply in together.reply(prompts, GREEDY)] == each


def test_streamed_they_say_the_same(session: CascadeSession) -> None:
    for dialogue in (KNOWN, OTHER):
        text, reply = drained(session.stream(dialogue, GREEDY))
        again = session.reply([dialogue], GREEDY)[0]
        assert (text, reply.token_ids) == (reply.text, again.token_ids)


def test_both_are_counted(artifact: Artifact) -> None:
    """Bytes that a reply of either reads, and a prefix that either keeps until it is to forget it."""
    with by_name("cascade").make(Access()).open(artifact, AT) as session:
        for dialogue, part in ((KNOWN, "student"), (OTHER, "original")):
            before = session.bytes_moved()
            session.reply([dialogue], GREEDY)
            assert session.bytes_moved() - before > read_artifact(artifact.path / part).weights_read_b
            assert session.reply([dialogue], GREEDY)[0].tokens_cached > 0
        session.reset()
        assert session.reply([KNOWN], GREEDY)[0].tokens_cached == 0


def test_a_short_word_among_known_ones_changes_nothing(artifact: Artifact) -> None:
    """All that was said is weighed together, and other languages are other words."""
    router = Cascade.read(artifact).router
    assert router.surprisal(KNOWN) < LIMIT < router.surprisal(OTHER)
    assert not router.asks_original(asking(*SAID[:2], "No"))
    assert router.asks_original(asking("请把厨房的灯打开"))


def test_what_is_too_long_for_the_student_is_for_the_original(artifact: Artifact) -> None:
    router = Cascade.read(artifact).router
    long = asking(*[SAID[0]] * 40)
    assert router.surprisal(long) == TOO_LONG
    assert router.asks_original(long)


def test_it_is_no_reference(session: CascadeSession) -> None:
    with pytest.raises(BadInput, match="a cascade is no reference; name its original in its place"):
        session.logits(KNOWN)
    assert session.continuations(KNOWN, ["Yes"], 8)[0] < 0


def test_its_process_imports_nothing_heavy() -> None:
    script = "import sys, halfwatt.runtimes.cascade; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def moved(artifact: Artifact, to: Path) -> Path:
    shutil.copytree(artifact.path, to)
    return to


def test_it_can_be_moved(artifact: Artifact, tmp_path: Path) -> None:
    cascade = Cascade.read(read_artifact(moved(artifact, tmp_path / "moved")))
    assert cascade.router.nats_per_byte == LIMIT
    assert cascade.student.artifact.path == tmp_path / "moved" / "student"


@pytest.mark.parametrize("name", [WORDS_FILE, "student/artifact.json", "original/artifact.json"])
def test_a_part_is_missing(artifact: Artifact, tmp_path: Path, name: str) -> None:
    folder = moved(artifact, tmp_path / "moved")
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"is no whole cascade: {name} is missing"):
        Cascade.read(read_artifact(folder))


def test_a_part_is_another_one(artifact: Artifact, tmp_path: Path) -> None:
    """The threshold, the words and both models are those that were judged together."""
    folder = moved(artifact, tmp_path / "moved")
    for name, key in {"cascade.json": "nats_per_byte", WORDS_FILE: "", "student/artifact.json": "sha256"}.items():
        path, before = folder / name, (folder / name).read_bytes()
        changed = json.dumps(json.loads(before) | {key: 9.0 if key == "nats_per_byte" else "0" * 64}) if key else "no"
        path.write_text(changed)
        with pytest.raises(ModelError, match="is not the cascade that was written; make it again"):
            Cascade.read(read_artifact(folder))
        path.write_bytes(before)
