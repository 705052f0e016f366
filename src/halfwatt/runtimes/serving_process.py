"""The process under test. It holds one loaded session and nothing of the harness, so that its CPU time is the model's.

    harness                          serving process (python -m halfwatt.runtimes.serving_process)
      open {artifact, at}      ->      load
      run {prompts, min_s}     ->      whole passes over the prompts, counters read at both edges
      (sleeps on the pipe)     <-      usage, tokens
      replies {prompts, ...}   ->      the texts, for the gate (never inside a window)
      continuations {texts}    ->      how likely they are after a prompt
      tokenize {texts}         ->      the ids that the runtime's own tokenizer makes of a text
      logits {prompts, file}   ->      written to the file, for the gate, where only this process can load the artifact
      (end of file)            ->      exit

Both ends are in this file. A program of another environment may be a serving process too, see `ServingSpec.command`: it
calls `main` with its own way to open a session. So what is imported here is light, and is there in any environment.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from halfwatt.core.child_process import ChildProcess, error_record, module_command, orders, protocol_stream
from halfwatt.core.json_records import adapter
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.base import Usage
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint, Reply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from halfwatt.runtimes.base import Session
    from halfwatt.runtimes.llamacpp_session import LlamaCppSession

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServingSpec:
    """What a serving process loads."""

    artifact: Artifact
    at: OperatingPoint
    access: Access = field(default_factory=Access)
    command: tuple[str, ...] = ()  # the process's program, where it is not halfwatt's own in this interpreter


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What was done between two edges."""

    usage: tuple[Usage, Usage]  # cumulative, at the start and at the end edge
    replies: int
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    passes: int
    replies_sha256: str


@dataclass(frozen=True, slots=True)
class _Order:
    """One line to the process."""

    verb: str
    spec: ServingSpec | None = None
    prompts: tuple[Dialogue, ...] = ()
    samplings: tuple[Sampling, ...] = ()
    min_s: float = 0.0
    fresh: bool = False
    file: Path | None = None
    rows: tuple[int, ...] | None = None
    texts: tuple[str, ...] = ()
    longest: int = 0


class ServingProcess(ChildProcess):
    """A handle on a serving process; what its methods raise is in `ChildProcess.receive`."""

    def __init__(self, spec: ServingSpec, *, timeout_s: float = 1800.0) -> None:
        super().__init__(spec.command or module_command("halfwatt.runtimes.serving_process"), "serving")
        self._timeout_s = timeout_s
        try:
            self._ask(_Order("open", spec=spec), type(None))
        except BaseException:
            self.close()
            raise

    def run(
        self, prompts: Sequence[Dialogue], sampling: Sampling, *, min_s: float = 0.0, fresh: bool = False
    ) -> RunCounts:
        """Answer all prompts in order, again and again until ``min_s`` seconds are over; whole passes only.

        fresh: each pass begins with an empty cache: a single dialogue would be answered from its own
        """
        order = _Order("run", prompts=tuple(prompts), samplings=(sampling,), min_s=min_s, fresh=fresh)
        return self._ask(order, RunCounts)

    def replies(self, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
        """One reply a prompt, each with its own sampling."""
        return self._ask(_Order("replies", prompts=tuple(prompts), samplings=tuple(samplings)), list[Reply])

    def continuations(self, dialogue: Dialogue, texts: Sequence[str], longest: int) -> list[float]:
        """See `halfwatt.runtimes.base.Session.continuations`."""
        order = _Order("continuations", prompts=(dialogue,), texts=tuple(texts), longest=longest)
        return self._ask(order, list[float])

    def tokenize(self, text: str) -> list[int]:
        """What llama.cpp's own tokenizer makes of rendered text."""
        return self._ask(_Order("tokenize", texts=(text,)), list[int])

    def logits(self, dialogue: Dialogue, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
        """See `halfwatt.runtimes.base.Session.logits`."""
        import numpy as np

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "logits.npy"
            wanted = None if rows is None else tuple(rows)
            self._ask(_Order("logits", prompts=(dialogue,), rows=wanted, file=file), type(None))
            return cast("NDArray[np.float32]", np.load(file))

    def _ask(self, order: _Order, answer: type[T]) -> T:
        self.send(order)
        return adapter(answer).validate_python(self.receive(self._timeout_s)["ok"])


def open_session(spec: ServingSpec) -> AbstractContextManager[Session]:
    """A session of one of halfwatt's own runtimes."""
    from halfwatt.runtimes.registry import by_name

    return by_name(spec.artifact.runtime).make(spec.access).open(spec.artifact, spec.at)


def main(opening: Callable[[ServingSpec], AbstractContextManager[Session]] = open_session) -> None:
    """Serve orders from stdin until it ends."""
    out, reader, lines = protocol_stream(), adapter(_Order), orders(sys.stdin)
    if (first := next(lines, None)) is None:
        return
    spec = reader.validate_json(first).spec
    assert spec is not None, "the first order is 'open'"
    try:
        with opening(spec) as session:
            gc.collect()
            gc.freeze()  # what is loaded now stays: searching it for garbage between replies is no part of their cost
            counted = _CountedSession(session, spec.at.batch)
            _answer(out, None)
            for line in lines:
                _answer(out, counted.do(reader.validate_json(line)))
    except Exception as error:  # noqa: BLE001 - the process boundary: every error travels to the harness
        print(json.dumps(error_record(error)), file=out)


def _answer(out: IO[str], record: Any) -> None:
    print(json.dumps({"ok": adapter(type(record)).dump_python(record, mode="json")}), file=out)


def in_batches(prompts: Sequence[Dialogue], batch: int) -> list[list[Dialogue]]:
    """What is answered at once: the same turn of up to ``batch`` dialogues, as so many users ask it.

    >>> [[d.id for d in some] for some in in_batches([Dialogue(n, ()) for n in "aabccc"], 2)]
    [['a', 'b'], ['a'], ['c'], ['c'], ['c']]
    """
    talks = [list(turns) for _, turns in groupby(prompts, lambda prompt: prompt.id)]
    groups = (talks[i : i + batch] for i in range(0, len(talks), batch))
    return [[turn for turn in at_once if turn is not None] for group in groups for at_once in zip_longest(*group)]


class _CountedSession:
    """The session and its cumulative use."""

    def __init__(self, session: Session, batch: int) -> None:
        self._session, self._batch, self._wall_s = session, batch, 0.0

    def do(self, order: _Order) -> Any:
        if order.verb == "run":
            return self._run(order)
        if order.verb == "replies":
            self._session.reset()
            return tuple(self._session.replies(order.prompts, order.samplings))
        if order.verb == "continuations":
            return tuple(self._session.continuations(order.prompts[0], order.texts, order.longest))
        if order.verb == "tokenize":
            return cast("LlamaCppSession", self._session).tokenize(order.texts[0])
        import numpy as np

        assert order.file is not None, "the order says where to"
        return np.save(order.file, self._session.logits(order.prompts[0], order.rows))

    def _usage(self) -> Usage:
        return Usage(time.process_time(), self._wall_s, self._session.bytes_moved())

    def _run(self, order: _Order) -> RunCounts:
        self._session.sync()
        before, started = self._usage(), time.monotonic()
        first: list[Reply] = []
        batches, counts, passes = in_batches(order.prompts, self._batch), [0, 0, 0, 0], 0
        while passes == 0 or time.monotonic() - started < order.min_s:
            if order.fresh:
                self._session.reset()
            for batch in batches:
                for reply in self._session.reply(batch, order.samplings[0]):
                    figures = (1, reply.tokens_in, reply.tokens_cached, len(reply.token_ids))
                    counts = [a + b for a, b in zip(counts, figures, strict=True)]
                    if passes == 0:
                        first.append(reply)
            passes += 1
        self._session.sync()
        self._wall_s += time.monotonic() - started
        after = self._usage()
        digest = hashlib.sha256(repr([r.token_ids for r in first]).encode()).hexdigest()
        return RunCounts((before, after), counts[0], counts[1], counts[2], counts[3], passes, digest)


if __name__ == "__main__":
    main()
