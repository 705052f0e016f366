"""Folders that are saved here, read by the transformers before: the same tokens, the same network?

    python -m benchmarks.older_transformers [4.57.6]

Installs that version into a temporary folder, beside this environment's torch, and lets it read a tiny model of every
family, in each shape of the contract suite, that `save` wrote. Prints a row a family, and last a JSON line; exits with
1 where anything is read otherwise. What that version does not know at all is named, and is no fault of a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.converter import families
from benchmarks.ladder import markdown
from halfwatt.models.chat_model import ChatModel, load
from tests.support import tiny_models as tiny

IDS = list(range(5, 105))
ALIKE = 1e-4  # of the largest logit: float32, sums in another order
READER = """
import json, sys, numpy, torch, transformers
ids, text = json.loads(sys.argv[1]), sys.argv[2]
for folder in sys.argv[3:]:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        network = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
        with torch.inference_mode():
            logits = network(torch.tensor([ids])).logits[0].double().numpy()
        numpy.save(f"{folder}/read.npy", logits)
        stops = network.generation_config.eos_token_id
        said = {"ids": tokenizer(text, add_special_tokens=False).input_ids, "stops": stops}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    print(json.dumps({"version": transformers.__version__, **said}))
"""


def main() -> int:
    """Save, let it read, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="?", default="4.57.6")
    version: str = parser.parse_args().version
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / version
        install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(other), f"transformers=={version}"]
        subprocess.run(install, check=True)
        models = list(saved(Path(scratch)))
        rows = [[name, verdict] for name, verdict in zip((n for n, _ in models), read(other, models), strict=True)]
    print(markdown([["family and shape", f"in transformers {version}"], *rows]))
    wrong = [name for name, verdict in rows if verdict.startswith("OTHER")]
    print(json.dumps({"version": version, "folders": len(rows), "otherwise": wrong}))
    return int(bool(wrong))


def saved(into: Path) -> Iterator[tuple[str, ChatModel]]:
    """Every family in every shape, as it was before it was saved into the folder that is its source."""
    for family in families():
        for number, shape in enumerate(({}, *family.shapes)):
            where = into / f"{family.__name__}-{number}"
            model = load(tiny.folder(where / "given", family.arch, tied=False, config=family.config | shape))
            model.save(where / "saved")
            name = f"{family.arch} {json.dumps(shape) if shape else ''}".strip()
            yield name, replace(model, source=where / "saved")


def read(other: Path, models: list[tuple[str, ChatModel]]) -> Iterator[str]:
    """What became of each folder in the other version."""
    text = " ".join(m.content for d in tiny.dialogues() for m in d.messages)
    command = [sys.executable, "-c", READER, json.dumps(IDS), text, *(str(model.source) for _, model in models)]
    environment = os.environ | {"PYTHONPATH": str(other)}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    for line, (_, model) in zip(output.splitlines(), models, strict=True):
        said = json.loads(line)
        assert said["version"] == other.name, "it is this version that has read them"
        yield verdict(said, model, text)


@torch.inference_mode()
def verdict(said: dict[str, Any], model: ChatModel, text: str) -> str:
    """In words."""
    if "error" in said:
        unknown = "does not recognize this architecture" in said["error"]
        return "not known there" if unknown else f"OTHERWISE: {said['error']}"
    theirs = np.load(model.source / "read.npy")
    network: Any = model.network
    ours = network(torch.tensor([IDS])).logits[0].double().numpy()
    far = float(abs(theirs - ours).max() / abs(ours).max())
    if far > ALIKE or said["ids"] != model.tokenizer.encode(text) or said["stops"] != list(model.tokenizer.eos_ids):
        return f"OTHERWISE: logits {far:.2g} of the largest apart, stops {said['stops']}"
    return f"the same, logits within {far:.1g}"


if __name__ == "__main__":
    sys.exit(main())
