"""Our GGUF files against llama.cpp's own converter: every tensor of every family, number by number, and the settings.

    pip download --no-binary llama-cpp-python --no-deps llama-cpp-python==0.3.36 && tar xzf llama_cpp_python-*.tar.gz
    python -m benchmarks.converter llama_cpp_python-0.3.36/vendor/llama.cpp

The converter is no package: it lies in the source that set-up compiles, and wants versions of numpy and torch of its
own. So it is no part of halfwatt; it is asked here, once, about random networks of each family of the contract suite in
each of its shapes. It knows no tokenizer that it has not seen, so vocabularies are left out (parity compares those).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import gguf
import numpy as np
import torch

import tests.models.architectures as rows
from halfwatt.core.errors import ModelError
from halfwatt.formats.gguf import write_gguf
from halfwatt.models.chat_model import load
from tests.contracts.architectures import ArchitectureContract
from tests.support import tiny_models as tiny

_CONVERT = """
import sys, torch, conversion
from pathlib import Path
from conversion import base
folder, to = map(Path, sys.argv[1:])
name = base.get_model_architecture(base.ModelBase.load_hparams(folder, False), base.ModelType.TEXT)
converter = conversion.get_model_class(name)
converter.set_vocab = lambda _: None
with torch.inference_mode():
    converter(folder, base.gguf.LlamaFileType.MOSTLY_F16, to).write()
"""  # what convert_hf_to_gguf.py does, without the vocabulary
OURS_ALONE = ("halfwatt.", "general.", "tokenizer.", "GGUF.")


def families() -> Iterator[type[ArchitectureContract]]:
    """The contract suite's rows."""
    for module in iter_modules(rows.__path__):
        for value in vars(import_module(f"{rows.__name__}.{module.name}")).values():
            if (
                isinstance(value, type)
                and issubclass(value, ArchitectureContract)
                and value is not ArchitectureContract
            ):
                yield value


def convert(llama_cpp: Path, folder: Path, to: Path) -> None:
    """Run `_CONVERT` where the converter finds the version of gguf that lies beside it."""
    where = os.pathsep.join(map(str, (llama_cpp / "gguf-py", llama_cpp)))
    command = [sys.executable, "-c", _CONVERT, str(folder), str(to)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": where}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ModelError("llama.cpp's converter cannot convert it", got=done.stderr.strip().rpartition("\n")[2])


def compared(ours: gguf.GGUFReader, theirs: gguf.GGUFReader) -> dict[str, Any]:
    """Names of tensors and settings that are not the same in both files."""
    left, right = ({t.name: t for t in file.tensors} for file in (ours, theirs))
    return {
        "tensors": len(right),
        "other_tensors": sorted(n for n in left | right if not _same(left.get(n), right.get(n))),
        "other_settings": differences(_settings(ours), _settings(theirs)),
    }


def _same(ours: Any, theirs: Any) -> bool:
    if ours is None or theirs is None or tuple(ours.shape) != tuple(theirs.shape):
        return False
    a, b = (np.asarray(tensor.data, np.float32) for tensor in (ours, theirs))
    matrix = len(ours.shape) > 1  # of a norm's weight the converter adds 1 to the 16 bits, we to all
    return np.array_equal(a, b) if matrix else np.allclose(a, b, rtol=1e-3)


def _settings(file: gguf.GGUFReader) -> dict[str, Any]:
    return {n: f.contents() for n, f in file.fields.items() if not n.startswith(OURS_ALONE)}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> [ours, theirs] where both files have it and disagree, or only theirs has it."""
    return {n: [ours.get(n), value] for n, value in theirs.items() if not _close(ours.get(n), value)}


def _close(ours: Any, theirs: Any) -> bool:
    return bool(ours == theirs or (isinstance(theirs, float) and ours is not None and np.isclose(ours, theirs)))


def row(of: type[ArchitectureContract], shape: Mapping[str, Any], llama_cpp: Path) -> dict[str, Any]:
    """A family in one shape."""
    outcome = {"family": of.arch, "shape": dict(shape)}
    with tempfile.TemporaryDirectory() as temporary:
        config, to = {**of.config, **shape}, Path(temporary)
        folder = tiny.folder(to, of.arch, dtype=torch.float16, tied=False, config=config)
        write_gguf(load(folder), to / "ours.gguf")
        config_json = folder / "config.json"  # transformers 5 writes kinds of block that the converter does not know
        if of.arch == "granitemoehybrid":
            config_json.write_text(config_json.read_text().replace("full_attention", "attention"))
        try:
            convert(llama_cpp, folder, to / "theirs.gguf")
        except ModelError as error:
            return outcome | {"error": str(error)}
        return outcome | compared(*(gguf.GGUFReader(to / f"{whose}.gguf") for whose in ("ours", "theirs")))


def main(llama_cpp: Path) -> None:
    outcomes = []
    for family in families():
        for shape in ({}, *family.shapes):
            outcomes.append(row(family, shape, llama_cpp))
            print(*outcomes[-1].values(), sep=" | ", flush=True)
    print(json.dumps({"rows": outcomes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
