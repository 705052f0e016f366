"""Processes that learn together: ``accelerate launch`` (or ``torchrun``) starts them, each takes its share of the work.

Without either there is one, and all here is as good as nothing. The first one alone writes and speaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Team:
    """This process among ``size``. device: where they meet."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Does it speak for all?"""
        return self.rank == 0

    def share(self, work: Sequence[T]) -> Sequence[T]:
        """What of all work is this process's."""
        return work[self.rank :: self.size]

    def total(self, own: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, which each has to ask for."""
        if self.size == 1:
            return own
        shared = own.to(self.device)
        torch.distributed.all_reduce(shared)
        return shared.to(own.device)


ALONE = Team()


def team(device: str) -> Team:
    """Of the processes on this device's kind; they find each other the first time that one asks."""
    from accelerate.state import PartialState

    state: Any = PartialState(cpu=torch.device(device).type == "cpu")
    return Team(state.process_index, state.num_processes, str(state.device))


@contextmanager
def together(device: str) -> Iterator[Team]:
    """A team that parts when all are done."""
    from accelerate.state import PartialState

    yield team(device)
    state: Any = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()
