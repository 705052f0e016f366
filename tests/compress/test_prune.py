"""What is cut, what stays, and that loaders take the result."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from halfwatt.compress.base import StepContext
from halfwatt.compress.prune import (
    Prune,
    Sparsify,
    divergences_without,
    importances,
    most_important,
    multiple_of_64,
    wanda,
)
from halfwatt.compress.training.batches import collate, encode_rows
from halfwatt.core.errors import BadInput
from halfwatt.models.chat_model import ChatModel, load
from tests.support import tiny_models as tiny

CONTEXT = StepContext(dialogues=tiny.dialogues())
ARCHS: tuple[tiny.Arch, ...] = ("llama", "mistral", "qwen2", "qwen3", "gpt2")


def model(tmp_path: Path, arch: tiny.Arch, **sizes: int) -> ChatModel:
    return load(tiny.folder(tmp_path, arch, **sizes))  # type: ignore[arg-type]


def logits(model: ChatModel) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model.network(input_ids=torch.arange(4, 60)[None]).logits
    return out


def test_widths_are_multiples_of_64() -> None:
    assert [multiple_of_64(1024, s) for s in (1.0, 0.7, 0.5, 0.01)] == [1024, 704, 512, 64]
    assert most_important(torch.tensor([0.1, 3.0, 2.0, 0.5]), 2).tolist() == [1, 2]


@pytest.mark.parametrize("arch", ARCHS)
def test_neurons_that_do_nothing_go_first_and_are_not_missed(arch: tiny.Arch, tmp_path: Path) -> None:
    base = model(tmp_path, arch, width=128)
    own = base.architecture
    network: Any = copy.deepcopy(base.network)
    idle = torch.arange(0, 128, 2)  # 64 of the neurons never say anything
    with torch.no_grad():
        for block in base.architecture.blocks(network):
            for name in own.ffn_in:
                inner: Any = block.get_submodule(name)
                weight = inner.weight.T if own.transposed else inner.weight
                weight[idle] = 0
                if inner.bias is not None:
                    inner.bias[idle] = 0
    planted = replace(base, network=network)
    width = 512 if arch == "gpt2" else 192
    pruned = Prune(ffn=(width - 64) / width).apply(planted, CONTEXT)
    assert torch.allclose(logits(pruned), logits(planted), atol=1e-4)
    field = "n_inner" if arch == "gpt2" else "intermediate_size"
    assert getattr(pruned.network.config, field) == width - 64
    assert sum(p.numel() for p in pruned.network.parameters()) < sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("arch", ["llama", "mistral", "qwen2", "qwen3"])
def test_channels_that_carry_nothing_go_first(arch: tiny.Arch, tmp_path: Path) -> None:
    """64 of 128 channels are never written to; the norms count them, so theirs are set for the half that stays."""
    base = model(tmp_path, arch, width=128)
    network: Any = copy.deepcopy(base.network)
    idle = torch.arange(0, 128, 2)
    stream = {name: value for name, value in network.named_parameters() if "attn" not in name or "o_proj" in name}
    with torch.no_grad():
        for name, value in stream.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                value[idle] = 0
            elif "embed_tokens" in name or "lm_head" in name:
                value[:, idle] = 0
    planted = replace(base, network=network)
    pruned = Prune(width=0.5).apply(planted, CONTEXT)
    assert pruned.network.config.hidden_size == 64
    norms = [module for name, module in pruned.network.named_modules() if name.endswith("norm") and "attn" not in name]
    with torch.no_grad():
        for norm in norms:  # over 64 channels of which none is 0, the mean square is twice as large
            weight: Any = norm.weight
            weight *= 2**0.5
    eps = pruned.network.config.rms_norm_eps  # inside the root, so it must be doubled with the mean
    for norm in norms:
        setattr(norm, "variance_epsilon", 2 * eps)  # noqa: B010 - Module's own setattr takes no float for mypy
    assert torch.allclose(logits(pruned), logits(planted), atol=1e-4)


@pytest.mark.parametrize("arch", ["llama", "mistral", "qwen2", "qwen3"])
def test_heads_that_say_nothing_go_first_and_are_not_missed(arch: tiny.Arch, tmp_path: Path) -> None:
    base = model(tmp_path, arch)
    network: Any = copy.deepcopy(base.network)
    with torch.no_grad():
        for block in base.architecture.blocks(network):
            value: Any = block.get_submodule("self_attn.v_proj")
            value.weight[: len(value.weight) // 2] = 0  # the first KV head of two
            if value.bias is not None:
                value.bias[: len(value.bias) // 2] = 0
    planted = replace(base, network=network)
    pruned = Prune(kv_heads=1).apply(planted, CONTEXT)
    assert torch.allclose(logits(pruned), logits(planted), atol=1e-4)
    assert (pruned.network.config.num_attention_heads, pruned.network.config.num_key_value_heads) == (2, 1)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_block_that_adds_nothing_goes_first_and_is_not_missed(arch: tiny.Arch, tmp_path: Path) -> None:
    base = model(tmp_path, arch, layers=4)
    own = base.architecture
    network: Any = copy.deepcopy(base.network)
    with torch.no_grad():
        for name in (own.attention_out, own.ffn_out):
            inner: Any = base.architecture.blocks(network)[1].get_submodule(name)
            inner.weight.zero_()
            if inner.bias is not None:
                inner.bias.zero_()
    planted = replace(base, network=network)
    pruned = Prune(drop=1).apply(planted, CONTEXT)
    assert pruned.lineage[-1] == "pruned: blocks 1 dropped"
    assert len(pruned.architecture.blocks(pruned.network)) == pruned.network.config.num_hidden_layers == 3
    assert torch.allclose(logits(pruned), logits(planted), atol=1e-4)
    ids = torch.arange(4, 20)[None]
    cached = pruned.network.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None)  # type: ignore[operator]
    assert torch.equal(cached[0, 16], pruned.network(input_ids=ids).logits[0, -1].argmax())


def test_importance_reads_the_assistants_tokens_only(tmp_path: Path) -> None:
    base = model(tmp_path, "llama")
    modules = [b.get_submodule("mlp.down_proj") for b in base.architecture.blocks(base.network)]
    rows = encode_rows(tiny.dialogues(), base.tokenizer, 512)
    batch, padded = collate(rows), collate(rows)
    for k, row in enumerate(rows):
        padded.ids[k, len(row.ids) :] = base.tokenizer.encode("x")[0]
    first, second = importances(base.network, [batch], modules), importances(base.network, [padded], modules)
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(first, second, strict=True))


def test_a_divergence_without_a_block_is_the_divergence_without_the_block(tmp_path: Path) -> None:
    base = model(tmp_path, "llama", layers=3)
    batch = collate(encode_rows(tiny.dialogues(), base.tokenizer, 512))
    divergences = divergences_without(base, [batch], [0, 1, 2])
    short: Any = copy.deepcopy(base.network)
    blocks = base.architecture.blocks(short)
    base.architecture.set_blocks(short, [blocks[0], blocks[2]])
    with torch.no_grad():
        p, q = (
            n(input_ids=batch.ids, use_cache=False).logits[:, :-1][batch.reply[:, 1:]].log_softmax(-1)
            for n in (base.network, short)
        )
    assert divergences[1] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)


def test_what_cannot_be_is_said_before_any_work(tmp_path: Path) -> None:
    gpt2, llama = model(tmp_path, "gpt2"), model(tmp_path, "llama")
    assert "GPT-2's heads" in Prune(kv_heads=1).problems(gpt2)[0]
    assert Prune(kv_heads=3).problems(llama) == ["3 of 2 KV heads cannot stay"]
    assert len(Prune(ffn=0.0, drop=2).problems(llama)) == 2
    assert Prune(0.5, 1, 1).problems(llama) == []
    with pytest.raises(BadInput, match="needs dialogues"):
        Prune(0.5).apply(llama, StepContext())


def test_wandas_masks() -> None:
    weight, norms = torch.tensor([[1.0, -3.0, 0.5, 2.0, 4.0, 1.0, 1.0, 0.1]]), torch.tensor([9.0, 1, 1, 1, 1, 1, 1, 99])
    assert wanda(weight, norms, "2:4").tolist() == [[True, True, False, False, True, False, False, True]]
    assert wanda(weight, norms, "unstructured").sum() == 4
    assert wanda(weight, norms, "unstructured", 0.25).sum() == 6


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_masks_set_weights_to_zero_and_save_nothing(arch: tiny.Arch, tmp_path: Path) -> None:
    base = model(tmp_path, arch)
    masked = Sparsify("2:4").apply(base, CONTEXT)
    for before, after in zip(
        base.architecture.blocks(base.network), base.architecture.blocks(masked.network), strict=True
    ):
        weight: Any = after.get_submodule(base.architecture.ffn_out).weight
        groups = (weight.T if arch == "gpt2" else weight).reshape(-1, 4)
        assert ((groups != 0).sum(1) == 2).all()
        assert sum(p.numel() for p in before.parameters()) == sum(p.numel() for p in after.parameters())


def test_the_middle_goes_without_a_look(tmp_path: Path) -> None:
    """The first blocks and the last stay as they are; no dialogue is read for that."""
    model = load(tiny.folder(tmp_path, "llama", config={"num_hidden_layers": 5}))
    smaller = Prune(drop=2, chosen="middle").apply(model, StepContext())
    before, after = (m.architecture.blocks(m.network) for m in (model, smaller))
    assert len(after) == 3
    for kept, number in zip(after, (0, 1, 4), strict=True):
        pairs = zip(kept.parameters(), before[number].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert "blocks 2, 3 dropped" in smaller.lineage[-1]
    with pytest.raises(BadInput, match="dialogues"):
        Prune(ffn=0.5, drop=2, chosen="middle").apply(model, StepContext())
