"""A row of the contract suite."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from halfwatt.compress.apply import apply_step
from halfwatt.compress.ngram_draft import Draft
from halfwatt.compress.prune import Prune
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.runtimes.base import OperatingPoint, Speculation
from halfwatt.runtimes.llamacpp import LlamaCpp
from tests.contracts.architectures import CONTEXT, ArchitectureContract
from tests.support import tiny_models as tiny


class TestLfm2(ArchitectureContract):
    arch = "lfm2"
    config: ClassVar = {
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
        "block_multiple_of": 32,
    }
    unprunable: ClassVar = {"width": "LFM2's width", "kv_heads": "LFM2's heads"}
    shapes = (
        {"layer_types": ["full_attention", "full_attention", "conv"], "conv_L_cache": 4},
        {"block_auto_adjust_ff_dim": False},
        {"block_ffn_dim_multiplier": 2.0},
    )
    refused = (
        ({"layer_types": ["conv"] * 3}, "both kinds"),
        ({"conv_bias": True}, "conv_bias"),
    )

    def test_a_draft_is_refused(self, model: ChatModel) -> None:
        assert Draft().problems(model) == ["Lfm2ForCausalLM keeps a state that takes no wrong guess back"]

    def test_a_session_guesses_nothing_ahead(self, model: ChatModel, tmp_path: Path) -> None:
        at = OperatingPoint(threads=1, speculation=Speculation("lookup"))
        with LlamaCpp().open(Gguf().write(model, tmp_path / "out"), at) as session:
            assert session._drafter([5, 6, 7]) is None

    def test_pruning_leaves_a_block_that_attends(self, tmp_path: Path) -> None:
        """The one that is missed least is no candidate where it is the last of its kind."""
        for seed in range(3):
            model = load(tiny.folder(tmp_path, "lfm2", seed=seed, config=self.config))
            kinds = apply_step(Prune(drop=1), model, CONTEXT).network.config.layer_types
            assert sorted(kinds) == ["conv", "full_attention"]
