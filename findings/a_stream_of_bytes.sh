#!/usr/bin/env bash
# Vocabularies that fall back to bytes (Gemma, Llama 2, Mistral) write what they do not know as tokens of one byte. The decoder of
# tokenizers 0.23.3 makes text of a run of such tokens only if the whole run is UTF-8, else a replacement character of every byte.
# DecodeStream, made to show a reply while its tokens come, has shown the first byte of such a run by then: when the next word comes it
# raises an error that has no class of its own, in the middle of a reply, where decoding all tokens at once gives a text.
#
# One would expect: pieces that together are the text, or a piece that is held back; not an error.
#
# Seen on Python 3.11, of the tokens <0x57> <0xE2> and a word:
#   at once: '\ufffd\ufffdword'
#   piece by piece: 'W', None, Exception
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > stream.py <<'PY'
import sys

from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream

vocabulary = {"<0x57>": 0, "<0xE2>": 1, "word": 2, "<unk>": 3}
tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
whole = tokenizer.decode([0, 1, 2])
print("at once:", ascii(whole))
stream, pieces = DecodeStream(), []
for token in (0, 1, 2):
    try:
        pieces.append(repr(stream.step(tokenizer, token)))
    except Exception as error:
        pieces.append(type(error).__name__)
print("piece by piece:", ", ".join(pieces))
sys.exit((whole, pieces) != ("\ufffd\ufffdword", ["'W'", "None", "Exception"]))
PY
python3 -m venv env
env/bin/python -m pip install --quiet --no-compile --disable-pip-version-check tokenizers==0.23.3
env/bin/python stream.py || { echo "this has changed"; exit 1; }
echo "still so"
