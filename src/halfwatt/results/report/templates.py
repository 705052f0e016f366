"""The templates beside this file, filled in. They only lay out: energy arrives as a `formatting.Figure`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from halfwatt.results.report import formatting
from halfwatt.results.result import Result
from halfwatt.results.tables import champion, delivered, explained, meter, rows


def render(template: str, result: Result, **context: Any) -> str:
    """A result as text; in a page, what stands in it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["flat"] = _flat
    return environment.get_template(template).render(
        r=result,
        claim=result.claim,
        report=result.final_quality,
        rows=rows(result),
        info=meter(result),
        about=champion(result),
        delivered=delivered(result),
        words=formatting,
        causes=formatting.causes(explained(result)),
        **context,
    )


def _flat(text: str) -> str:
    """One line that cannot break out of a Markdown table or start markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
