#!/usr/bin/env bash
# Many published generation_config.json files set a temperature and no do_sample. transformers 5.23.0 reads such a file with a warning
# and saves what it read. Once anything in it has been changed, an end-of-turn token added, the same settings are refused on saving
# (ValueError) by GenerationConfig.save_pretrained, which a model's save_pretrained calls: it hangs on a hash that was taken on
# reading. 4.57.6 refuses it changed or not. And an option of from_pretrained that every model is read with, trust_remote_code=False,
# becomes a setting: both versions write it into the file.
#
# One would expect: what may be saved may be saved with another stop token; an option of reading is no setting of generating.
#
# Seen on Python 3.11 (saving as read, saving with another stop token, what the options left in the file):
#   4.57.6  ValueError, ValueError, trust_remote_code
#   5.23.0  saved, ValueError, trust_remote_code
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > settings.py <<'PY'
import json
import sys
from pathlib import Path

import transformers
from transformers import GenerationConfig

published = Path("published")
published.mkdir(exist_ok=True)


def read(entries, **options):
    (published / "generation_config.json").write_text(json.dumps(entries))
    return GenerationConfig.from_pretrained(published, local_files_only=True, **options)


def saving(settings):
    try:
        settings.save_pretrained("saved")
    except ValueError:
        return "ValueError"
    return "saved"


warm = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
changed = read(warm)
changed.eos_token_id = [2, 3]
sound = read({"eos_token_id": 2}, trust_remote_code=False)
sound.save_pretrained("saved")
left = json.loads(Path("saved/generation_config.json").read_text()).keys() - {"eos_token_id", "transformers_version", "_from_model_config"}
seen = f"{saving(read(warm))}, {saving(changed)}, {' '.join(sorted(left)) or 'nothing'}"
print(transformers.__version__, f" {seen}")
sys.exit(seen != sys.argv[1])
PY

same=yes
for version in "4.57.6:ValueError, ValueError, trust_remote_code" "5.23.0:saved, ValueError, trust_remote_code"; do
  python3 -m venv "$work/${version%%:*}"
  "$work/${version%%:*}/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "transformers==${version%%:*}"
  "$work/${version%%:*}/bin/python" settings.py "${version#*:}" 2> words || { tail -3 words >&2; same=no; }
done
if [ "$same" = no ]; then echo "this has changed"; exit 1; fi
echo "still so"
