"""The embedded demo: a small smart-home and customer-service assistant, and dialogues in three disjoint splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from halfwatt.dialogues.dialogue import DialogueSet, Split

_HERE = Path(__file__).parent
_LICENCE = "CC BY-SA 4.0, CDLA-Sharing-1.0, MIT, BSD-3-Clause; per source in LICENCES.md"


def path() -> Path:
    """The folder of the demo model: bf16 safetensors, tokenizer, template, model card."""
    return _HERE / "model"


def students() -> tuple[Path, ...]:
    """Folders of smaller models that the demo model has taught (docs/ladder.md); a search of it begins with them."""
    return tuple(sorted(record.parent for record in (_HERE / "students").glob("*/halfwatt.json")))


def dialogues(split: Split) -> DialogueSet:
    """Those to learn from ("train"), to choose by ("tune"), or sealed for the winner ("test")."""
    from halfwatt.dialogues.readers import read_dialogues

    return read_dialogues(_HERE / f"dialogues.{split}.jsonl.gz", split=split, licence=_LICENCE)
