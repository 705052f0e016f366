"""Good models load and come back equal; every kind of bad one is refused before work starts, and says why."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import halfwatt
from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.errors import BadInput, EnvironmentFault, ModelError
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.formats.gguf import Gguf
from halfwatt.models import chat_model, model_folder
from halfwatt.models.sampling import Sampling, read_sampling
from tests.support import tiny_models as tiny
from tests.support.llamacpp_parity import parity_in_llamacpp

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path, "llama")


def edit(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def change(folder: Path, how: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    how(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder: Path) -> dict[str, str]:
    """Cut the weights into two files with an index."""
    tensors = load_file(folder / WEIGHTS)
    named = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(named.values()):
        part = {n: t for n, t in tensors.items() if named[n] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": named}))
    return named


def refused(folder: Path, *says: str, kind: type[Exception] = ModelError, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        chat_model.load(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in says), message


# --- what works


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_load_save_load(tmp_path: Path, arch: tiny.Arch, tied: bool) -> None:
    source = tiny.folder(tmp_path, arch, tied=tied, dtype=torch.bfloat16)
    model = chat_model.load(source)
    assert not model.network.training
    assert model.network.dtype == torch.bfloat16
    assert (model.context, model.tokenizer.eos_ids) == (512, (tiny.END, tiny.TEXT_END))
    model.save(tmp_path / "saved")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([model.tokenizer.prompt_ids(tiny.dialogues()[0].before(1))])
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, model.network(ids).logits)
    assert GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id == [tiny.END, tiny.TEXT_END]
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == tiny.CHATML
    assert json.loads((tmp_path / "saved/tokenizer_config.json").read_text())["chat_template"] == tiny.CHATML
    rows = 384 * 64
    assert sum(t.numel() == rows for t in load_file(tmp_path / "saved" / WEIGHTS).values()) == (1 if tied else 2)
    again = chat_model.load(tmp_path / "saved")
    assert again.generation == model.generation


def test_sharded_weights(folder: Path) -> None:
    whole = chat_model.load(folder).network.state_dict()
    shard(folder)
    parts = chat_model.load(folder).network.state_dict()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("name", "dtype"), [("auto", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_dtype(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    assert chat_model.load(tiny.folder(tmp_path, dtype=torch.float16), dtype=name).network.dtype == dtype


def test_sampling_is_transformers_own(tmp_path: Path) -> None:
    def sampling(**entries: Any) -> Sampling:
        path = tiny.folder(tmp_path, generation={"max_new_tokens": None, **entries})
        return read_sampling(path)

    assert sampling() == Sampling(temperature=0.0, max_new_tokens=256)
    assert sampling(temperature=0.7, top_k=20) == Sampling(temperature=0.0)  # without do_sample it is greedy
    assert sampling(do_sample=True) == Sampling(temperature=1.0, top_k=50)
    assert sampling(
        do_sample=True, temperature=0.6, top_p=0.95, top_k=20, min_p=0.1, repetition_penalty=1.1
    ) == Sampling(temperature=0.6, top_k=20, top_p=0.95, min_p=0.1, repetition_penalty=1.1)
    for bad in ({"do_sample": True, "temperature": -1}, {"max_new_tokens": 0}, {"repetition_penalty": "x"}):
        with pytest.raises(ModelError, match=r"generation_config\.json"):
            sampling(**bad)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
ROPES: dict[str, tuple[tiny.Arch, dict[str, Any], dict[str, Any]]] = {
    "theta": ("llama", {"rope_type": "default", "rope_theta": 5e5}, {"rope_theta": 5e5}),
    "llama3": (
        "llama",
        {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    ),
    "linear": (
        "qwen2",
        {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0},
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ),
    "two bases": (
        "gemma3_text",
        {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        {
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
}


@pytest.mark.parametrize("name", ROPES)
def test_saved_folders_carry_both_names_of_the_angles_of_positions(tmp_path: Path, name: str) -> None:
    """transformers 5 reads either; 4 only the older ones, and takes a base of 10,000 where they are missing."""
    arch, rope, older = ROPES[name]
    model = chat_model.load(tiny.folder(tmp_path, arch, config={"rope_parameters": rope}))
    model.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert {key: config[key] for key in older} == older
    assert ("rope_scaling" in config) == ("rope_scaling" in older)
    ids = torch.arange(4, 200)[None]
    with torch.no_grad():
        expected = model.network(input_ids=ids).logits
        for keys in ((), ("rope_parameters",), tuple(older)):
            edited = {key: value for key, value in config.items() if key not in keys}
            (tmp_path / "saved" / "config.json").write_text(json.dumps(edited))
            again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
            assert torch.equal(again(input_ids=ids).logits, expected), keys


LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
IN_WORDS_OF_BOTH: dict[tiny.Arch, tuple[dict[str, Any], dict[str, Any]]] = {
    "granitemoehybrid": (
        {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "layer_types": ["full_attention"] * 2,
            "shared_intermediate_size": 192,
            "mamba_n_heads": 4,
        },
        {"layer_types": ["attention"] * 2},
    ),
    "phi3": (
        {
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **LONG},
            "original_max_position_embeddings": 128,
        },
        {"rope_scaling": {"type": "longrope", **LONG}},
    ),
}


@pytest.mark.parametrize("arch", IN_WORDS_OF_BOTH)
def test_what_transformers_4_calls_otherwise_is_saved_in_its_words(tmp_path: Path, arch: tiny.Arch) -> None:
    """Which refuses 5's; python -m benchmarks.older_transformers lets it read them."""
    config, older = IN_WORDS_OF_BOTH[arch]
    model = chat_model.load(tiny.folder(tmp_path, arch, config=config))
    model.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert {key: saved[key] for key in older} == older
    ids = torch.arange(4, 200)[None]
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model.network(input_ids=ids).logits)


def test_what_transformers_4_cannot_be_told_is_left_to_5(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "attention_factor": 1.7, **LONG}
    config = {"rope_parameters": rope, "original_max_position_embeddings": 128}
    model = chat_model.load(tiny.folder(tmp_path, "phi3", config=config))
    model.save(tmp_path / "saved")
    ids = torch.arange(4, 200)[None]
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model.network(input_ids=ids).logits)


def test_a_config_that_warns_is_saved_back(tmp_path: Path) -> None:
    """Published models set a temperature without do_sample; that must not stop a save."""
    model = chat_model.load(tiny.folder(tmp_path, generation={"temperature": 0.6, "top_p": 0.9}))
    model.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/generation_config.json").read_text())["eos_token_id"] == [2, 3]
    trimmed = Trim(1.0).apply(model, StepContext(dialogues=tiny.dialogues()))
    trimmed.save(tmp_path / "trimmed")
    kept = json.loads((tmp_path / "trimmed/generation_config.json").read_text())
    assert (kept["temperature"], kept["top_p"], "do_sample" in kept) == (0.6, 0.9, False)
    assert kept["eos_token_id"] == list(trimmed.tokenizer.eos_ids)


def test_padded_embeddings_are_fine(tmp_path: Path) -> None:
    path = tiny.folder(tmp_path)
    wide = tiny.network("llama", vocab_size=416)
    wide.save_pretrained(path)
    assert chat_model.load(path).tokenizer.vocab_size == 384


def test_the_fingerprint_sees_every_part(folder: Path, tmp_path: Path) -> None:
    first = chat_model.load(folder).sha256
    assert chat_model.load(shutil.copytree(folder, tmp_path / "copy")).sha256 == first
    template = tmp_path / "t.jinja"
    template.write_text(tiny.CHATML + " ")
    seen = {first, chat_model.load(folder, chat_template=template).sha256}
    for file, entries in (("generation_config.json", {"top_k": 3}), ("config.json", {"x": 1})):
        edit(folder / file, **entries)
        seen.add(chat_model.load(folder).sha256)
    change(folder, lambda t: t["model.norm.weight"].mul_(2))
    seen.add(chat_model.load(folder).sha256)
    (folder / "chat_template.jinja").write_text(tiny.CHATML + "\n")
    seen.add(chat_model.load(folder).sha256)
    assert len(seen) == 6


def test_old_computed_buffers_are_no_strangers(tmp_path: Path) -> None:
    path = tiny.folder(tmp_path, "gpt2")
    change(path, lambda t: t.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 512, 512, dtype=torch.uint8)}))
    chat_model.load(path)


# --- what is refused


def test_a_pickle_is_refused_and_not_opened(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    refused(folder, "pickles", "pytorch_model.bin", "safetensors")
    assert not marker.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())  # noqa: S301 - shows that the trap works
    assert marker.exists()


def test_code_beside_the_weights_is_never_imported(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for name in ("modeling_evil.py", "tokenization_evil.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    evil = {"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    edit(folder / "config.json", auto_map=evil)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization_evil.Evil"]})
    with contextlib.suppress(ModelError):
        chat_model.load(folder)
    assert not marker.exists()
    edit(folder / "config.json", architectures=["EvilForCausalLM"], model_type="evil")
    refused(folder, "EvilForCausalLM", "LlamaForCausalLM")
    assert not marker.exists()


def test_trust_is_off_in_one_place() -> None:
    source = Path(halfwatt.__file__).parent
    lines = [line for path in source.rglob("*.py") for line in path.read_text().splitlines()]
    assert [line.count("trust_remote_code=False") for line in lines if "trust_remote_code" in line] == [1]
    direct = [line for line in lines if ".from_pretrained(" in line]
    assert len(direct) == 1, direct


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""])
def test_shard_names_stay_inside(folder: Path, name: str) -> None:
    named = shard(folder)
    edit(folder / INDEX, weight_map=named | {"lm_head.weight": name})
    refused(folder, "outside itself")


def test_links_stay_inside(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)
    refused(folder, "link that leaves the folder")
    (folder / WEIGHTS).unlink()
    outside.rename(folder / "blob")
    (folder / WEIGHTS).symlink_to("blob")
    chat_model.load(folder)


def test_the_hubs_cache_links_to_its_blobs(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    for file in list(snapshot.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(f"../../blobs/{file.name}")
    chat_model.load(snapshot)


def header(entries: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def span(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", 200 << 20) + b"{}",
        header(b"{"),
        header(b"\xff\xfe"),
        header({"a": span(0, 16), "b": span(8, 24)}, b"x" * 24),
        header({"a": span(0, 8), "b": span(16, 24)}, b"x" * 24),
        header({"a": span(0, 64)}, b"x" * 8),
        header({"a": span(0, 8)}, b"x" * 64),
        header({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}}, b"x" * 8),
        header(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}',
            b"x" * 24,
        ),
    ],
    ids=["", "short", "2^63", "200MB", "json", "utf8", "overlap", "hole", "cut", "trailing", "shape", "twice"],
)
def test_unsound_safetensors(folder: Path, data: bytes) -> None:
    (folder / WEIGHTS).write_bytes(data)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ModelError, match="not sound safetensors"):
        model_folder.check_tensors([folder / WEIGHTS], model_folder.check_config(folder))
    assert time.monotonic() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    refused(folder, "not sound safetensors")


def test_weights_cut_off_by_a_broken_download(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(folder, "not sound safetensors")


LAYER = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("value", "says"), [(float("nan"), "holds NaN"), (float("inf"), "infinity"), (-float("inf"), "infinity")]
)
def test_a_number_that_is_none_names_its_tensor(folder: Path, value: float, says: str) -> None:
    change(folder, lambda t: t[LAYER].__setitem__((3, 5), value))
    refused(folder, f"{LAYER} ", says)


def test_all_zero_weights_are_named_and_zero_biases_are_not(tmp_path: Path) -> None:
    path = tiny.folder(tmp_path, "gpt2")
    change(path, lambda t: [v.zero_() for k, v in t.items() if k.endswith("bias")])
    chat_model.load(path)
    change(
        path, lambda t: [v.zero_() for k, v in t.items() if k.endswith(("h.0.ln_1.weight", "h.1.attn.c_attn.weight"))]
    )
    refused(path, "h.0.ln_1.weight is all zero", "h.1.attn.c_attn.weight is all zero")


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_block_that_was_added_to_change_nothing_is_no_damage(arch: str, tmp_path: Path) -> None:
    """And it is rounded, exported and read again like any other."""
    ends = {"llama": ("1.self_attn.o_proj.weight", "1.mlp.down_proj.weight"), "gpt2": ("h.1.attn.c_proj.weight",)}[arch]
    path = tiny.folder(tmp_path, arch)
    talks = tuple(
        Dialogue(f"{n}", (Message("user", f"Open door {n}."), Message("assistant", f"Door {n} is open.")))
        for n in range(8)
    )
    change(path, lambda t: [v.zero_() for k, v in t.items() if k.endswith(ends)])
    model = chat_model.load(path)
    rounded = Quantize(4, method="gptq").apply(model, StepContext(dialogues=talks))
    zeros = [name for name in rounded.grid if name.endswith(ends)]
    assert len(zeros) == len(ends)
    assert not any(rounded.grid[name].q.any() for name in zeros)
    for name, one in (("whole", model), ("rounded", rounded)):
        assert parity_in_llamacpp(one, tmp_path / name).kl_mean < (1e-4 if name == "whole" else 0.02)
    back = Gguf().read(tmp_path / "whole", Access())
    assert not any(p.any() for name, p in back.network.named_parameters() if name.endswith(ends))


def test_missing_and_unknown_tensors_are_named(folder: Path) -> None:
    change(folder, lambda t: t.pop(LAYER))
    refused(folder, "not complete", LAYER)
    change(folder, lambda t: t.update({LAYER: torch.ones(64, 96), "model.layers.1.extra.weight": torch.ones(2)}))
    refused(folder, "does not know", "model.layers.1.extra.weight")


def test_a_missing_shard(folder: Path) -> None:
    named = shard(folder)
    (folder / named[LAYER]).unlink()
    refused(folder, named[LAYER], "is missing")


def test_shapes_that_contradict_the_config(folder: Path) -> None:
    change(folder, lambda t: t.update({LAYER: torch.ones(64, 64)}))
    refused(folder, LAYER)


def test_a_config_that_would_fill_the_memory(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=2000)
    refused(folder, "do not fit together", "numbers asked for")


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "T5ForConditionalGeneration"),
        ({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, "MixtralForCausalLM"),
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"architectures": None}, "llama"),
        ({"architectures": "LlamaForCausalLM"}, "llama"),
        ({"model_type": "mixtral"}, "contradicts itself"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quant_method gptq"),
        ({"quantization_config": 1}, "quantized already"),
        ({"hidden_size": "wide"}, ""),
        ({"num_attention_heads": 0}, ""),
    ],
)
def test_configs_that_cannot_be_used(folder: Path, entries: dict[str, Any], says: str) -> None:
    edit(folder / "config.json", **entries)
    refused(folder, says)


def test_integer_weights_are_recognised(folder: Path) -> None:
    change(folder, lambda t: t.update({LAYER: torch.ones(64, 96, dtype=torch.int8)}))
    refused(folder, LAYER, "quantized already")


def test_an_adapter_is_not_a_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "adapter", "merge")


def test_more_tokens_than_embeddings(tmp_path: Path) -> None:
    path = tiny.folder(tmp_path)
    tiny.network("llama", vocab_size=380).save_pretrained(path)
    refused(path, "384 tokens", "380 embeddings")


@pytest.mark.parametrize(
    "entries",
    [
        {"eos_token_id": [2, 9999]},
        {"eos_token_id": 2, "forced_eos_token_id": 9999},
        {"eos_token_id": 2, "forced_eos_token_id": [9999]},
        {"eos_token_id": 2, "forced_bos_token_id": 9999},
    ],
)
def test_a_stop_token_beyond_the_vocabulary(entries: dict[str, Any], tmp_path: Path) -> None:
    refused(tiny.folder(tmp_path, generation=entries), "outside the vocabulary", "9999")


def test_no_template(tmp_path: Path) -> None:
    path = tiny.folder(tmp_path, template=None)
    refused(path, "--chat-template FILE")
    refused(path, "cannot be read", chat_template=tmp_path / "none.jinja")
    (tmp_path / "t.jinja").write_text(tiny.CHATML)
    assert chat_model.load(path, chat_template=tmp_path / "t.jinja").tokenizer.template == tiny.CHATML


def test_a_looping_template_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.folder(
        tmp_path, template="{% for a in range(9**5) %}{% for b in range(9**5) %}{% endfor %}{% endfor %}"
    )
    monkeypatch.setattr(chat_model, "probe", lambda template, tokens: model_probe(template, tokens, limit_s=1))
    refused(path, "stopped")


def model_probe(template: str, tokens: dict[str, str], limit_s: int) -> None:
    from halfwatt.models.template_sandbox import probe

    probe(template, tokens, limit_s=limit_s)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": ' * 10_000])
def test_configs_that_are_not_json(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, "config.json")


def test_what_is_not_a_folder(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "there is no folder")
    refused(folder / "config.json", "is a file")
    refused(tmp_path, "no config.json")
    with pytest.raises(ModelError, match="there is no folder"):
        chat_model.load("../../etc/passwd/x")


@pytest.mark.parametrize(
    ("offline", "setting", "value"),
    [
        (True, "ENDPOINT", "http://127.0.0.1:9"),
        (False, "HF_HUB_OFFLINE", True),
        (False, "ENDPOINT", "http://127.0.0.1:9"),
    ],
)
def test_a_hub_id_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool, setting: str, value: object
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, setting, value)
    with pytest.raises(EnvironmentFault, match=r"^org/name .*give a model folder") as caught:
        chat_model.load("org/name", offline=offline)
    assert "\n" not in str(caught.value)


def test_dtype_and_device_are_checked_first(folder: Path) -> None:
    refused(folder, "--dtype", kind=BadInput, dtype="int8")
    refused(folder, "--device", kind=BadInput, device="toaster")
    refused(folder, "no device cuda:99", kind=EnvironmentFault, device="cuda:99")


def test_save_is_whole_or_not_at_all(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat_model.load(folder)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(BadInput, match="exists already"):
        model.save(tmp_path / "taken")

    class Broken:
        def save(self, _: Path) -> None:
            raise OSError("disk")

    broken = replace(model, tokenizer=Broken())  # type: ignore[arg-type]
    monkeypatch.setattr(Broken, "eos_ids", (2,), raising=False)
    monkeypatch.setattr(Broken, "pad_id", 0, raising=False)
    with pytest.raises(OSError, match="disk"):
        broken.save(tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama-0", "taken"]
