#!/usr/bin/env bash
# tokenizer.json holds a whole tokenizer, its splitter (pre-tokenizer) too. transformers 5.23.0 loads the class that
# tokenizer_config.json names, and where that is GPT2Tokenizer or Qwen2Tokenizer builds the splitter of GPT-2 or Qwen2 in place of the
# file's. transformers 4.57.6 uses the file's. Many folders name a class whose splitter is not quite theirs, since it made no difference.
#
# One would expect: the ids of tokenizer.json, whatever class is named. Nothing is logged.
# With "PreTrainedTokenizerFast" as the class both versions give the file's ids.
#
# Seen on Python 3.11 (tokens of one text; "file" is tokenizer.json read by the tokenizers library):
#   4.57.6  GPT2Tokenizer: 15, the file's own. Qwen2Tokenizer: 15, the file's own. PreTrainedTokenizerFast: 15, the file's own
#   5.23.0  GPT2Tokenizer: 16, others. Qwen2Tokenizer: 21, others. PreTrainedTokenizerFast: 15, the file's own
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > ids.py <<'PY'
import json
import os
import sys

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

TEXT = "steps for order 650841823: open\n\n2. pay 5"
CORPUS = ["steps for order 650841823: open the door.\n\n2. pay 5 dollars", "123 456 1234567"] * 20


def train():
    """Byte-level BPE whose splitter takes digits three at a time and line ends together."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


tokenizer, equal, lines = train(), [], []
for name in ("GPT2Tokenizer", "Qwen2Tokenizer", "PreTrainedTokenizerFast"):
    os.makedirs(name, exist_ok=True)
    tokenizer.save(f"{name}/tokenizer.json")
    json.dump({"tokenizer_class": name, "eos_token": "<|end|>"}, open(f"{name}/tokenizer_config.json", "w"))
    json.dump({"model_type": "llama"}, open(f"{name}/config.json", "w"))
    ids = AutoTokenizer.from_pretrained(name)(TEXT, add_special_tokens=False)["input_ids"]
    equal.append(ids == tokenizer.encode(TEXT, add_special_tokens=False).ids)
    lines.append(f"{name}: {len(ids)}, " + ("the file's own" if equal[-1] else "others"))
print(transformers.__version__, " " + ". ".join(lines))
sys.exit(equal != [sys.argv[1] == "all", sys.argv[1] == "all", True])
PY

same=yes
for version in 4.57.6:all 5.23.0:one; do
  python3 -m venv "$work/${version%:*}"
  "$work/${version%:*}/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "transformers==${version%:*}"
  "$work/${version%:*}/bin/python" ids.py "${version#*:}" 2> words || { cat words >&2; same=no; }
done
if [ "$same" = no ]; then echo "this has changed"; exit 1; fi
echo "still so"
