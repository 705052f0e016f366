"""Flags as dataclasses, one a verb: the settings as they are typed, and what a verb is told beside them. No torch.

A flag is explained by its field's docstring. A field that is called as one of `RunSettings` sets it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from cyclopts import Group, Parameter
from cyclopts.types import ExistingFile

from halfwatt.cli import output
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import Access, Budget, Device, Dtype, Precision, RunSettings, RuntimeChoice, SearchSettings
from halfwatt.serve.settings import ServeSettings

T = TypeVar("T")
Method = Literal["rtn", "hqq", "gptq", "qat"]

flat = Parameter(name="*")
Hidden = Parameter(parse=False)
Everywhere = Parameter(group=Group("Everywhere", sort_key=9))


@dataclass_transform(frozen_default=True, kw_only_default=True)
def flags(kind: type[T]) -> type[T]:
    """A frozen dataclass whose fields stand in the command line by their own names."""
    return flat(dataclass(frozen=True, kw_only=True)(kind))


def read_share(flag: str, most: int, example: str) -> Callable[[Any, Any], float]:
    """Reads ``1%`` or ``0.01`` as 0.01. most: percent that ``flag`` stays below"""

    def read(_kind: Any, tokens: Any) -> float:
        text: str = tokens[0].value
        try:
            value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            value = -1.0
        if not 0 < value < most / 100:
            raise BadInput(f"{flag} is a share between 0 and {most} %", got=text, hint=f"type {flag} {example}")
        return value

    return read


_LOSS = "Perplexity that may be lost, such as 1% (the gate's default is 2%)."
_PRECISION = "Of the products in training; auto = bf16 where the device computes it."
Model = Annotated[
    str, Parameter(help="A Hugging Face folder or hub id, a .gguf file, a folder made by halfwatt, or 'demo'.")
]
MaxLoss = Annotated[float | None, Parameter(converter=read_share("--max-loss", 50, "1%"), help=_LOSS)]
Cascade = Annotated[float | None, Parameter(converter=read_share("--cascade", 95, "20%"))]
OutFolder = Annotated[Path, Parameter(alias="-o", help="Folder for the results.")]
RaplRoot = Annotated[str | None, Parameter(help="A powercap tree, for containers and guests.")]
Runtime = Annotated[RuntimeChoice, Parameter(help="auto = as commonly run.")]
Judge = Annotated[
    str | None, Parameter(help="A model that tells whether replies fit what was asked; none = MODEL, or A.")
]
Base = Annotated[RunSettings, Hidden]  # what no flag says: `main` hands it over


@flags
class AccessFlags(Access):
    """For verbs that serve the model."""

    device: Device = "auto"
    dtype: Dtype = "auto"
    chat_template: ExistingFile | None = None
    run_only: Annotated[bool, Hidden] = False


@flags
class OriginalFlags(AccessFlags):
    """For `optimize`."""

    run_only: bool = False


@flags
class LearnerFlags(AccessFlags):
    """For verbs that see the model at work or let it learn."""

    device: Device = "auto"
    """Where it learns; auto = the GPU where torch sees one."""
    dtype: Annotated[Dtype, Hidden] = "auto"


@flags
class SourceFlags(LearnerFlags):
    """For verbs that only load it."""

    device: Annotated[Device, Hidden] = "auto"


@flags
class SearchFlags(SearchSettings):
    """What `optimize` may try, and for whom."""

    budget: Annotated[Budget | None, Hidden] = None
    candidates: Annotated[tuple[Path, ...], Parameter(name="--candidate")] = ()
    recipe: ExistingFile | None = None
    outside: Path | None = None
    cascade: Cascade = None


@flags
class Common:
    """Of every verb."""

    seed: Annotated[int, Everywhere] = 0
    """Of sampling and of the order of windows."""
    json: Annotated[bool, Everywhere] = False
    """One JSON document on stdout."""
    debug: Annotated[bool, Everywhere] = False
    """Show tracebacks."""

    def settings(self, base: RunSettings) -> RunSettings:
        """``base`` as the flags change it."""
        own: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(base) if hasattr(self, f.name)}
        for name, part in (("access", Access), ("search", SearchSettings)):
            if name in own:
                own[name] = part(**{f.name: getattr(own[name], f.name) for f in fields(part)})
        return replace(base, command=shlex.join(["halfwatt", *sys.argv[1:]]), progress=output.progress, **own)


@flags
class Talk(Common):
    """Of `chat`."""

    runtime: Runtime = "auto"
    access: AccessFlags = AccessFlags()
    rapl_root: RaplRoot = None


@flags
class Listening(ServeSettings):
    """Where a server listens, and how much it takes."""


@flags
class ServeFlags(Common):
    """Of `serve`."""

    access: AccessFlags = AccessFlags()
    rapl_root: RaplRoot = None
    serving: Listening = Listening()


@flags
class Reading(Common):
    """Of verbs that read dialogues."""

    dialogues: Annotated[Path | None, Parameter(alias="-d")] = None
    """Chats: messages JSONL (.gz too), ShareGPT, Alpaca or prompt and reply, a dataset folder, or demo, the demo's own;
    docs/dialogues.md."""
    skip_bad: bool = False
    """Leave out faulty dialogues, at most 1 % of all, and say which."""
    ignore: tuple[str, ...] = ()
    """A key of rows or messages to leave alone, though what it means is not honoured; as often as you like."""
    access: Access = SourceFlags()


@flags
class Serving(Reading):
    """Of verbs that ask the model, and meter it."""

    access: AccessFlags = AccessFlags()
    rapl_root: RaplRoot = None


@flags
class Search(Serving):
    """Of `optimize`."""

    max_loss: MaxLoss = None
    budget: str | None = None
    """Search for so long: 10m, 500kJ, 20 (trials)."""
    out: OutFolder = Path("out")
    judge: Judge = None
    access: OriginalFlags = OriginalFlags()
    search: SearchFlags = SearchFlags()


@flags
class Measuring(Serving):
    """Of `measure`."""

    runtime: Runtime = "auto"


@flags
class Comparing(Measuring):
    """Of `compare`."""

    max_loss: MaxLoss = None
    judge: Judge = None


@flags
class Planning(Reading):
    """Of `plan`."""

    hardware: str | None = None
    """Such as h100,m2,rpi5; not given = all it knows."""
    recipe: tuple[ExistingFile, ...] = ()
    """TOML, beside int8 and int4; repeatable."""
    batch: int = 1
    """Replies that are made together."""
    access: SourceFlags = SourceFlags()


@flags
class Loading(Reading):
    """Of `trim`."""

    out: OutFolder
    access: SourceFlags = SourceFlags()


@flags
class Seeing(Reading):
    """Of `prune`."""

    out: OutFolder
    access: LearnerFlags = LearnerFlags()


@flags
class Learning(Seeing):
    """Of `distil`."""

    teacher: Path | None = None
    """The model to learn from; MODEL itself if not given."""
    precision: Annotated[Precision, Parameter(help=_PRECISION)] = "auto"


@flags
class Rounding(Loading):
    """Of `quantize`."""

    method: Method = "rtn"
    """hqq = rtn with --scale-search hqq; gptq and qat learn from --dialogues."""
    device: Device | None = None
    """qat: where it learns; auto, the default = the GPU where torch sees one."""
    precision: Annotated[Precision | None, Parameter(help=f"qat: {_PRECISION}")] = None
