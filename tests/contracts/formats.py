"""What every format has to keep. A format's row says what is its own; tests/formats/test_contract.py runs them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.settings import Access
from halfwatt.formats.artifact import read_artifact
from halfwatt.formats.base import Format
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import dequantize
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.models.weights import weights
from tests.support import tiny_models as tiny


@dataclass(frozen=True)
class FormatRow:
    """One format.

    form:      it
    stored:    what a folder that it wrote holds: every matrix of a network, by the network's names, as [out, in] float
    break_it:  a model that cannot be written, and what must be said of each reason
    """

    form: Format
    stored: Callable[[Path, ChatModel], Mapping[str, torch.Tensor]]
    break_it: Callable[[ChatModel], tuple[ChatModel, tuple[str, ...]]]


def writes_its_record(row: FormatRow, model: ChatModel, into: Path) -> None:
    """The artifact says what was written, and is in the folder, wherever that is moved to."""
    assert row.form.problems(model) == []
    artifact = row.form.write(model, into / "out")
    assert artifact.runtime == row.form.runtime
    assert (artifact.lineage, artifact.spent) == (model.lineage, model.spent)
    assert artifact.context == model.context
    assert artifact.parity is None
    assert 0 < artifact.weights_read_b <= artifact.size_b
    assert artifact.kv_b_per_token == 2 * model.architecture.kv_numbers(model.network.config)
    assert len(artifact.sha256) == 64
    assert read_artifact(into / "out") == artifact
    if artifact.path == into / "out":  # else it points at the folder that the model came from
        moved = (into / "out").rename(into / "moved")
        assert read_artifact(moved) == replace(artifact, path=moved)


def holds_the_model(row: FormatRow, model: ChatModel, into: Path) -> None:
    """Every weight is what it was, integers on the grid included; so are the tokenizer, template and stop tokens."""
    artifact = row.form.write(model, into / "out")
    stored = row.stored(artifact.path, model)
    matrices = {weight.name: weight for weight in weights(model.network)}
    assert stored.keys() == matrices.keys()
    for name, weight in matrices.items():
        grid = model.grid.get(name)
        wanted = weight.rows().float() if grid is None else dequantize(grid)
        if grid is None and name in {k.tensor for k in artifact.kept}:
            wanted = wanted.half().float()  # kept at 16 bits
        assert torch.equal(stored[name], wanted), name
    tokenizer = ChatTokenizer.load(artifact.path)
    assert tokenizer.template == model.tokenizer.template
    assert tokenizer.eos_ids == model.tokenizer.eos_ids
    assert tokenizer.hf.get_vocab() == model.tokenizer.hf.get_vocab()


def reads_what_it_wrote(row: FormatRow, model: ChatModel, into: Path) -> None:
    """Read back, it is the same network, numbers as narrow as they were stored, that talks in the same way."""
    path = row.form.write(model, into / "out").path
    assert row.form.reads(path)
    back = row.form.read(path, Access())
    state = back.network.state_dict()
    wanted = model.network.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(values, wanted[name].to(values.dtype)) for name, values in state.items())
    assert back.lineage == model.lineage
    assert back.context == model.context
    assert back.generation == model.generation
    ours, theirs = back.tokenizer, model.tokenizer
    assert (ours.template, ours.eos_ids, ours.pad_id) == (theirs.template, theirs.eos_ids, theirs.pad_id)
    assert ours.hf.get_vocab() == theirs.hf.get_vocab()
    for dialogue in tiny.dialogues():
        assert ours.scored(dialogue) == theirs.scored(dialogue)
    for name, grid in back.given.items():
        assert torch.equal(grid.q, model.grid[name].q)
        assert torch.equal(grid.scale, model.grid[name].scale)


def replaces_nothing(row: FormatRow, model: ChatModel, into: Path) -> None:
    """A folder that holds something is refused, and nothing is left beside it."""
    (into / "out").mkdir()
    (into / "out" / "mine").write_text("precious")
    with pytest.raises(BadInput, match="exists already"):
        row.form.write(model, into / "out")
    assert [p.name for p in into.iterdir()] == ["out"]
    assert [p.name for p in (into / "out").iterdir()] == ["mine"]


def names_every_problem(row: FormatRow, model: ChatModel, into: Path) -> None:
    """All reasons are named before any work, by `problems` and by `write`, which leaves nothing behind."""
    broken, reasons = row.break_it(model)
    problems = row.form.problems(broken)
    assert len(problems) == len(reasons) > 0
    assert all(reason in problem for reason, problem in zip(reasons, problems, strict=True))
    with pytest.raises(ModelError) as refused:
        row.form.write(broken, into / "out")
    assert all(problem in str(refused.value) for problem in problems)
    assert row.form.name in str(refused.value)
    assert not list(into.iterdir())


CONTRACT = (writes_its_record, holds_the_model, reads_what_it_wrote, replaces_nothing, names_every_problem)
