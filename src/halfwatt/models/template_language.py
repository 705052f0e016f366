"""Jinja as chat templates speak it, in jinja2's immutable sandbox: what transformers adds to the language, without its
import, which takes longer than most processes here live before their first prompt. Tests compare the two.

Known to templates beyond Jinja: ``raise_exception(text)``, ``strftime_now(format)``, ``{% generation %}``, ``break``
and ``continue``, and a ``tojson`` that escapes nothing (huggingface.co/docs/transformers/chat_templating_writing).
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class _Generation(Extension):
    """What the assistant wrote, marked for those who train; nothing but its text here."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """For jinja2, at the tag."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Macro) -> str:
        return str(caller())


class _Dict:
    """Makes dicts. Python's own type would lend its methods, which change what the sandbox keeps as it is."""

    def __call__(self, *pairs: Any, **entries: Any) -> dict[Any, Any]:
        return dict(*pairs, **entries)

    def fromkeys(self, *given: Any) -> dict[Any, Any]:
        return dict.fromkeys(*given)


class _Namespace(Namespace):
    """Holds no names that begin with an underscore: those are Python's."""

    def __init__(self, /, *pairs: Any, **entries: Any) -> None:
        entries = dict(*pairs, **entries)
        for name in entries:
            _require_own(name)
        super().__init__(entries)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_own(name)
        super().__setitem__(name, value)


def _require_own(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace holds no {name!r}")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache
def compiled(template: str) -> Template:
    """Raises jinja2's TemplateSyntaxError."""
    language = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    language.filters["tojson"] = _tojson
    language.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),  # the user's own clock, as everywhere
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return language.from_string(template)
