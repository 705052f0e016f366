"""A stranger's model folder, checked before anything of it is used; a pickle is refused and never opened."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from halfwatt.core.errors import EnvironmentFault, ModelError
from halfwatt.core.files import sha256_files
from halfwatt.dialogues.dialogue import first_faults
from halfwatt.models.architectures.base import Architecture
from halfwatt.models.architectures.registry import named_in
from halfwatt.models.tokenizer import TEMPLATE_FILE, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
COMPUTED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")  # buffers of old checkpoints, by their endings
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_CONFIGS = ("config.json", "generation_config.json", INDEX, TEMPLATE_FILE, "tokenizer.json", "tokenizer_config.json")
_VOCABULARY = ("tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_GIVE = "give a model folder, or a hub id such as org/name"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def find(path_or_id: str | Path, *, offline: bool = False) -> Path:
    """The folder itself, or the hub's snapshot of it (safetensors, JSON, templates and vocabularies only).

    Raises:
        ModelError: there is no such folder or hub id.
        EnvironmentFault: the hub cannot be reached, or must not be and the cache has no copy.
    """
    path = Path(path_or_id)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{path} is a file", hint="give the Hugging Face folder that holds config.json")
    if isinstance(path_or_id, Path) or not _HUB_ID.fullmatch(path_or_id):
        raise ModelError(f"there is no folder {path}", hint=_GIVE)
    return _snapshot(path_or_id, offline)


def _snapshot(hub_id: str, offline: bool) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        snapshot = snapshot_download(
            hub_id,
            local_files_only=offline,
            allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model"],
            ignore_patterns=["*/*"],
        )
    except errors.GatedRepoError as error:
        hint = "accept it on the hub, then set HF_TOKEN"
        raise ModelError(f"{hub_id} needs its licence accepted", hint=hint) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(f"there is neither a folder nor a hub model {hub_id}", hint=_GIVE) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise EnvironmentFault(
            f"{hub_id} is not a folder here, not in the Hugging Face cache, and the hub was not reached",
            hint="give a model folder, or go online and unset HF_HUB_OFFLINE and --offline",
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        hint = "check the network, or give a model folder"
        raise EnvironmentFault(f"{hub_id} cannot be fetched", got=type(error).__name__, hint=hint) from error
    return Path(snapshot)


def check_config(folder: Path) -> Architecture:
    """The architecture of the model, which has to be supported and unquantized, by its config.json.

    Raises:
        ModelError: it is not; names what was found and what is supported.
    """
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} is not a model folder", got="no config.json", hint="give a Hugging Face folder")
    config = read_json(_inside(folder, "config.json"))
    if (folder / "adapter_config.json").exists():
        hint = "merge it into its base model first (peft: merge_and_unload)"
        raise ModelError(f"{folder} holds an adapter", hint=hint)
    if (quantized := config.get("quantization_config")) is not None:
        got = f"quant_method {quantized.get('quant_method', 'unknown') if isinstance(quantized, dict) else 'unknown'}"
        raise ModelError(f"{folder} is quantized already", got=got, hint="give the model that it was made from")
    return named_in(config, str(folder))


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of ``folder``: the single one, or the shards that the index names.

    Raises:
        ModelError: there are none, only pickles, or a name that leaves the folder.
    """
    if (folder / SINGLE).exists():
        return (_inside(folder, SINGLE),)
    if (folder / INDEX).exists():
        named = read_json(_inside(folder, INDEX)).get("weight_map")
        if not isinstance(named, dict) or not named or not all(isinstance(n, str) for n in named.values()):
            raise ModelError(f"{folder / INDEX} has no weight_map of tensor and file names")
        return tuple(_inside(folder, name) for name in sorted(set(named.values())))
    if pickles := sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES):
        what = f"{folder} holds its weights only as pickles, which can run code when they are opened"
        hint = "convert it to safetensors where you trust it (transformers: save_pretrained)"
        raise ModelError(what, got=", ".join(pickles[:3]), hint=hint)
    raise ModelError(f"{folder} holds no weights", got=f"neither {SINGLE} nor {INDEX}")


def _inside(folder: Path, name: str) -> Path:
    """The file ``name`` of ``folder``; a symlink may only lead into the folder or its Hugging Face cache's blobs."""
    if name != Path(name).name or name in ("", ".", ".."):
        raise ModelError(f"{folder} names a file outside itself", got=name, hint="do not trust this model")
    path = folder / name
    if not path.exists():
        raise ModelError(f"{path} is missing", hint="fetch the model again")
    homes = [folder.resolve()]
    if folder.absolute().parent.name == "snapshots":
        homes.append(folder.absolute().parent.parent.resolve() / "blobs")
    if not any(path.resolve().is_relative_to(home) for home in homes):
        hint = "copy the file into the folder"
        raise ModelError(f"{path} is a link that leaves the folder", got=str(path.resolve()), hint=hint)
    return path


def check_tensors(files: Sequence[Path], own: Architecture) -> int:
    """Look at every tensor once; returns how many numbers there are.

    Raises:
        ModelError: a file is not sound safetensors; a tensor holds NaN or infinity; a matrix is all zero
            where none may be; the weights are integers or 8-bit floats. Names the tensors.
    """
    numbers, damaged = 0, []
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    tensor = file.get_tensor(name)
                    numbers += tensor.numel()
                    damaged += faults(name, tensor, may_be_zero=own.may_be_zero(name))
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path} is not sound safetensors", got=str(error), hint="fetch it again") from error
    if damaged:
        raise ModelError("the weights are damaged", got=first_faults(damaged, 5), hint="fetch or train it again")
    return numbers


def faults(name: str, tensor: torch.Tensor, *, may_be_zero: bool = False) -> list[str]:
    """What is wrong with the values of one tensor, in words."""
    if not tensor.numel() or name.endswith(COMPUTED):
        return []
    if tensor.dtype not in _FLOATS:
        return [f"{name} is {str(tensor.dtype).removeprefix('torch.')}, as in a model that is quantized already"]
    low, high = (float(v) for v in torch.aminmax(tensor))
    if math.isnan(low) or math.isnan(high):
        return [f"{name} holds NaN"]
    if math.isinf(low) or math.isinf(high):
        return [f"{name} holds infinity"]
    may_be_zero |= name.endswith(("bias", "norm.weight"))  # there are families that add 1 to the weights of norms
    return [f"{name} is all zero"] if low == high == 0.0 and not may_be_zero else []


def fingerprint(folder: Path, files: Sequence[Path], chat_template: str | None) -> str:
    """Hex digest of all that makes the model answer as it does: weights, configs, tokenizer, template."""
    more = {name for name in _CONFIGS + _VOCABULARY if (folder / name).is_file()}
    text = sha256_files(folder, {f.name for f in files} | more) + (chat_template or "")
    return hashlib.sha256(text.encode()).hexdigest()
