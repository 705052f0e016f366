"""A model in the form in which one runtime serves it: its folder and its record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from halfwatt.core.files import write_atomic
from halfwatt.core.json_records import read_own, to_json
from halfwatt.meters.cost import Cost
from halfwatt.models.lineage import KeptLayer


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a network in a file: what one decode step reads of it."""

    name: str  # "embedding", "block 3, FFN", "head"
    precision: str  # of its matrices: "int4", "int4/int8"
    size_b: int
    read_b: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """Written as ``artifact.json`` in its folder."""

    path: Path  # the folder
    runtime: str  # Runtime.name
    precision: str  # "bf16", "f16", "int8", "int4+int8 head", "int4+int8 embedding"
    size_b: int  # bytes of the weights on disk
    weights_read_b: int  # bytes of weights that one decode step reads (input-embedding row not counted)
    kv_b_per_token: int  # bytes of KV cache that one token of context adds at 16 bits
    sha256: str
    lineage: tuple[str, ...]  # how it was made, oldest first
    kept: tuple[KeptLayer, ...] = ()
    context: int | None = None  # the longest context the model was made for, in tokens
    spent: tuple[Cost, ...] = ()  # by each training in its lineage
    parity: Parity | None = None
    draft: str | None = None  # sha256 of its table of drafts; None = it has none
    parts: tuple[Part, ...] = ()  # in the order of a pass


@dataclass(frozen=True, slots=True)
class Parity:
    """Exported runtime against the in-memory model that was exported (gate G0)."""

    dialogues: int
    tokens: int
    token_ids_equal: bool
    template_equal: bool
    eos_equal: bool
    finite: bool
    kl_mean: float
    kl_max: float
    top1: float  # share of tokens where both prefer the same; near ties of the model in memory count as the same
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()  # what other programs would read otherwise, and its runtime leaves out
    kl_of_rounding: float | None = None  # that llama.cpp's rounding of activations explains; None = nothing to explain
    top1_of_rounding: float | None = None  # share of tokens where both prefer the same for all that it changes


ARTIFACT, GGUF_FILE, DRAFT_FILE = "artifact.json", "model.gguf", "draft.safetensors"
"""Names in an artifact's folder: its record, its weights where they are GGUF, its table of drafts."""
CASCADE_FILE = "cascade.json"
"""In a cascade's, which holds two artifacts."""


def home_of(source: Path) -> Path:
    """The artifact's folder that a file of ours belongs to, where its settings stand; else ``source`` itself."""
    return source.parent if source.name == GGUF_FILE and (source.parent / ARTIFACT).exists() else source


def write_artifact(artifact: Artifact, folder: Path) -> None:
    """Write the record into the artifact's folder, or into the one that will become it."""
    write_atomic(folder / ARTIFACT, to_json(artifact).encode())


def read_artifact(folder: Path) -> Artifact:
    """The artifact in ``folder``, wherever the folder was moved to.

    Raises:
        ModelError: the record is damaged, or another program's.
    """
    artifact = read_own(folder / ARTIFACT, Artifact)
    holds_model = any((folder / name).exists() for name in (GGUF_FILE, "config.json", CASCADE_FILE))
    return replace(artifact, path=folder) if holds_model else artifact
