"""The same seed gives the same tokens, twice and on one thread or four, in both runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from halfwatt.formats.gguf import Gguf
from halfwatt.formats.transformers_folder import TransformersFolder
from halfwatt.models.chat_model import load
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.transformers_eager import TransformersEager
from tests.support import tiny_models as tiny

SAMPLINGS = [Sampling(max_new_tokens=16), Sampling(temperature=1.0, top_k=50, max_new_tokens=16, seed=7)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("runtime", ["llamacpp", "transformers"])
def test_twice_and_on_more_threads(runtime: str, sampling: Sampling, tmp_path: Path, model: Path) -> None:
    loaded = load(model)
    written = (Gguf() if runtime == "llamacpp" else TransformersFolder()).write(loaded, tmp_path / "out")
    serving = LlamaCpp() if runtime == "llamacpp" else TransformersEager()
    prompts = [d.before(d.assistant_turns[-1]) for d in tiny.dialogues()]

    def tokens(threads: int) -> list[tuple[int, ...]]:
        with serving.open(written, OperatingPoint(threads=threads)) as session:
            return [session.reply([prompt], sampling)[0].token_ids for prompt in prompts]

    assert tokens(1) == tokens(1) == tokens(4)
