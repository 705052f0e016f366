"""The settings that verbs share, as typer reads them. Light: nothing here imports torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    auto = "auto"
    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


class RuntimeName(StrEnum):
    auto = "auto"
    torch_eager = "torch_eager"
    llamacpp = "llamacpp"


def file_option(*flags: str, help: str) -> Any:
    """An option that names a file; one that is not there is refused before anything is loaded."""
    return typer.Option(*flags, exists=True, dir_okay=False, help=help)


Model = Annotated[str, typer.Argument(help="a Hugging Face folder or hub id, a folder made by halfwatt, or 'demo'")]
Dialogues = Annotated[
    Path | None,
    file_option("--dialogues", "-d", help="chats: messages JSONL (.gz too), ShareGPT or Alpaca"),
]
MaxLoss = Annotated[
    str | None, typer.Option("--max-loss", help="perplexity that may be lost, such as 1% (the gate's default is 2%)")
]
Outside = Annotated[
    Path | None,
    file_option("--outside", help="other chats: what a model made for yours lost on them (default: the demo's)"),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="folder for the results")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Seed = Annotated[int, typer.Option("--seed", help="of sampling and of the order of windows")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]
OnDevice = Annotated[Device, typer.Option("--device", help="where the model runs")]
OfDtype = Annotated[Dtype, typer.Option("--dtype", help="of the original; auto = as stored")]
Offline = Annotated[bool, typer.Option("--offline", help="never ask the network")]
Template = Annotated[Path | None, file_option("--chat-template", help="for a model that has none")]
RaplRoot = Annotated[str | None, typer.Option("--rapl-root", help="a powercap tree, for containers and guests")]
Runtime = Annotated[RuntimeName, typer.Option("--runtime", help="auto = as commonly run")]
