"""Read a GGUF file as a ChatModel: weights dequantized one by one, tokenizer, template and stop tokens from its keys.

transformers reads GGUF too, and is not used: of scaled positions and of biases it drops what it does not know without
a word, it has no Granite, and its tokenizers are not llama.cpp's (docs/decisions.md has what was measured). Here the
architecture that wrote a file reads it, and what is left over or missing is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gguf
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from halfwatt.core.errors import ModelError, first_line
from halfwatt.core.files import sha256_file
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import first_faults
from halfwatt.formats.artifact import home_of, read_artifact
from halfwatt.formats.gguf_file import GRIDS, GgufFile, held_by_f16, lineage_of
from halfwatt.formats.gguf_vocabulary import read_tokenizer
from halfwatt.models import model_folder
from halfwatt.models.architectures.base import Architecture, Placement
from halfwatt.models.architectures.llama import outline
from halfwatt.models.architectures.registry import architectures, computing
from halfwatt.models.chat_model import ChatModel, quiet, torch_dtype
from halfwatt.models.grid import GridTensor
from halfwatt.models.sampling import read_sampling
from halfwatt.models.template_sandbox import probe
from halfwatt.models.tokenizer import ChatTokenizer, from_pretrained, read_json, read_template
from halfwatt.models.weights import weights

_FLOATS = {Type.BF16: torch.bfloat16, Type.F32: torch.float32}


class Unopenable(ModelError):
    """llama.cpp may run this file, but no network of ours computes it."""


def _outline(file: GgufFile, tokens: int) -> PreTrainedModel:
    """What stands for the network of an original that can only be run: see `ChatModel.run_only`."""
    rows = max(tokens, len(file.entries["tokenizer.ggml.tokens"]))
    context = int(file.settings.get("context_length", 0))
    if context <= 0:
        raise ModelError(f"{file.path} tells no context length", hint="fetch it again")
    return outline(rows, context)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parameter of the network, or some rows of it, stands in a file."""

    parameter: str
    tensor: str
    placement: Placement


def places(own: Architecture, config: Any, network: PreTrainedModel) -> Iterator[Place]:
    """Of every parameter, by llama.cpp's names.

    Raises:
        ModelError: one that the architecture does not have there.
    """
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == own.gguf_architecture(config))
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, parameter in network.named_parameters():
        for placement in own.gguf_placements(config, name, parameter.shape):
            if (mapped := names.get_name(placement.name, try_suffixes=(".weight", ".bias"))) is None:
                raise ModelError("a tensor that this architecture does not have in GGUF", got=name)
            yield Place(name, mapped, placement)


@dataclass(frozen=True, slots=True)
class StoredGrid(Mapping[str, GridTensor]):
    """The weights that a file stores on a grid of ours, by their names in the network; read when they are asked for."""

    file: GgufFile
    places: Mapping[str, Place]

    def __getitem__(self, name: str) -> GridTensor:
        place = self.places[name]
        if (grid := self.file.stored[place.tensor].grid()) is None:
            raise KeyError(name)
        rows = place.placement.rows
        return GridTensor(_in_our_order(grid.q, rows), _in_our_order(grid.scale, rows), grid.bits)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def read_gguf(path: Path, access: Access) -> ChatModel:
    """The model in a file, on the CPU; one that can only be run where no family opens it, or none is to.

    Raises:
        ModelError: torn, damaged, or without what a chat needs.
    """
    file = GgufFile.open(path)
    text = None if access.chat_template is None else read_template(access.chat_template)
    own = home_of(path.absolute())
    ours = own if own.is_dir() else None  # beside our own file stands what GGUF has no room for
    tokenizer = read_tokenizer(file.entries, path, text) if ours is None else ChatTokenizer.load(ours, text)
    probe(tokenizer.template, tokenizer.hf.special_tokens_map)
    reason, given = "", cast(Mapping[str, GridTensor], {})
    try:
        if access.run_only:
            raise Unopenable("it is to be run only")
        network, given = _network(file, *family(file), torch_dtype(access.dtype) or _dtype(file))
    except Unopenable as error:
        reason, network = str(error), _outline(file, tokenizer.vocab_size)
    if (rows := network.config.vocab_size) < tokenizer.vocab_size:
        raise ModelError(f"{path} has more tokens than embeddings", got=f"{tokenizer.vocab_size} tokens, {rows} rows")
    generation = read_sampling(ours or path)
    if ours is not None:
        network.generation_config = _generation_config(ours / "generation_config.json")
    network.config.eos_token_id = network.generation_config.eos_token_id = list(tokenizer.eos_ids)
    return ChatModel(
        network=network,
        tokenizer=tokenizer,
        generation=generation,
        lineage=lineage_of(file),
        source=path.absolute(),
        sha256=hashlib.sha256(f"{sha256_file(path)}{text or ''}".encode()).hexdigest()
        if ours is None
        else model_folder.fingerprint(ours, (path,), text),
        spent=() if ours is None else read_artifact(ours).spent,
        given=given,
        run_only=reason,
    )


def _generation_config(path: Path) -> GenerationConfig:
    try:
        with quiet():
            return GenerationConfig.from_dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path} asks for what cannot be", got=first_line(error)) from error


def family(file: GgufFile) -> tuple[Architecture, Any]:
    """What computes this file, and the config that it needs.

    Raises:
        Unopenable: nothing does.
    """
    unknown = f"{file.path} is of an architecture that cannot be opened"
    try:
        keys = file.settings | {"vocab_size": file.stored["token_embd.weight"].shape[0]}
        computed = computing(file.architecture, keys, file) if 0 < keys.get("block_count", 0) <= len(file) else None
    except ModelError:
        raise
    except Exception as error:  # a stranger's keys can trip transformers anywhere
        raise Unopenable(unknown, got=f"{type(error).__name__}: {first_line(error)}") from error
    if computed is None:
        known = sorted({own.gguf_name for own in architectures().values() if own.reads_gguf})
        got = file.architecture or "none named"
        raise Unopenable(unknown, got=got, hint=f"those that can are {', '.join(known)}")
    own, config = computed
    if problems := own.problems(config):
        raise Unopenable(unknown, got="; ".join(problems))
    return own, config


def _network(
    file: GgufFile, own: Architecture, config: Any, dtype: torch.dtype
) -> tuple[PreTrainedModel, Mapping[str, GridTensor]]:
    """Shapes are compared before memory is taken; then weights are read one by one into what the network keeps."""
    with torch.device("meta"):
        empty: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    transposed = {w.name for w in weights(empty) if w.transposed}
    shapes = {name: tuple(p.T.shape if name in transposed else p.shape) for name, p in empty.named_parameters()}
    where = {place.parameter: place for place in places(own, config, empty)}
    _check_complete(file, {where[name].tensor: shape for name, shape in shapes.items()}, own.gguf_tensors(config))
    state, faults = dict[str, torch.Tensor](), list[str]()
    for name, place in where.items():
        stored = file.stored[place.tensor]
        exact = stored.values(torch.float32 if len(stored.shape) == 1 else dtype)  # a norm may be stored with 1 added
        values = own.values_of_gguf(name, _in_our_order(exact, place.placement.rows)).to(dtype)
        faults += model_folder.faults(place.tensor, values, may_be_zero=own.may_be_zero(name))
        state[name] = values.T.contiguous() if name in transposed else values
    if faults:
        raise ModelError(f"the weights of {file.path} are damaged", got=first_faults(faults, 5), hint="fetch it again")
    factory: Any = getattr(transformers, own.class_name)
    with quiet():
        network: PreTrainedModel = from_pretrained(factory, None, config=config, state_dict=state, dtype=dtype)
    on_grid = {name: place for name, place in where.items() if file.stored[place.tensor].kind in GRIDS}
    return network.eval(), StoredGrid(file, on_grid)  # type: ignore[no-untyped-call]


def _check_complete(
    file: GgufFile, wanted: Mapping[str, tuple[int, ...]], computed: Mapping[str, torch.Tensor]
) -> None:
    """Every tensor has its place and its shape; those that are computed from the config are what it says."""
    own = {name for name, values in computed.items() if name in file and _alike(file[name], values)}
    if more := file.keys() - wanted.keys() - own:
        got = first_faults(sorted(more), 5)
        raise Unopenable(f"{file.path} holds what its architecture does not compute with", got=got)
    other = {n for n in wanted if n in file and file.stored[n].shape != wanted[n]}
    for fault, names in (("lacks tensors", wanted.keys() - file.keys()), ("has other shapes than its keys say", other)):
        if names:
            raise ModelError(f"{file.path} {fault}", got=first_faults(sorted(names), 5), hint="fetch it again")


def _alike(stored: torch.Tensor, computed: torch.Tensor) -> bool:
    return stored.shape == computed.shape and torch.allclose(stored, computed, rtol=1e-3)


def _dtype(file: GgufFile) -> torch.dtype:
    """As the matrices are stored; float16 where they are rounded, its 11 bits being finer than any steps, or where what
    is stored wider fits it as well, float32 else."""
    kinds = [t.kind for n, t in file.stored.items() if len(t.shape) > 1 and not n.startswith("position_embd.")]
    if len(set(kinds)) == 1 and kinds[0] in _FLOATS:
        return _FLOATS[kinds[0]]
    wider = (tensor.values() for tensor in file.stored.values() if tensor.kind in _FLOATS)
    held = (held_by_f16(v) if v.ndim > 1 else bool(v.to(torch.float16).isfinite().all()) for v in wider)
    return torch.float16 if all(held) else torch.float32


def _in_our_order(values: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return values if order is None else torch.empty_like(values).index_copy_(0, order, values)
