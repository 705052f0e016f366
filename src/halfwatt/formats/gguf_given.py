"""A GGUF file that the user gave, as an artifact: served as it is, whatever its types and its family."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Type
from transformers import PreTrainedModel

from halfwatt.core.files import link_or_copy, new_folder, sha256_file
from halfwatt.formats.artifact import GGUF_FILE, Artifact, write_artifact
from halfwatt.formats.gguf import PRECISIONS, Gguf, Tensor, parts_of, write_companions
from halfwatt.formats.gguf_file import GgufFile, lineage_of, loaded_from
from halfwatt.models.chat_model import ChatModel

_FLOATS = (Type.F32, Type.F16, Type.BF16)


def is_gguf(model: ChatModel) -> bool:
    """Is it what a file holds that llama.cpp serves as it is? Not what a step has made of that."""
    source, lineage = model.source, model.lineage
    return source.is_file() and (lineage == loaded_from(source) or lineage == lineage_of(GgufFile.open(source)))


def is_as_given(artifact: Artifact, model: ChatModel) -> bool:
    """Is it the file that the model was read from, of which nothing was exported?"""
    return is_gguf(model) and artifact.sha256 == sha256_file(model.source)


def as_transformers_loads(model: ChatModel) -> ChatModel:
    """In float32, as transformers loads a file of rounded numbers by default; else the model itself."""
    if not is_gguf(model) or all(t.kind in _FLOATS for t in GgufFile.open(model.source).stored.values()):
        return model
    network: PreTrainedModel = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
    return replace(model, network=network)


def as_given(model: ChatModel, folder: Path) -> Artifact:
    """The file that ``model`` was read from, linked into ``folder`` beside its tokenizer and stop tokens as read.

    Raises:
        BadInput: the folder exists already. ModelError: the file cannot be read any more.
    """
    file = GgufFile.open(model.source)
    parts = tuple(parts_of(_tensors(file)))
    sizes = Counter[Type]()
    for tensor in file.stored.values():
        sizes[tensor.kind] += tensor.data.nbytes
    [(most, _)] = sizes.most_common(1)
    with new_folder(folder) as part:
        link_or_copy(model.source, part / GGUF_FILE)
        write_companions(model, part)
        artifact = Artifact(
            path=folder,
            runtime=Gguf.runtime,
            precision=f"{PRECISIONS.get(most, most.name)}, as given",
            size_b=sum(p.size_b for p in parts),
            weights_read_b=sum(p.read_b for p in parts),
            kv_b_per_token=2 * _kv_numbers(file.settings),
            sha256=sha256_file(part / GGUF_FILE),
            lineage=model.lineage,
            spent=model.spent,
            context=model.context,
            parts=parts,
        )
        write_artifact(artifact, part)
    return artifact


def _tensors(file: GgufFile) -> list[Tensor]:
    """A table is looked up; of a mixture of experts a token reads those that it is sent to."""
    keys, tables = file.settings, {"position_embd.weight", "per_layer_token_embd.weight"}
    tables |= {"token_embd.weight"} if "output.weight" in file else set()
    sent = keys.get("expert_used_count", 1) / max(1, keys.get("expert_count", 1))
    shares = {name: 0.0 if name in tables else sent if "_exps." in name else 1.0 for name in file}
    return [Tensor(name, t.data, t.kind, read=shares[name]) for name, t in file.stored.items()]


def _kv_numbers(keys: dict[str, Any]) -> int:
    """Numbers that a token adds to the KV cache; an architecture with a state in its place has none."""
    if not (heads := keys.get("attention.head_count", 0)) or isinstance(heads, list):
        return 0
    size = keys["embedding_length"] // heads
    kept = keys.get("attention.head_count_kv", heads)
    kept = sum(kept) if isinstance(kept, list) else kept * keys["block_count"]
    return int(kept * (keys.get("attention.key_length", size) + keys.get("attention.value_length", size)))
