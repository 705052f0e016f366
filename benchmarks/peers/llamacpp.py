"""llama.cpp's own quantization of the original: its documented defaults, from the 16-bit file that B1 serves."""

from __future__ import annotations

import ctypes
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import gguf
from llama_cpp import llama_cpp as llama

from halfwatt.core.files import new_folder, sha256_file
from halfwatt.formats.artifact import GGUF_FILE, Artifact, read_artifact, write_artifact
from halfwatt.runtimes.llamacpp import LlamaCpp

VERSION = f"llama.cpp in llama-cpp-python {version('llama-cpp-python')}"
RUNTIME = LlamaCpp.name
KINDS = {
    "Q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": llama.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
}


def quantize(original: Artifact, kind: str, to: Path) -> Artifact:
    """Quantize with all of llama.cpp's defaults; made once.

    Raises:
        RuntimeError: llama.cpp refused.
    """
    if not to.exists():
        with new_folder(to) as part:
            shutil.copytree(original.path, part, dirs_exist_ok=True)
            (part / GGUF_FILE).unlink()
            options = llama.llama_model_quantize_default_params()
            options.ftype = KINDS[kind]
            source, target = (str(folder / GGUF_FILE).encode() for folder in (original.path, part))
            if llama.llama_model_quantize(source, target, ctypes.byref(options)) != 0:
                raise RuntimeError(f"llama.cpp could not quantize to {kind}")
            write_artifact(_artifact(original, kind, part), part)
    return read_artifact(to)


def _artifact(original: Artifact, kind: str, folder: Path) -> Artifact:
    tensors = gguf.GGUFReader(folder / GGUF_FILE).tensors
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in tensors}
    looked_up = sizes["token_embd.weight"] if "output.weight" in sizes else 0
    return replace(
        original,
        path=folder,
        precision=kind,
        size_b=sum(sizes.values()),
        weights_read_b=sum(sizes.values()) - looked_up,
        sha256=sha256_file(folder / GGUF_FILE),
        lineage=(*original.lineage, f"{kind} by {VERSION}"),
        kept=(),
        parts=(),
        parity=None,
    )
