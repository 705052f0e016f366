"""A row of the contract suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoConfig, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.grid import GridTensor
from halfwatt.models.surgery import resized_config
from tests.contracts.architectures import ArchitectureContract
from tests.support import tiny_models as tiny


class TestQwen35(ArchitectureContract):
    arch = "qwen3_5_text"
    config: ClassVar = {
        "head_dim": 32,
        "num_hidden_layers": 3,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
    }
    shapes = ({"layer_types": ["full_attention", "full_attention", "linear_attention"], "linear_num_value_heads": 2},)
    refused = (
        ({"layer_types": ["full_attention"] * 3}, "both kinds"),
        ({"attention_bias": True}, "attention_bias"),
    )

    def test_linear_attention_has_heads_of_one_size(self, model: ChatModel) -> None:
        for size in (64, 33):
            other = resized_config(model.network.config, {"linear_value_head_dim": size})
            assert "one size" in model.architecture.problems(other)[0]

    def stored(self, module: str, grid: GridTensor) -> dict[str, GridTensor]:
        """Value heads 0, 1 share the first key head, 2, 3 the second; there they stand 0, 2, 1, 3."""
        heads = [0, 2, 1, 3]
        values = [head * 32 + i for head in heads for i in range(32)]
        rows, columns = list(range(len(grid.q))), list(range(grid.q.shape[1]))
        if module.endswith("linear_attn.in_proj_qkv"):
            rows = [*range(128), *(128 + row for row in values)]
        elif module.endswith("linear_attn.in_proj_z"):
            rows = values
        elif module.endswith(("linear_attn.in_proj_a", "linear_attn.in_proj_b")):
            rows = heads
        elif module.endswith("linear_attn.out_proj"):
            columns = values
        groups = torch.tensor([column // 32 for column in columns[::32]])
        return {module: GridTensor(grid.q[rows][:, columns], grid.scale[rows][:, groups], grid.bits)}

    def test_the_text_model_is_taken_out_of_one_for_images(self, folder: Path, tmp_path: Path) -> None:
        text = AutoConfig.from_pretrained(folder).to_dict()
        sizes = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 128}
        whole: Any = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=sizes))
        whole.eval()
        whole.save_pretrained(tmp_path)
        tiny.tokenizer().save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").write_text((folder / "generation_config.json").read_text())
        model, ids = load(tmp_path), torch.arange(4, 60)[None]
        assert type(model.network).__name__ == "Qwen3_5ForCausalLM"
        with torch.no_grad():
            assert torch.equal(model.network(ids).logits, whole(input_ids=ids).logits)
