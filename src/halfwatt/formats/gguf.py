"""Write a ChatModel as a GGUF file: the grid's integers as they are, everything else in 16 or 32 bits.

    matrix on the grid       Q8_0 or Q4_0 blocks with the same integers and fp16 scales
    other matrix             F16; BF16 or F32 where f16 does not hold its values, or what it is multiplied by
    position embedding       F32 (llama.cpp adds its rows to f32 activations)
    norm, bias               F32

Names and the meaning of the keys are llama.cpp's; which of them a network needs, and in which order its rows stand, its
`Architecture` says. Rows are put into that order with their integers and scales.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gguf
import torch
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from halfwatt.core.errors import ModelError
from halfwatt.core.files import new_folder, require_space, sha256_file
from halfwatt.core.settings import Access, RuntimeName
from halfwatt.formats.artifact import DRAFT_FILE, GGUF_FILE, Artifact, Part, home_of, write_artifact
from halfwatt.formats.base import require_writable
from halfwatt.formats.gguf_file import held_by_f16
from halfwatt.formats.gguf_reader import places, read_gguf
from halfwatt.formats.gguf_tokenizer import vocabulary, write_tokenizer
from halfwatt.models import ngram_table
from halfwatt.models.architectures.base import Placement
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.grid import BLOCK_BYTES, GROUP, GridTensor, dequantize, pack
from halfwatt.models.lineage import KeptLayer
from halfwatt.models.tokenizer import read_json
from halfwatt.models.weights import Weight, weights

F16_MAX = 65504.0
_OF_PHI3 = {"</s>", "<unk>", "<s>", "<|endoftext|>"}  # llama.cpp loads no file that is named after it and has not these
PRECISIONS = {Type.Q4_0: "int4", Type.Q8_0: "int8", Type.F16: "f16", Type.BF16: "bf16", Type.F32: "f32"}
_VALUE_TYPES = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
    str: gguf.GGUFValueType.STRING,
}
_FILE_TYPES = {16: gguf.LlamaFileType.MOSTLY_F16, 8: gguf.LlamaFileType.MOSTLY_Q8_0, 4: gguf.LlamaFileType.MOSTLY_Q4_0}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as it stands in the file: uint8 [rows, bytes] with a ``kind``, or float16/float32.

    weight: what it is in the network; None = no matrix
    read:   share of it that a decode step reads
    """

    name: str
    data: NDArray[Any]
    kind: Type
    weight: Weight | None = None
    read: float = 1.0


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds. Bytes are of tensors, without the header."""

    kept: tuple[KeptLayer, ...]
    parts: tuple[Part, ...]

    @property
    def size_b(self) -> int:
        """Of all tensors."""
        return sum(part.size_b for part in self.parts)

    @property
    def weights_read_b(self) -> int:
        """By one decode step: all but the tables of which one row is looked up."""
        return sum(part.read_b for part in self.parts)


@dataclass(frozen=True, slots=True)
class Gguf:
    """Implements `halfwatt.formats.base.Format`."""

    wide: frozenset[str] = frozenset()
    """Weights that llama.cpp cannot multiply by in 16-bit floats with f16's range: their inputs leave it."""

    name: ClassVar[str] = "gguf"
    runtime: ClassVar[RuntimeName] = "llamacpp"

    def reads(self, source: str | Path) -> bool:
        """A file named .gguf, or a folder that holds one and no config.json."""
        path = Path(source)
        return path.suffix == ".gguf" or (not (path / "config.json").exists() and any(path.glob("*.gguf")))

    def read(self, source: str | Path, access: Access) -> ChatModel:
        """See `halfwatt.formats.gguf_reader.read_gguf`.

        Raises:
            ModelError: there is no such file, or several of them in the folder, or it cannot be used.
        """
        path = Path(source)
        files = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
        if len(files) != 1:
            got = ", ".join(file.name for file in files[:3])
            raise ModelError(f"{source} holds several GGUF files", got=got, hint="give the path of one")
        if not path.exists():
            raise ModelError(f"there is no file {path}")
        return read_gguf(files[0], access)

    def problems(self, model: ChatModel) -> list[str]:
        """What llama.cpp would compute differently, what GGUF cannot hold, weights that are not finite."""
        config = model.network.config
        problems = model.architecture.problems(config)
        try:
            vocabulary(model.tokenizer, config.vocab_size)
        except ModelError as error:
            problems.append(str(error))
        bad = [w.name for w in weights(model.network) if w.name not in model.grid and not w.rows().isfinite().all()]
        return problems + ([f"not finite: {', '.join(bad)}"] if bad else [])

    def write(self, model: ChatModel, folder: Path) -> Artifact:
        """Write ``model.gguf``, the tokenizer, template and configuration files, and ``artifact.json``.

        Raises:
            BadInput: the folder exists already. ModelError: `problems` names some. EnvironmentFault: no room for it.
        """
        require_writable(model, self)
        require_space(folder, _about_b(model))
        with new_folder(folder) as part:
            written = write_gguf(model, part / GGUF_FILE, self.wide)
            write_companions(model, part)
            if model.draft is not None:
                ngram_table.write_table(model.draft, part / DRAFT_FILE)
            artifact = Artifact(
                path=folder,
                runtime=self.runtime,
                precision=precision(model),
                size_b=written.size_b,
                weights_read_b=written.weights_read_b,
                kv_b_per_token=2 * model.architecture.kv_numbers(model.network.config),
                sha256=sha256_file(part / GGUF_FILE),
                lineage=model.lineage,
                kept=written.kept,
                context=model.architecture.context_length(model.network.config),
                spent=model.spent,
                draft=None if model.draft is None else sha256_file(part / DRAFT_FILE),
                parts=written.parts,
            )
            write_artifact(artifact, part)
        return artifact


def write_gguf(model: ChatModel, to: Path, wide: Collection[str] = ()) -> Written:
    """Write ``model`` to the file ``to``. `Gguf.problems` says beforehand whether llama.cpp computes it as torch does.

    wide: see `Gguf`

    Raises:
        ModelError: a tensor or tokenizer that GGUF does not have; named.
    """
    config, own, tensors = model.network.config, model.architecture, tuple(_tensors(model, wide))
    writer = gguf.GGUFWriter(None, own.gguf_architecture(config))
    words, name = vocabulary(model.tokenizer, config.vocab_size), home_of(model.source).name
    if not re.search("phi-?3", name.lower()) or set(words.tokens) >= _OF_PHI3:
        writer.add_name(name)
    writer.add_array("halfwatt.lineage", list(model.lineage) or ["original"])
    for key, value in own.gguf_settings(config).items():
        if isinstance(value, list):
            writer.add_array(f"{writer.arch}.{key}", value)
        else:
            writer.add_key_value(f"{writer.arch}.{key}", value, _VALUE_TYPES[type(value)])
    bits = min([16, *(g.bits for g in model.grid.values())])
    writer.add_file_type(_FILE_TYPES[bits])
    if bits < 16:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_tokenizer(writer, words, model.tokenizer)
    for tensor in tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.kind)
    writer.write_header_to_file(to)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Written(tuple(_kept(model, tensors, wide)), tuple(parts_of(tensors)))


def _about_b(model: ChatModel) -> int:
    """Bytes of its matrices in a file."""
    on_grid = sum(BLOCK_BYTES[grid.bits] * grid.scale.numel() for grid in model.grid.values())
    return on_grid + sum(2 * w.parameter.numel() for w in weights(model.network) if w.name not in model.grid)


def write_companions(model: ChatModel, folder: Path) -> None:
    """The model's own sampling settings with the whole list of stop tokens, and the tokenizer with its template.

    No config.json: the GGUF file holds the settings, and with one there transformers needs torch to read a tokenizer.
    """
    path = home_of(model.source) / "generation_config.json"
    own = model.network.generation_config.to_dict()  # ids in it go by the vocabulary, which may have been trimmed
    generation = {name: own.get(name, value) for name, value in (read_json(path) if path.exists() else {}).items()}
    generation["eos_token_id"] = list(model.tokenizer.eos_ids)
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2), encoding="utf-8")
    model.tokenizer.save(folder, plain=True)


def precision(model: ChatModel) -> str:
    """ "f16", "int8", "int4+int8 head", "int4+int8 embedding", or a list where layers differ more than that."""
    if not model.grid:
        return "f16"
    bits: dict[str, set[int]] = {"body": set(), "head": set(), "embedding": set()}
    for weight in weights(model.network):
        if weight.name in model.grid and weight.role != "positions":
            bits[weight.role].add(model.grid[weight.name].bits)
    body, head, embedding = ("/".join(f"int{b}" for b in sorted(some)) for some in bits.values())
    parts = [body, f"{head} head" if head not in ("", body) else "", f"{embedding} embedding"]
    if embedding in ("", head or body):
        parts.pop()
    return "+".join(part for part in parts if part)


def _tensors(model: ChatModel, wide: Collection[str]) -> Iterator[Tensor]:
    config, own = model.network.config, model.architecture
    matrices, parameters = {w.name: w for w in weights(model.network)}, dict(model.network.named_parameters())
    for place in places(own, config, model.network):
        if (matrix := matrices.get(place.parameter)) is not None:
            grid, is_wide = model.grid.get(place.parameter), place.parameter in wide
            data, kind = _matrix(matrix, grid, place.placement, wide=is_wide)
        else:
            values = own.gguf_values(place.parameter, parameters[place.parameter].detach().float())
            data, kind = _ordered(values, place.placement.rows).contiguous().numpy(force=True), Type.F32
        yield Tensor(place.tensor, data, kind, matrix, 0.0 if matrix and matrix.looked_up else 1.0)
    for name, values in own.gguf_tensors(config).items():
        yield Tensor(name, values.numpy(), Type.F32)


def _ordered(tensor: torch.Tensor, rows: torch.Tensor | None, columns: torch.Tensor | None = None) -> torch.Tensor:
    tensor = tensor if rows is None else tensor[rows.to(tensor.device)]
    return tensor if columns is None else tensor[:, columns.to(tensor.device)]


def _matrix(weight: Weight, grid: GridTensor | None, place: Placement, *, wide: bool) -> tuple[NDArray[Any], Type]:
    if grid is not None and not wide:
        groups = None if place.columns is None else place.columns[::GROUP] // GROUP  # they stay whole
        q, scale = _ordered(grid.q, place.rows, place.columns), _ordered(grid.scale, place.rows, groups)
        return pack(GridTensor(q, scale, grid.bits)).numpy(force=True), Type.Q8_0 if grid.bits == 8 else Type.Q4_0
    values = _ordered(weight.rows() if grid is None else dequantize(grid), place.rows, place.columns)
    if weight.role == "positions":
        return values.float().numpy(force=True), Type.F32
    if not wide and held_by_f16(values):
        return values.to(torch.float16).contiguous().numpy(force=True), Type.F16
    if values.dtype == torch.bfloat16:
        return values.contiguous().view(torch.uint8).numpy(force=True), Type.BF16
    return values.float().contiguous().numpy(force=True), Type.F32


def _kept(model: ChatModel, tensors: tuple[Tensor, ...], wide: Collection[str]) -> Iterator[KeptLayer]:
    """What stayed at higher precision than asked, as which type: off the grid, or outside f16's range."""
    asked = {k.tensor: k.reason for k in model.kept}
    for weight, kind in ((t.weight, t.kind) for t in tensors if t.weight is not None):
        beyond = weight.role != "positions" and kind in (Type.BF16, Type.F32)
        what = "its inputs leave" if weight.name in wide else "its values leave"
        reasons = (f"{what} f16's range" if beyond else None, asked.get(weight.name))
        if any(reasons):
            yield KeptLayer(weight.name, kind.name.lower(), "; ".join(filter(None, reasons)))


def parts_of(tensors: Sequence[Tensor]) -> Iterator[Part]:
    """The tensors by where a pass meets them."""
    tied = not any(t.name == "output.weight" for t in tensors)
    by_part: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        by_part.setdefault(_part_of(tensor.name, tied), []).append(tensor)
    for name, some in by_part.items():
        kinds = {t.kind for t in some if len(t.data) > 1 and t.data.ndim > 1} or {t.kind for t in some}
        names = sorted({PRECISIONS.get(kind, kind.name) for kind in kinds})
        read_b = sum(round(t.read * t.data.nbytes) for t in some)
        yield Part(name, "/".join(names), sum(t.data.nbytes for t in some), read_b)


def _part_of(tensor: str, tied: bool) -> str:
    """``blk.3.ffn_up.weight`` belongs to "block 3, FFN"."""
    if tensor.startswith("blk."):
        _, number, rest = tensor.split(".", 2)
        return f"block {number}, {'FFN' if rest.startswith('ffn') else 'attention'}"
    if tensor.startswith(("token_embd.", "position_embd.")):
        return "embedding and head" if tied and tensor.startswith("token") else "embedding"
    return "head" if tensor.startswith("output.") else "last norm"
