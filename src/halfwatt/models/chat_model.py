"""A chat model: network, tokenizer with chat template, stop tokens, sampling, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from halfwatt.core.errors import BadInput, EnvironmentFault, ModelError, first_line
from halfwatt.core.files import new_folder, require_space
from halfwatt.core.json_records import to_json
from halfwatt.dialogues.dialogue import first_faults
from halfwatt.meters.cost import Cost
from halfwatt.models import model_folder
from halfwatt.models.architectures.base import Architecture
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.grid import GridTensor
from halfwatt.models.lineage import ORIGIN, KeptLayer, Origin, read_origin
from halfwatt.models.ngram_table import NgramTable
from halfwatt.models.sampling import Sampling, own_settings, read_sampling
from halfwatt.models.template_sandbox import probe
from halfwatt.models.tokenizer import ChatTokenizer, from_pretrained, read_json, read_template

_NO_SCALING = "rope_theta", "partial_rotary_factor"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True, eq=False)
class ChatModel:
    """One model. Steps return a new one by `dataclasses.replace`; nothing is changed in place.

    network:     evaluation mode, on one device
    generation:  the model's own sampling, from its generation_config.json
    lineage:     how it was made, oldest first
    source:      the folder, or GGUF file, that it was loaded from
    sha256:      of the weights, configs, tokenizer and template that were loaded; with ``lineage`` it names the model
    grid:        tensor name -> its integers and scales, for the weights that are on a grid; the network holds s * q
    kept:        tensors that stayed at higher precision, and why
    spent:       what each training in its lineage has used
    draft:       what it mostly says next, for runtimes that let it check guesses
    given:       tensor name -> integers and scales as the file stores them that it was read from; what a step changed
                 since is not that any more
    run_only:    why only a runtime computes the original; "" = it does not. Then ``network`` is a Llama-shaped outline
                 on torch's "meta" device with the original's vocabulary and context: sizes for a student, no weights
    """

    network: PreTrainedModel
    tokenizer: ChatTokenizer
    generation: Sampling
    lineage: tuple[str, ...]
    source: Path
    sha256: str
    grid: Mapping[str, GridTensor] = field(default_factory=dict)
    kept: tuple[KeptLayer, ...] = ()
    spent: tuple[Cost, ...] = ()
    draft: NgramTable | None = None
    given: Mapping[str, GridTensor] = field(default_factory=dict)
    run_only: str = ""

    @property
    def architecture(self) -> Architecture:
        """What its family is like."""
        return architecture_of(self.network)

    @property
    def context(self) -> int:
        """Tokens of prompt and reply together that the network was made for."""
        return int(self.network.config.max_position_embeddings)

    def save(self, folder: str | Path) -> None:
        """Write a Hugging Face folder that transformers, vLLM and llama.cpp's converter load: all of it or nothing.

        Raises:
            BadInput: ``folder`` holds something already.
            ModelError: it can only be run.
            EnvironmentFault: the disk is too full.
        """
        if self.run_only:
            raise ModelError(f"{self.source.name} can only be run, not saved", got=self.run_only)
        require_space(Path(folder), sum(p.nbytes for p in self.network.parameters()))
        with new_folder(Path(folder)) as part:
            write(self, part)


def load(
    path_or_id: str | Path,
    *,
    chat_template: Path | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    offline: bool = False,
) -> ChatModel:
    """Load a Hugging Face folder or hub id. Everything is checked before the network is built.

    Args:
        chat_template: a file with the Jinja template, instead of the model's own.
        dtype: "auto" (as stored), "bf16", "fp16" or "fp32".

    Raises:
        ModelError: unsafe, damaged, unsupported or incomplete; names what is.
        EnvironmentFault: no such device here, or the hub cannot be reached.
    """
    want, where = torch_dtype(dtype), torch_device(device)
    folder = model_folder.find(path_or_id, offline=offline)
    own = model_folder.check_config(folder)
    files = model_folder.weight_files(folder)
    return _assemble(folder, files, chat_template, path_or_id, partial(_network, folder, files, own, want, where))


def outline(path_or_id: str | Path, *, chat_template: Path | None = None, offline: bool = False) -> ChatModel:
    """A model's sizes, tokenizer and settings without its weights, which need not be there: tensors on torch's "meta".

    Raises:
        ModelError: unsupported or incomplete; names what is. EnvironmentFault: the hub cannot be reached.
    """
    folder = model_folder.find(path_or_id, offline=offline)
    model_folder.check_config(folder)
    return _assemble(folder, (), chat_template, path_or_id, partial(_empty, folder))


def _assemble(
    folder: Path, files: tuple[Path, ...], template: Path | None, name: str | Path, build: Callable[[], PreTrainedModel]
) -> ChatModel:
    """Everything but the network is read and checked before ``build`` makes it."""
    text = None if template is None else read_template(template)
    tokenizer = ChatTokenizer.load(folder, text)
    probe(tokenizer.template, tokenizer.hf.special_tokens_map)
    generation = read_sampling(folder)
    origin = read_origin(folder) or Origin((f"loaded from {name if isinstance(name, str) else folder.name}",))
    network = build()
    _check_vocabulary(network, tokenizer, own_settings(folder))
    sha256 = model_folder.fingerprint(folder, files, text)
    return ChatModel(network, tokenizer, generation, origin.lineage, folder.absolute(), sha256, spent=origin.spent)


def write(model: ChatModel, folder: Path) -> None:
    """The files of `ChatModel.save`, into a folder that exists."""
    generation = model.network.generation_config
    model.network.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]  # its own may only be read
    try:
        with quiet():
            model.network.save_pretrained(folder)
    finally:
        model.network.generation_config = generation
    _for_transformers_4(folder / "config.json", model.architecture)
    entries = json.loads(generation.to_json_string(use_diff=True, keys_to_pop=["compile_config"]))
    entries |= {"eos_token_id": list(model.tokenizer.eos_ids), "pad_token_id": model.tokenizer.pad_id}
    (folder / "generation_config.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    model.tokenizer.save(folder)
    (folder / ORIGIN).write_text(to_json(Origin(model.lineage, model.spent)), encoding="utf-8")


def _for_transformers_4(path: Path, architecture: Architecture) -> None:
    """Beside transformers 5's names for the angles of positions those that 4 reads, which takes a base of 10,000 where
    it finds none, and says nothing; and what the family says."""
    config = read_json(path)
    for entries in (config, config.get("text_config")):
        if isinstance(entries, dict) and (rope := entries.get("rope_parameters")):
            whole, near = rope.get("full_attention", rope), rope.get("sliding_attention")
            scaling = {key: value for key, value in whole.items() if key not in _NO_SCALING}
            entries |= {key: whole[key] for key in _NO_SCALING if key in whole}
            if scaling.get("rope_type", "default") != "default":
                entries["rope_scaling"] = scaling
            if near:
                entries["rope_local_base_freq"] = near["rope_theta"]
    config |= architecture.entries_for_4(config)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def torch_dtype(name: str) -> torch.dtype | None:
    """The torch type of a ``--dtype``; None for "auto".

    Raises:
        BadInput: unknown name.
    """
    if name != "auto" and name not in _DTYPES:
        raise BadInput("unknown --dtype", got=name, hint="use auto, bf16, fp16 or fp32")
    return _DTYPES.get(name)


def torch_device(name: str) -> torch.device:
    """The torch device of a ``--device``.

    Raises:
        BadInput: not the name of a device.
        EnvironmentFault: this machine, or this build of torch, has none of it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput("unknown --device", got=name, hint="use cpu, cuda, cuda:1 or mps") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        got = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        hint = "use --device cpu, or install a torch build for this device"
        raise EnvironmentFault(f"there is no device {name} here", got=got, hint=hint)
    return device


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and load reports; its faults come back as errors of ours."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _network(
    folder: Path, files: tuple[Path, ...], own: Architecture, dtype: torch.dtype | None, device: torch.device
) -> PreTrainedModel:
    """Check the files, build and load the network, and see that every tensor came from them and none was left over."""
    numbers = model_folder.check_tensors(files, own)
    try:
        with quiet():
            size = sum(p.numel() for p in _empty(folder).parameters())
            if size > 2 * numbers:  # what the files do not hold would fill the memory with random weights
                got = f"{size:,} numbers asked for, {numbers:,} stored"
                raise ModelError(f"config.json and the weights of {folder} do not fit together", got=got)
            network, info = from_pretrained(
                AutoModelForCausalLM,
                folder,
                dtype="auto" if dtype is None else dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are listed, and refused below
            )
    except ModelError:
        raise
    except Exception as error:  # a stranger's config can trip transformers anywhere
        raise ModelError(f"transformers cannot load {folder}", got=first_line(error)) from error
    _check_complete(folder, info)
    head, table = network.get_output_embeddings(), network.get_input_embeddings()
    if head is not None and head.weight is not table.weight:
        for config in (network.config, network.config.get_text_config()):
            config.tie_word_embeddings = False  # config.json may say otherwise; whoever builds it anew has to know
    loaded: PreTrainedModel = network.eval().to(device)
    return loaded


def _empty(folder: Path) -> PreTrainedModel:
    """The network that config.json asks for, without memory for its weights."""
    config = from_pretrained(AutoConfig, folder)
    with torch.device("meta"):
        network: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return network


def _check_complete(folder: Path, info: dict[str, Any]) -> None:
    left_over = [name for name in info["unexpected_keys"] if not name.endswith(model_folder.COMPUTED)]
    wrong = [f"{name} {tuple(stored)} instead of {tuple(want)}" for name, stored, want in info["mismatched_keys"]]
    for fault, names in (
        ("are not complete", info["missing_keys"]),
        ("hold tensors that config.json does not know", left_over),
        ("have other shapes than config.json says", wrong),
    ):
        if names:
            got = first_faults(sorted(names), 5)
            raise ModelError(f"the weights of {folder} {fault}", got=got, hint="fetch them again")


def _check_vocabulary(network: PreTrainedModel, tokenizer: ChatTokenizer, own: dict[str, Any]) -> None:
    embedding: Any = network.get_input_embeddings()
    rows = embedding.num_embeddings
    if rows < tokenizer.vocab_size:
        raise ModelError(
            "the tokenizer has more tokens than the model has embeddings",
            got=f"{tokenizer.vocab_size} tokens, {rows} embeddings",
            hint="use the tokenizer that the model was trained with",
        )
    forced = (own.get(name, []) for name in ("forced_bos_token_id", "forced_eos_token_id"))
    always = [i for ids in forced for i in (ids if isinstance(ids, list) else [ids])]
    for kind, ids in (("stop", tokenizer.eos_ids), ("forced", always)):
        if beyond := [i for i in ids if i >= rows]:
            raise ModelError(f"a {kind} token lies outside the vocabulary", got=f"{beyond[0]}, {rows} embeddings")
