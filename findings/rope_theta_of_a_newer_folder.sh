#!/usr/bin/env bash
# transformers 5.23.0 writes the rotary embedding's base into config.json as rope_parameters alone. transformers 4.57.6 reads
# that file without an error or a warning, keeps the key, and computes with its own default of 10,000.
#
# One would expect: the same logits, or a word. Position 0 is not rotated, so it agrees; all others do not.
# With the same number repeated as "rope_theta" beside it, both versions agree to the last bit.
#
# Seen on Python 3.11, torch 2.13.0, one processor:
#   5.23.0 wrote {'rope_parameters': {'rope_theta': 500000.0, 'rope_type': 'default'}}
#   4.57.6 as written: theta 10000, largest logit difference 9.65, warnings 0
#   4.57.6 with rope_theta beside it: theta 500000, largest logit difference 0.00, warnings 0
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
cd "$work"

pip torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
cat > write.py <<'PY'
import json

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=2,
    num_key_value_heads=2, initializer_range=0.2, max_position_embeddings=2048,
    rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
)
model = LlamaForCausalLM(config).eval()
model.save_pretrained("written")
with torch.no_grad():
    torch.save(model(torch.arange(256)[None]).logits, "logits.pt")
keys = {key: value for key, value in json.load(open("written/config.json")).items() if "rope" in key}
print(transformers.__version__, "wrote", keys)
PY
"$work/venv/bin/python" write.py 2> words || { cat words >&2; exit 1; }

pip transformers==4.57.6
cat > read.py <<'PY'
import json
import logging
import shutil
import sys
import warnings

import torch
import transformers
from transformers import AutoModelForCausalLM

words = []
handler = logging.Handler(logging.WARNING)
handler.emit = words.append
logging.getLogger("transformers").addHandler(handler)


def read(folder, how):
    words.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        off = float((model(torch.arange(256)[None]).logits - torch.load("logits.pt")).abs().max())
    theta, warned = model.config.rope_theta, len(words) + len(caught)
    print(f"{transformers.__version__} {how}: theta {theta:.0f}, largest logit difference {off:.2f}, warnings {warned}")
    return theta, off, warned


as_written = read("written", "as written")
shutil.copytree("written", "both")
config = json.load(open("both/config.json"))
config["rope_theta"] = config["rope_parameters"]["rope_theta"]
json.dump(config, open("both/config.json", "w"))
both = read("both", "with rope_theta beside it")
same = as_written[0] == 10000 and as_written[1] > 1 and as_written[2] == 0 and both[0] == 500000 and both[1] < 1e-4
print("still so" if same else "this has changed")
sys.exit(not same)
PY
"$work/venv/bin/python" read.py 2> words || { cat words >&2; exit 1; }
