"""Templates are rendered as transformers renders them, and are kept as well inside."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from halfwatt.core.errors import ModelError
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.template_sandbox import Declined, render
from tests.support import tiny_models as tiny

TOKENS: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = Dialogue(
    "talk",
    (
        Message("system", 'Say "<b>" & ü'),
        Message("user", " Is it on?\n"),
        Message("assistant", "Yes."),
        Message("user", "Off!"),
    ),
)

SAYS = {
    "chatml": tiny.CHATML,
    "lines and blanks": "  {% for m in messages %}\n  {%- if loop.first %}\n\n{% endif %}\n\t{{ m.content }}\n"
    "  {# no #}\n{% endfor %}\n\n",
    "a name in a loop": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}",
    "names of all sorts": "{% set ns = namespace({'a': 1}, self=2) %}{{ ns.a }}{{ ns.self }}{{ ns.no is defined }}",
    "dicts": "{{ dict(a=1, **{'b': 2}) }}{{ dict([('c', 3)]) }}{{ dict.fromkeys('de', 4) }}",
    "JSON": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2, sort_keys=true) }}",
    "JSON, close": "{{ messages[1] | tojson(separators=(',', ':')) }}{{ 'ü' | tojson(ensure_ascii=true) }}",
    "loops that are left": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% set x = m.role %}{% generation %}{{ m.content }}{% set x = 'y' %}"
    "{% endgeneration %}{{ x }}{% endfor %}",
    "the year": "{{ strftime_now('%Y') }}",
    "what is given": "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ bos_token }}"
    "{{ eos_token }}{{ unk_token is defined }}",
    "macros and blocks": "{% macro of(m, end='.') %}{{ m.content ~ end }}{% endmacro %}"
    "{% set all %}{{ of(messages[1]) }}{% endset %}{{ all | trim }}",
    "slices": "{{ (messages[::-1] | selectattr('role', 'equalto', 'user') | map(attribute='content') | list)[0]"
    ".split('!')[0].strip().upper() }}",
}
REFUSES = {
    "its own words": "{{ raise_exception('only users') }}",
    "no syntax": "{% for m in %}",
    "no such filter": "{{ messages | nothing }}",
    "no such key": "{{ messages[9].content }}",
    "a type": "{{ 'a' + 1 }}",
    "a generation without an end": "{% generation %}a",
    "namespaces with names of Python's": "{% set ns = namespace(_a=1) %}",
    "namespaces that get one": "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "a changed list": "{{ messages.append(1) }}",
    "a changed dict": "{{ messages[0].update(a=1) }}",
    "dict's own methods": "{{ dict.update(messages[0], {'a': 1}) }}",
    "what begins with an underscore": "{{ messages._a.b }}",
}


def theirs(template: str, *, prompt: bool) -> str:
    talk = [{"role": m.role, "content": m.content} for m in TALK.messages]
    texts = render_jinja_template([talk], chat_template=template, add_generation_prompt=prompt, **TOKENS)
    return str(texts[0][0])


@pytest.mark.parametrize("name", SAYS)
def test_it_says_what_transformers_would_say(name: str) -> None:
    for prompt in (True, False):
        assert render(SAYS[name], TALK, prompt=prompt, tokens=TOKENS) == theirs(SAYS[name], prompt=prompt)


@pytest.mark.parametrize("name", REFUSES)
def test_it_refuses_what_transformers_would_refuse(name: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, ours follows from the same
        theirs(REFUSES[name], prompt=True)
    with pytest.raises(ModelError) as ours:
        render(REFUSES[name], TALK, prompt=True, tokens=TOKENS)
    assert type(ours.value.__cause__).__name__ == type(caught.value).__name__


def test_its_own_words_are_told() -> None:
    with pytest.raises(Declined, match="only users"):
        render(REFUSES["its own words"], TALK, prompt=True, tokens=TOKENS)


def test_transformers_is_not_imported_for_it() -> None:
    code = (
        "import sys; from halfwatt.models.template_sandbox import render; from halfwatt.dialogues.dialogue import *\n"
        "talk = Dialogue('', (Message('user', 'a'),))\n"
        "assert render('{{ messages[0].content }}', talk, prompt=True, tokens={}) == 'a'\n"
        "assert not {'transformers', 'torch', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
