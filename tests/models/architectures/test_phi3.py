"""A row of the contract suite."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from gguf import GGUFReader

from halfwatt.formats.gguf import write_gguf
from halfwatt.models.chat_model import load
from halfwatt.models.surgery import resized_config
from tests.contracts.architectures import ArchitectureContract
from tests.support import tiny_models as tiny

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 3.0],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 6.0, 9.0],
    "original_max_position_embeddings": 128,
}
LONG = {"rope_parameters": LONGROPE, "original_max_position_embeddings": 128}


class TestPhi3(ArchitectureContract):
    arch = "phi3"
    config: ClassVar = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}}
    unprunable: ClassVar = {"width": "Phi-3's width", "kv_heads": "Phi-3's heads"}
    shapes = (
        LONG,
        {"sliding_window": 100},
        {"num_key_value_heads": 4},
    )
    refused = (({"hidden_act": "gelu"}, "SiLU"),)

    def test_factors_are_for_heads_of_their_size(self, tmp_path: Path) -> None:
        model = load(tiny.folder(tmp_path, "phi3", config=LONG))
        assert model.architecture.context_length(model.network.config) == 128
        narrower = resized_config(model.network.config, {"hidden_size": 128})
        assert "6 factors" in model.architecture.problems(narrower)[0]

    def test_a_name_that_promises_tokens_is_left_out(self, tmp_path: Path) -> None:
        """llama.cpp ends loading a file named so that has not `<unk>` and others; all tests here would fail."""
        write_gguf(load(tiny.folder(tmp_path, "phi3")), tmp_path / "m.gguf")
        assert "general.name" not in GGUFReader(tmp_path / "m.gguf").fields
