#!/usr/bin/env bash
# transformers 5.23.0 reads a Llama from a GGUF file (`gguf_file=`) without its biases and without the scaling of its rotary
# embedding, and says nothing of either. llama.cpp computes both.
#
# One would expect: the network that the file holds, or an error.
#
# Seen on Python 3.11, torch 2.13.0, gguf 0.19.0:
#   5.23.0: the file has linear rope, factor 4, and 8 biases; read: {'rope_theta': 10000.0, 'rope_type': 'default'}, 0 biases
#   words about either: 0; largest logit difference 8.36
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
cd "$work"

pip torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
cat > write.py <<'PY'
import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, initializer_range=0.2, max_position_embeddings=512, attention_bias=True,
    rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
    torch.save(model(torch.arange(64)[None]).logits, "logits.pt")
writer = gguf.GGUFWriter("model.gguf", "llama")
writer.add_vocab_size(64)
writer.add_context_length(512)
writer.add_embedding_length(64)
writer.add_feed_forward_length(128)
writer.add_block_count(2)
writer.add_head_count(2)
writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(config.rms_norm_eps)
writer.add_rope_dimension_count(32)
writer.add_rope_freq_base(10000.0)
writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
writer.add_rope_scaling_factor(4.0)
writer.add_tokenizer_model("gpt2")
writer.add_token_list([chr(256 + n) for n in range(64)])
writer.add_token_types([gguf.TokenType.NORMAL] * 64)
writer.add_token_merges([])
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
for name, parameter in model.state_dict().items():
    values = parameter.numpy()
    if name.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")):  # llama.cpp rotates neighbours
        values = values.reshape(2, 2, 16, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    module, _, suffix = name.rpartition(".")
    writer.add_tensor(f"{names.get_name(module)}.{suffix}", np.ascontiguousarray(values))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
PY
"$work/venv/bin/python" write.py 2> words || { cat words >&2; exit 1; }

cat > read.py <<'PY'
import logging
import sys
import warnings

import torch
import transformers
from transformers import AutoModelForCausalLM

words = []
handler = logging.Handler(logging.WARNING)
handler.emit = words.append
logging.getLogger("transformers").addHandler(handler)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", dtype=torch.float32).eval()
said = [str(getattr(w, "message", w)) for w in caught] + [record.getMessage() for record in words]
about = [word for word in said if "rope" in word.lower() or "bias" in word.lower()]
with torch.no_grad():
    off = float((model(torch.arange(64)[None]).logits - torch.load("logits.pt")).abs().max())
rope, biases = model.config.rope_parameters, sum("bias" in name for name, _ in model.named_parameters())
print(f"{transformers.__version__}: the file has linear rope, factor 4, and 8 biases; read: {rope}, {biases} biases")
print(f"words about either: {len(about)}; largest logit difference {off:.2f}")
same = rope.get("rope_type") == "default" and biases == 0 and not about and off > 1
print("still so" if same else "this has changed")
sys.exit(not same)
PY
"$work/venv/bin/python" read.py 2> words || { cat words >&2; exit 1; }
