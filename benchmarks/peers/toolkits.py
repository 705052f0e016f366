"""The toolkits that live in environments of their own: what is made by each, and the workers that serve it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers import autoround, environments, onnxruntime, openvino, torchao
from benchmarks.peers.serving import FILES
from halfwatt.core.files import new_folder, write_atomic
from halfwatt.core.types import Progress
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import GGUF_FILE, Artifact, read_artifact, write_artifact
from halfwatt.models.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True)
class Toolkit:
    """module: of this package, which makes and serves its kinds of model; ``careful``: what else it makes with
    dialogues, which takes as much a reply as the kind that it is a better one of."""

    name: str
    module: str
    kinds: tuple[str, ...]
    careful: tuple[str, ...] = ()


TOOLKITS = (
    Toolkit("OpenVINO", "openvino", openvino.KINDS, (openvino.DATA_AWARE,)),
    Toolkit("ONNX Runtime GenAI", "onnxruntime", tuple(onnxruntime.KINDS)),
    Toolkit("torchao", "torchao", torchao.KINDS),
    Toolkit("AutoRound", "autoround", autoround.KINDS),
)


@dataclass(frozen=True, slots=True)
class Workshop:
    """A toolkit whose environment is ready."""

    toolkit: Toolkit
    python: Path

    @property
    def serves(self) -> tuple[str, ...]:
        """The command of its worker."""
        return environments.program(self.python, self.toolkit.module, "serve")

    def build(self, kind: str, model: Path, original: Artifact, texts: Path, to: Path) -> Artifact:
        """One kind of ``model``, made once.

        Args:
            original: the same model in the runtime that B1 uses; its tokenizer is served with.
            texts: see `written`.

        Raises:
            CalledProcessError: the toolkit failed; what it said is on stderr.
        """
        if not to.exists():
            with new_folder(to) as part:
                shutil.copytree(original.path, part, dirs_exist_ok=True)
                (part / GGUF_FILE).unlink()
                orders = ("make", kind, str(model), str(texts), str(part / FILES))
                description = environments.run_json(environments.program(self.python, self.toolkit.module, *orders))
                artifact = replace(
                    original,
                    path=to,
                    runtime=self.toolkit.module,
                    precision=kind,
                    size_b=description["size_b"],
                    weights_read_b=description["weights_read_b"],
                    sha256="",  # it may be a folder of many files, which only its own runtime reads
                    lineage=(*original.lineage, description["version"]),
                    kept=(),
                    parts=(),
                    parity=None,
                )
                write_artifact(artifact, part)
        return read_artifact(to)


def workshops(names: Sequence[str], at: Path, progress: Progress) -> list[Workshop]:
    """Of the toolkits whose modules are named."""
    toolkits = [toolkit for toolkit in TOOLKITS if toolkit.module in names]
    return [Workshop(toolkit, environments.interpreter(toolkit.module, at, progress)) for toolkit in toolkits]


def write_texts(dialogues: Sequence[Dialogue], tokenizer: ChatTokenizer, to: Path) -> Path:
    """Rendered dialogues to calibrate on, a JSON string a line."""
    lines = [json.dumps(tokenizer.render(dialogue, prompt=False)) for dialogue in dialogues]
    write_atomic(to, "".join(f"{line}\n" for line in lines).encode())
    return to
