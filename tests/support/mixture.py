"""An original that llama.cpp runs and nothing here opens: a tiny mixture of two experts, as a GGUF file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import load
from tests.support import tiny_models as tiny

EXPERTS = 2


def mixture(into: Path) -> Path:
    """``into/mixture.gguf``: a tiny Llama whose FFN and one of other numbers are experts; a token reads one of them."""
    source = Gguf().write(load(tiny.folder(into, "llama", tied=False)), into / "dense").path / "model.gguf"
    reader, to = gguf.GGUFReader(source), into / "mixture.gguf"
    writer, draw = gguf.GGUFWriter(None, "llama"), np.random.default_rng(0)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in writer.kv_data[0]:
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(1)
    for tensor in reader.tensors:
        if ".ffn_" not in tensor.name or "norm" in tensor.name:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            experts = np.stack([tensor.data, tensor.data[::-1]])
            writer.add_tensor(tensor.name.replace(".weight", "_exps.weight"), experts, raw_dtype=tensor.tensor_type)
        if tensor.name.endswith("ffn_norm.weight"):
            router = draw.standard_normal((EXPERTS, len(tensor.data)), np.float32)
            writer.add_tensor(tensor.name.replace("ffn_norm", "ffn_gate_inp"), router)
    writer.write_header_to_file(to)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to
