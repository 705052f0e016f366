"""GGUF files: what was chosen is what stands in the file, and llama.cpp computes with it what torch computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.core.settings import Access
from halfwatt.evaluate import parity
from halfwatt.formats.gguf import Gguf, precision, write_gguf
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.grid import dequantize
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from tests.contracts.architectures import permuted
from tests.support import tiny_models as tiny
from tests.support.llamacpp_parity import parity_in_llamacpp


def model(into: Path, arch: tiny.Arch = "llama", **options: Any) -> ChatModel:
    return load(tiny.folder(into, arch, **options))


def read(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def test_a_tied_head_is_stored_once_and_read_once(tmp_path: Path) -> None:
    tied, untied = (write_gguf(model(tmp_path / str(t), tied=t), tmp_path / f"{t}.gguf") for t in (True, False))
    assert "output.weight" not in read(tmp_path / "True.gguf")
    assert "output.weight" in read(tmp_path / "False.gguf")
    assert tied.weights_read_b == untied.weights_read_b == tied.size_b


def test_bf16_values_beyond_f16_stay_bf16_and_are_listed(tmp_path: Path) -> None:
    made = model(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        made.network.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    written = write_gguf(made, tmp_path / "m.gguf")
    assert [(k.tensor, k.kept_as) for k in written.kept] == [("model.layers.1.mlp.up_proj.weight", "bf16")]
    assert "values leave f16's range" in written.kept[0].reason
    stored = read(tmp_path / "m.gguf")["blk.1.ffn_up.weight"]
    assert stored.tensor_type.name == "BF16"
    assert gguf.quants.dequantize(stored.data, stored.tensor_type)[0, 0] == pytest.approx(1e5, rel=0.01)


@pytest.mark.parametrize(("power", "kind"), [(0, "F16"), (12, "F16"), (16, "BF16"), (20, "BF16"), (24, "BF16")])
def test_a_norm_may_be_large_and_the_matrices_behind_it_small(power: int, kind: str, tmp_path: Path) -> None:
    """The same network, exact in bf16 and at last below the smallest f16; llama.cpp makes inputs what weights are."""
    made = model(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        for block in made.network.model.layers:
            block.input_layernorm.weight.mul_(2.0**power)
            for part in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj):
                part.weight.mul_(2.0**-power)
    assert parity_in_llamacpp(made, tmp_path / "out").kl_mean < (1e-4 if kind == "F16" else 1e-3)
    stored = read(tmp_path / "out" / "model.gguf")
    assert {stored[f"blk.{n}.attn_{part}.weight"].tensor_type.name for n in (0, 1) for part in "qkv"} == {kind}
    back = dict(Gguf().read(tmp_path / "out", Access()).network.named_parameters())
    for name, parameter in made.network.named_parameters():  # those that are F16 were written to the nearest
        lost = (back[name].double() - parameter.double()).norm() / parameter.double().norm()
        assert lost < (2.0**-9 if kind == "F16" else 1e-6), name
    if power == 24:
        assert "model.layers.0.self_attn.q_proj.weight is too small for 16-bit" in " ".join(Quantize(8).problems(made))
    elif power == 0:
        assert Quantize(8).problems(made) == Quantize(4).problems(made) == []


def test_odd_rows_are_kept_listed_and_still_right(tmp_path: Path) -> None:
    """An FFN of 80: down_proj has rows of 80, which is not a multiple of 32."""
    base = model(tmp_path)
    config = base.network.config.__class__.from_dict({**base.network.config.to_dict(), "intermediate_size": 80})
    torch.manual_seed(0)
    network: Any = type(base.network)(config)
    made = Quantize(4, 8).apply(replace(base, network=network.eval()), StepContext())
    artifact = Gguf().write(made, tmp_path / "out")
    assert artifact.precision == "int4+int8 head"
    assert [k.tensor for k in artifact.kept] == [f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)]
    assert all(k.kept_as == "f16" and "80" in k.reason for k in artifact.kept)
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        assert parity.check(made, artifact, session, tiny.dialogues()).kl_mean < 0.02


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
)
def test_rope_scaling_is_computed_alike(rope: dict[str, Any], tmp_path: Path) -> None:
    plain = model(tmp_path)
    scaled = tiny.changed(plain, rope_parameters=rope)
    found = parity_in_llamacpp(scaled, tmp_path / "out")
    assert found.kl_mean < 1e-4
    artifact = Gguf().write(plain, tmp_path / "plain")
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        assert parity.check(scaled, artifact, session, tiny.dialogues()).kl_mean > 1e-2  # the setting does matter


def test_a_sliding_window_ends_the_context(tmp_path: Path) -> None:
    made = tiny.changed(model(tmp_path, "mistral"), sliding_window=128)
    artifact = Gguf().write(made, tmp_path / "out")
    with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session:
        assert session.longest == 128


def test_precision_names(tmp_path: Path) -> None:
    base = model(tmp_path)
    steps = {
        "int8": Quantize(8),
        "int4": Quantize(4, embedding_bits=4),
        "int4+int8 head": Quantize(4, 8),
        "int4+int8 embedding": Quantize(4),
        "int4+int8 head+int4 embedding": Quantize(4, 8, 4),
    }
    assert precision(base) == "f16"
    assert {precision(step.apply(base, StepContext())) for step in steps.values()} == steps.keys()


def test_the_permutation_differs_from_the_identity(tmp_path: Path) -> None:
    made = Quantize(8).apply(model(tmp_path), StepContext())
    grid = made.grid["model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(dequantize(permuted(grid, 4)), dequantize(grid))
