"""The process under test. It holds one loaded session and nothing of the harness, so that its CPU time is the model's.

    harness                          worker (python -m halfwatt.runtimes.serving_process)
      open {artifact, at}      ->      load
      run {prompts, min_s}     ->      whole passes over the prompts, counters read at both edges
      (sleeps on the pipe)     <-      usage, tokens
      replies {prompts, ...}   ->      the texts, for the gate (never inside a window)
      logits {prompts, file}   ->      written to the file, for the gate, where only the worker can load the artifact
      close                    ->      exit

One JSON object a line. Both ends are in this file. A program of another environment may be a worker too, see
`Spec.command`: it calls `main` with its own way to open a session.
"""

from __future__ import annotations

import gc
import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from halfwatt.core.child_process import error_of_record, error_record, protocol_stream
from halfwatt.core.errors import EnvironmentFault
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact
from halfwatt.meters.base import Usage
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint, Reply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from halfwatt.runtimes.base import Session


@dataclass(frozen=True, slots=True)
class ServingSpec:
    """What a worker loads."""

    artifact: Artifact
    at: OperatingPoint
    device: str = "cpu"
    dtype: str = "auto"
    command: tuple[str, ...] = ()  # the worker's program, where it is not halfwatt's own in this interpreter


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
    """One line to the worker."""

    verb: str
    spec: ServingSpec | None = None
    prompts: tuple[Dialogue, ...] = ()
    samplings: tuple[Sampling, ...] = ()
    min_s: float = 0.0
    file: Path | None = None


class ServingProcess(AbstractContextManager["ServingProcess"]):
    """A handle on a worker process. Every call blocks asleep on a pipe: the instrument does not heat the bench.

    Raises:
        EnvironmentFault: the process died or did not answer in time; carries the last line it wrote.
    """

    def __init__(self, spec: ServingSpec, *, timeout_s: float = 1800.0) -> None:
        self._timeout_s = timeout_s
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process; closed in close()
        self._process = subprocess.Popen(
            spec.command or (sys.executable, "-m", "halfwatt.runtimes.serving_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
            start_new_session=True,  # Ctrl-C reaches the harness, which closes the worker in order
        )
        self.pid = self._process.pid
        try:
            self._ask(_Order("open", spec=spec))
        except BaseException:
            self.close()
            raise

    def run(self, prompts: Sequence[Dialogue], sampling: Sampling, *, min_s: float = 0.0) -> RunCounts:
        """Answer all prompts in order, again and again until ``min_s`` seconds are over; whole passes only."""
        from pydantic import TypeAdapter

        answer = self._ask(_Order("run", prompts=tuple(prompts), samplings=(sampling,), min_s=min_s))
        return TypeAdapter(RunCounts).validate_python(answer)

    def usage(self) -> Usage:
        """The worker's cumulative use right now."""
        from pydantic import TypeAdapter

        return TypeAdapter(Usage).validate_python(self._ask(_Order("usage")))

    def replies(self, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
        """One reply a prompt, each with its own sampling."""
        from pydantic import TypeAdapter

        answer = self._ask(_Order("replies", prompts=tuple(prompts), samplings=tuple(samplings)))
        return TypeAdapter(list[Reply]).validate_python(answer)

    def logits(self, dialogue: Dialogue) -> NDArray[np.float32]:
        """See `halfwatt.runtimes.base.Session.logits`."""
        import numpy as np

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "logits.npy"
            self._ask(_Order("logits", prompts=(dialogue,), file=file))
            rows: NDArray[np.float32] = np.load(file)
        return rows

    def close(self) -> None:
        """End the process; killed when it does not end by itself."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # it died, and an order that never reached it is still in the buffer
                self._process.stdin.close()  # end of file is the worker's signal to leave
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, order: _Order) -> Any:
        from pydantic import TypeAdapter

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(TypeAdapter(_Order).dump_json(order).decode() + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        ready, _, _ = select.select([self._process.stdout], [], [], self._timeout_s)
        if not ready:
            raise EnvironmentFault(f"the worker did not answer '{order.verb}' within {self._timeout_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "error" in answer:
            raise error_of_record(answer)
        return answer["ok"]

    def _died(self) -> EnvironmentFault:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return EnvironmentFault(f"the worker process ended with code {code}", got=lines[-1] if lines else None)


def open_session(spec: ServingSpec) -> AbstractContextManager[Session]:
    """A session of one of halfwatt's own runtimes."""
    from halfwatt.runtimes.registry import by_name

    return by_name(spec.artifact.runtime, device=spec.device, dtype=spec.dtype).open(spec.artifact, spec.at)


def main(opening: Callable[[ServingSpec], AbstractContextManager[Session]] = open_session) -> None:
    """Serve orders from stdin until it ends."""
    _serve(sys.stdin, protocol_stream(), opening)


def _serve(orders: IO[str], out: IO[str], opening: Callable[[ServingSpec], AbstractContextManager[Session]]) -> None:
    from pydantic import TypeAdapter

    reader = TypeAdapter(_Order)
    first = orders.readline()
    if not first:
        return
    spec = reader.validate_json(first).spec
    assert spec is not None, "the first order is 'open'"
    try:
        with opening(spec) as session:
            gc.collect()
            gc.freeze()  # what is loaded now stays: searching it for garbage between replies is no part of their cost
            bench = _Bench(session, spec.at.batch)
            _answer(out, None)
            for line in orders:
                _answer(out, bench.do(reader.validate_json(line)))
    except Exception as error:  # noqa: BLE001 - the process boundary: every error travels to the harness
        print(json.dumps(error_record(error)), file=out)


def _answer(out: IO[str], record: Any) -> None:
    from pydantic import TypeAdapter

    plain = None if record is None else TypeAdapter(type(record)).dump_python(record, mode="json")
    print(json.dumps({"ok": plain}), file=out)


def in_batches(prompts: Sequence[Dialogue], batch: int) -> list[list[Dialogue]]:
    """What is answered at once: the same turn of up to ``batch`` dialogues, as so many users ask it.

    >>> [[d.id for d in some] for some in together([Dialogue(n, ()) for n in "aabccc"], 2)]
    [['a', 'b'], ['a'], ['c'], ['c'], ['c']]
    """
    talks = [list(turns) for _, turns in groupby(prompts, lambda prompt: prompt.id)]
    groups = (talks[i : i + batch] for i in range(0, len(talks), batch))
    return [[turn for turn in at_once if turn is not None] for group in groups for at_once in zip_longest(*group)]


class _Bench:
    """The session and its cumulative use."""

    def __init__(self, session: Session, batch: int) -> None:
        self._session, self._batch, self._wall_s = session, batch, 0.0

    def do(self, order: _Order) -> Any:
        if order.verb == "run":
            return self._run(order.prompts, order.samplings[0], order.min_s)
        if order.verb == "usage":
            return self._usage()
        if order.verb == "logits":
            return self._write_logits(order.prompts[0], order.file)
        return self._replies(order.prompts, order.samplings)

    def _usage(self) -> Usage:
        return Usage(time.process_time(), self._wall_s, self._session.bytes_moved())

    def _run(self, prompts: tuple[Dialogue, ...], sampling: Sampling, min_s: float) -> RunCounts:
        import hashlib

        self._session.sync()
        before, started = self._usage(), time.monotonic()
        first: list[Reply] = []
        counts, passes = [0, 0, 0, 0], 0
        batches = in_batches(prompts, self._batch)
        while passes == 0 or time.monotonic() - started < min_s:
            for batch in batches:
                for reply in self._session.reply(batch, sampling):
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

    def _write_logits(self, dialogue: Dialogue, file: Path | None) -> None:
        import numpy as np

        assert file is not None, "the order says where to"
        np.save(file, self._session.logits(dialogue))

    def _replies(self, prompts: tuple[Dialogue, ...], samplings: tuple[Sampling, ...]) -> tuple[Reply, ...]:
        self._session.reset()
        pairs = zip(prompts, samplings, strict=True)
        return tuple(self._session.reply([prompt], sampling)[0] for prompt, sampling in pairs)


if __name__ == "__main__":
    main()
