#!/usr/bin/env bash
# A compressed-tensors model of 4-bit integers (W4A16, pack-quantized), loaded by transformers 5.23.0 on a processor, is unpacked to
# bf16 by its first forward pass, in place and for good. So save_pretrained writes two different things: before any pass the packed
# integers; after one pass dense bf16 weights, two and a half times the file here, under a configuration that still says 4 bits.
#
# One would expect: reading a model's answer changes nothing of what is saved. transformers reads the dense file and gives the same logits
# (it writes quantization_status "decompressed"); what reads "num_bits: 4" and looks for weight_packed does not find it.
#
# Seen on Python 3.11, torch 2.13.0, compressed-tensors 0.20.1:
#   saved before a forward pass: 322048 bytes, weight_packed I32, status compressed, num_bits 4
#   saved after a forward pass: 813512 bytes, weight BF16, status decompressed, num_bits 4
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 compressed-tensors==0.20.1 accelerate==1.15.0 safetensors==0.8.0
cd "$work"
cat > save.py <<'PY'
import json
import os
import sys

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

LAYER = "model.layers.0.self_attn.q_proj."
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
QUANTIZATION = {
    "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS}},
}


def write_w4a16(folder):
    """Random weights, rounded to nearest, in groups of 32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    packed = {}
    for name, weight in load_file(f"{folder}/model.safetensors").items():
        if not name.endswith("_proj.weight"):
            packed[name] = weight
            continue
        groups = weight.float().view(weight.shape[0], -1, 32)
        scale = (groups.abs().amax(-1) / 7).to(torch.bfloat16)
        integers = (groups / scale.float().unsqueeze(-1)).round().clamp(-8, 7).to(torch.int8).view(weight.shape)
        packed[f"{name}_packed"] = pack_to_int32(integers, 4)
        packed[f"{name}_scale"] = scale
        packed[f"{name}_shape"] = torch.tensor(weight.shape)
    save_file(packed, f"{folder}/model.safetensors", metadata={"format": "pt"})
    config = json.load(open(f"{folder}/config.json"))
    json.dump(config | {"quantization_config": QUANTIZATION}, open(f"{folder}/config.json", "w"))


def saved(model, folder):
    model.save_pretrained(folder)
    with safe_open(f"{folder}/model.safetensors", framework="pt") as file:
        kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}
    name = "weight_packed" if f"{LAYER}weight_packed" in kinds else "weight"
    config = json.load(open(f"{folder}/config.json"))["quantization_config"]
    bits = config["config_groups"]["group_0"]["weights"]["num_bits"]
    size = os.path.getsize(f"{folder}/model.safetensors")
    print(f"saved {folder} a forward pass: {size} bytes, {name} {kinds[LAYER + name]}, status {config['quantization_status']}, num_bits {bits}")
    return name, bits, size


write_w4a16("w4a16")
model = AutoModelForCausalLM.from_pretrained("w4a16")
before = saved(model, "before")
model(torch.arange(16)[None])
after = saved(model, "after")
same = before[:2] == ("weight_packed", 4) and after[:2] == ("weight", 4) and after[2] > 2 * before[2]
print("still so" if same else "this has changed")
sys.exit(not same)
PY
"$work/venv/bin/python" save.py 2> words || { cat words >&2; exit 1; }
