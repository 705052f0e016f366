#!/usr/bin/env bash
# gguf 0.19.0's GGUFReader makes two NumPy views of the mapped file for each string of an array, when the file is opened:
# a vocabulary of 262,144 tokens (as Gemma 3 has), 3.8 MB in the file, becomes 524,288 views and several hundred megabytes,
# before a single token is asked for. Opening maps the tensors and nothing else, one would expect: a key that nobody reads
# costs its bytes. What this costs in seconds differs by machine and is printed, not judged.
#
# Seen on Python 3.11, NumPy 2.4.6:
#   262,144 tokens, 3.8 MB in the file: 524,288 views, 338 MB taken to open it (88 times its bytes), 4.5 s
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"; }
cd "$work"

pip gguf==0.19.0 numpy==2.4.6
cat > look.py <<'PY'
import resource
import sys
import time
from pathlib import Path

import gguf
import numpy as np

TOKENS = 262_144
writer = gguf.GGUFWriter("model.gguf", "llama")
writer.add_tokenizer_model("gpt2")
writer.add_token_list([f"t{n:05d}" for n in range(TOKENS)])
writer.add_tensor("token_embd.weight", np.zeros((1, 32), np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()


def taken_mb():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line).split()[1]) / 1024


file_mb, before, start = Path("model.gguf").stat().st_size / 1e6, taken_mb(), time.process_time()
reader = gguf.GGUFReader("model.gguf")
seconds, grown = time.process_time() - start, taken_mb() - before
views = len(reader.fields["tokenizer.ggml.tokens"].parts) - 5  # beside the key's own and the array's type and length
print(
    f"{TOKENS:,} tokens, {file_mb:.1f} MB in the file: {views:,} views, {grown:.0f} MB taken to open it "
    f"({grown / file_mb:.0f} times its bytes), {seconds:.1f} s"
)
same = views == 2 * TOKENS and grown > 20 * file_mb
print("still so" if same else "this has changed")
sys.exit(not same)
PY
"$work/venv/bin/python" look.py
