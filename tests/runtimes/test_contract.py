"""The contract of runtimes, over every row of their list, and over what one of them does at other operating points."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch

from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Access, RuntimeChoice, RuntimeName
from halfwatt.formats import registry as formats
from halfwatt.models.chat_model import load
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.registry import RUNTIMES, by_name, find_runtime
from tests.contracts import runtimes as contract
from tests.contracts.runtimes import RuntimeRow
from tests.support import tiny_models as tiny

POINTS = {
    "torch_eager": OperatingPoint(threads=1),
    "llamacpp": OperatingPoint(threads=1),
    "llamacpp, 2 at once": OperatingPoint(threads=1, batch=2),
}


@pytest.fixture(scope="module", params=POINTS)
def row(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RuntimeRow:
    into = tmp_path_factory.mktemp("contract")
    entry = by_name(request.param.partition(",")[0])
    model = load(tiny.folder(into))
    artifact = formats.by_name(entry.format).write(model, into / "out")
    (weights,) = (p for p in artifact.path.iterdir() if p.suffix in (".gguf", ".safetensors"))
    return RuntimeRow(entry.make(Access()), POINTS[request.param], model, artifact, weights)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before, "a session gives the process's threads back"


@pytest.mark.parametrize("check", contract.CONTRACT, ids=lambda check: check.__name__)
def test_contract(row: RuntimeRow, check: Callable[[RuntimeRow], None]) -> None:
    check(row)


def test_the_prefix_is_kept_as_the_list_says(row: RuntimeRow) -> None:
    contract.keeps_the_prefix_if_it_says_so(row, keeps=by_name(row.runtime.name).reuses_prefix)


# --- the list


def test_every_runtime_is_in_the_contract_and_has_the_one_name() -> None:
    assert [row.name for row in RUNTIMES] == list(get_args(RuntimeName))
    chosen = {*get_args(RuntimeName)} - {"cascade"}  # which nobody asks for: it is what an artifact is
    assert set(get_args(RuntimeChoice)) == {"auto", *chosen}
    assert chosen == {name.partition(",")[0] for name in POINTS}, "cascades have tests of their own"
    for row in RUNTIMES:
        assert row.make(Access()).name == row.name
        assert formats.by_name(row.format).runtime == ("llamacpp" if row.name == "cascade" else row.name)


def test_a_name_is_looked_up() -> None:
    assert by_name("auto") is RUNTIMES[0]
    assert find_runtime("openvino") is None  # a peer's
    with pytest.raises(BadInput, match=r"no such runtime \(found: llama\.cpp\); did you mean llamacpp\?"):
        by_name("llama.cpp")


def test_libraries_are_imported_when_one_is_asked_for(tmp_path: Path) -> None:
    script = (
        "import sys; from halfwatt.core.settings import Access; from halfwatt.runtimes.registry import by_name\n"
        "print([m for m in ('torch', 'llama_cpp') if m in sys.modules])\n"
        "by_name('llamacpp').make(Access()); print([m for m in ('torch', 'llama_cpp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["[]", "['llama_cpp']"]
