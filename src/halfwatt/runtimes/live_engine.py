"""Replies to prompts that come when they come: whoever is there is served by the same passes (continuous batching).

    submit -> waiting -> a free sequence: its prompt is read -> a token of everybody in each pass -> its end
    (any thread)         (all else in the session's own thread, in which llama.cpp computes)

A first token and an end are handed over at once, what comes between them forty times a second, for all together: to
wake the web server for each token of a small model takes longer than the token.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Literal

from halfwatt.core.errors import BadInput, EnvironmentFault, HalfwattError
from halfwatt.meters.shares import Shares, Spent
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.llamacpp_batched import BatchedSession, Turn

PAUSE_S = 0.025  # in which tokens are gathered
_IDLE_LOOK_S = 10.0  # after so long without anybody it is noted what that took
Reason = Literal["stop", "length", "given up", "failed"]


class Full(EnvironmentFault):
    """As many wait as may."""


class Draining(EnvironmentFault):
    """It ends, and takes nothing more."""


@dataclass(slots=True, eq=False)
class Asked:
    """A prompt that waits, or is being answered.

    each: are tokens wanted as they come, or all at the end? given_up: nobody waits for it any more, or for more
    """

    prompt: list[int]
    sampling: Sampling
    each: bool = False
    given_up: bool = False
    spent: Spent = field(default_factory=Spent)
    turn: Turn | None = None
    handed: int = 0  # tokens that were handed over
    first_s: float | None = None  # when its first token was there


@dataclass(frozen=True, slots=True)
class Step:
    """What a pass brought to one of those who asked."""

    asked: Asked
    ids: tuple[int, ...]
    ended: Reason | None = None
    fault: str = ""


class LiveEngine:
    """Serves one session until it is closed.

    Args:
        hand_over: gets all steps of a pass, in the session's thread
        users: who are answered at once, as many as the session has sequences at most; waiting: prompts beside them
    """

    def __init__(
        self,
        session: BatchedSession,
        shares: Shares,
        hand_over: Callable[[Sequence[Step]], None],
        *,
        users: int,
        waiting: int,
    ) -> None:
        self._session, self._shares, self._hand_over = session, shares, hand_over
        self._users, self._most = users, users + waiting
        self._inbox, self._waiting = SimpleQueue[Asked | None](), deque[Asked]()
        self._live: dict[Turn, Asked] = {}
        self._lock, self._open, self._draining = threading.Lock(), 0, False
        self._handed_s = 0.0  # when tokens were handed over last
        self.fault = ""  # what ended it
        self._thread = threading.Thread(target=lambda: session.in_thread(self._serve), name="engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """Replies in the making, and prompts that wait."""
        making = len(self._live)
        return making, max(0, self._open - making)

    @property
    def draining(self) -> bool:
        """Was it told to end?"""
        return self._draining

    def submit(self, asked: Asked) -> None:
        """Let it be answered.

        Raises:
            Full: too many wait. Draining: it was told to end. EnvironmentFault: it broke.
        """
        with self._lock:
            if self.fault:
                raise EnvironmentFault("the engine has stopped", got=self.fault)
            if self._draining:
                raise Draining("the server is shutting down")
            if self.is_full:
                raise Full(f"{self._open} replies are being made or waited for")
            self._open += 1
            self._inbox.put(asked)

    @property
    def is_full(self) -> bool:
        """Would another one be refused now?"""
        return self._open >= self._most

    def drain(self) -> None:
        """Take nothing more; what was asked is answered."""
        with self._lock:
            self._draining = True

    def close(self) -> None:
        """End; what is being answered, or waits, is given up."""
        self.drain()
        self._inbox.put(None)
        for asked in (*list(self._live.values()), *list(self._waiting)):
            asked.given_up = True
        self._thread.join()

    def _serve(self) -> None:
        try:
            while self._collect():
                self._tell(self._let_go())
                self._read_a_prompt()
                if self._live:
                    self._pass()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody shall wait for ever
            with self._lock:
                self.fault = str(error) or type(error).__name__
            self._take_in()
            self._tell([Step(asked, (), "failed", self.fault) for asked in (*self._live.values(), *self._waiting)])

    def _collect(self) -> bool:
        """Take in what was asked; asleep while there is nothing to do. False = it is over."""
        ended = self._take_in()
        while not (self._live or self._waiting or ended):
            self._settle()
            with suppress(Empty):
                ended = not self._accept(self._inbox.get(timeout=_IDLE_LOOK_S))
                self._settle()
        if ended and (self._live or self._waiting):
            self._inbox.put(None)
        return not ended or bool(self._live or self._waiting)

    def _take_in(self) -> bool:
        """All that is there; is it told to end?"""
        with suppress(Empty):
            while True:
                if not self._accept(self._inbox.get_nowait()):
                    return True
        return False

    def _accept(self, asked: Asked | None) -> bool:
        if asked is not None:
            self._waiting.append(asked)
        return asked is not None

    def _let_go(self) -> list[Step]:
        """Of those who gave up."""
        if live := [asked for asked in self._live.values() if asked.given_up]:
            self._settle()
        for asked in live:
            self._close(asked)
        waiting, self._waiting = self._waiting, deque[Asked]()
        gone = list[Asked]()
        for asked in waiting:  # looked at once: meanwhile others may give up
            (gone if asked.given_up else self._waiting).append(asked)
        return [Step(asked, (), "given up") for asked in (*live, *gone)]

    def _read_a_prompt(self) -> None:
        """Of who waits longest, if there is a place. One between two passes: others want their next tokens."""
        if not self._waiting or len(self._live) >= self._users:
            return
        asked = self._waiting.popleft()
        self._settle()
        with self._shares.turn:
            try:
                asked.turn = self._session.open_turn(asked.prompt, asked.sampling)
            except BadInput as error:
                self._tell([Step(asked, (), "failed", str(error))])
                return
            except HalfwattError as error:
                self._tell([Step(asked, (), "failed", str(error)), *self._break_off(error)])
                return
            self._shares.settle([asked.spent])
        self._live[asked.turn], asked.first_s = asked, time.monotonic()
        self._tell(self._steps([asked], due=True))

    def _pass(self) -> None:
        served = [self._live[turn] for turn in self._session.live]
        with self._shares.turn:
            try:
                self._session.advance()
            except HalfwattError as error:
                self._tell(self._break_off(error))
                return
            if self._shares.several or any(asked.turn is not None and asked.turn.over for asked in served):
                self._shares.settle([asked.spent for asked in served])
        due = (now_s := time.monotonic()) - self._handed_s >= PAUSE_S
        if due:
            self._handed_s = now_s
        self._tell(self._steps(served, due))

    def _break_off(self, error: HalfwattError) -> list[Step]:
        """All that is live: llama.cpp could not compute, and the session has forgotten what it held."""
        live = list(self._live.values())
        for asked in live:
            self._close(asked)
        return [Step(asked, (), "failed", str(error)) for asked in live]

    def _close(self, asked: Asked) -> None:
        assert asked.turn is not None
        self._session.close_turn(asked.turn)
        del self._live[asked.turn]

    def _steps(self, served: Sequence[Asked], due: bool) -> list[Step]:
        """What they have now that was not handed over, if that is wanted yet."""
        steps = list[Step]()
        for asked in served:
            turn = asked.turn
            assert turn is not None
            if turn.over:
                del self._live[turn]
            if turn.over or (asked.each and due):
                ids, asked.handed = tuple(turn.ids[asked.handed :]), len(turn.ids)
                steps.append(Step(asked, ids, self._session.reason(turn) if turn.over else None))
        return steps

    def _settle(self) -> None:
        with self._shares.turn:
            self._shares.settle([asked.spent for asked in self._live.values()])

    def _tell(self, steps: Sequence[Step]) -> None:
        if over := sum(step.ended is not None for step in steps):
            with self._lock:
                self._open -= over
        if steps:
            self._hand_over(steps)
