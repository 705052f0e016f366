"""A student of given sizes: the right shapes, the same draw for the same seed, loaders that take it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halfwatt.compress.apply import apply_step
from halfwatt.compress.base import StepContext
from halfwatt.compress.fresh_student import Student
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.core.errors import ModelError
from halfwatt.core.settings import RunSettings
from halfwatt.models.chat_model import load
from tests.support import tiny_models as tiny


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_it_has_the_sizes(arch: tiny.Arch, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, arch))
    student = Student(layers=1, width=64, ffn=64, kv_heads=1).apply(model, StepContext())
    config = student.network.config
    assert config.model_type == "llama", "whatever the original is"
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (1, 64, 64)
    assert (config.vocab_size, student.context) == (model.network.config.vocab_size, model.context)
    assert model.network.config.num_hidden_layers == 2, "the original stays"
    assert "a fresh student" in student.lineage[-1]


def test_the_seed_draws_the_weights(tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, "llama"))
    before = torch.random.get_rng_state()
    first, again, other = (Student(layers=1).apply(model, StepContext(settings=RunSettings(seed=s))) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's draw is changed"
    drawn = [next(m.network.parameters()) for m in (first, again, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_sizes_that_cannot_be_are_named(tmp_path: Path) -> None:
    llama = load(tiny.folder(tmp_path, "llama"))
    for step, model, reason in (
        (Student(width=100), llama, "width must be a multiple of 64"),
        (Student(layers=0), llama, "layers must be above 0"),
        (Student(kv_heads=3), llama, "4 query heads cannot share 3 KV heads"),
        (Student(), Quantize(8).apply(llama, StepContext()), "on the integer grid already"),
    ):
        with pytest.raises(ModelError, match=reason):
            apply_step(step, model)
