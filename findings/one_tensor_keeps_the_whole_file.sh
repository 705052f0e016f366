#!/usr/bin/env bash
# safetensors 0.8.0 gives tensors that look like small ones of their own, and each keeps the whole file mapped: with a norm of
# eight numbers left of a file of 134 MB, those pages stay in the process, though the tensor's storage says 32 bytes.
#
# One would expect: what is no longer referred to leaves the memory, as with torch.load; or a storage that says what it holds.
#
# Seen on Python 3.11, torch 2.13.0 (Linux, RssFile of /proc/self/status, MB above the start):
#   load_file, all read: 131; only the norm kept: 131, its storage says 32 bytes; a copy of the norm kept: 0
#   safe_open, only the norm kept: 131
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
cd "$work"

pip torch==2.13.0 safetensors==0.8.0 numpy==2.3.5 packaging==25.0
cat > keep.py <<'PY'
import gc
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

FILE = "model.safetensors"
save_file({"matrix": torch.ones(64, 1024, 1024, dtype=torch.bfloat16), "norm": torch.ones(8)}, FILE)


def mapped() -> int:
    """MB of files in this process."""
    gc.collect()
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) // 1000


torch.ones(1).sum()
warm = load_file(FILE)["norm"].clone()
start = mapped()
tensors = load_file(FILE)
tensors["matrix"].sum()
loaded = mapped() - start
norm = tensors["norm"]
del tensors
kept, says = mapped() - start, norm.untyped_storage().nbytes()
norm = norm.clone()
copied = mapped() - start
with safe_open(FILE, "pt") as file:
    matrix, norm = file.get_tensor("matrix"), file.get_tensor("norm")
matrix.sum()
del matrix, file
opened = mapped() - start
print(f"load_file, all read: {loaded}; only the norm kept: {kept}, its storage says {says} bytes; a copy of the norm kept: {copied}")
print(f"safe_open, only the norm kept: {opened}")
same = min(loaded, kept, opened) > 100 and says == 32 and copied < 20
print("still so" if same else "CHANGED")
sys.exit(0 if same else 1)
PY
"$work/venv/bin/python" keep.py
