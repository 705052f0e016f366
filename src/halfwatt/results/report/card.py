"""The model card: ``README.md`` of the winner's folder, as the Hugging Face Hub reads it (``card.md.j2``)."""

from __future__ import annotations

import json
import re
from pathlib import Path

from halfwatt.results.report.templates import render
from halfwatt.results.result import Result
from halfwatt.results.tables import delivered
from halfwatt.runtimes.registry import find_runtime

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_card(result: Result, *, licence: str | None = None) -> str:
    """The card of what is delivered.

    Args:
        licence: the base model's licence identifier, see `licence_of`; left out of the card when not known.
    """
    model, artifact = result.provenance.model, delivered(result).artifact
    base = model if _HUB_ID.fullmatch(model) else Path(model).name  # a path means nothing elsewhere
    runtime = find_runtime(artifact.runtime) if artifact else None
    fields = {
        "base_model": base,
        "base_model_relation": "quantized",
        "library_name": runtime.library if runtime else None,
        "pipeline_tag": "text-generation",
        "license": licence,
    }
    front_matter = {name: json.dumps(value) for name, value in fields.items() if value}  # JSON strings are YAML
    return render("card.md.j2", result, base=base, front_matter=front_matter)


def licence_of(folder: Path) -> str | None:
    """The licence that a model folder's own card states; None when it states none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    front = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    licence = re.search(r"^license:\s*[\"']?([\w.-]+)", front.group(1), flags=re.MULTILINE) if front else None
    return licence.group(1) if licence else None
