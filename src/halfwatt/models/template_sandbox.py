"""A chat template is a stranger's program: rendered in jinja2's immutable sandbox, its text and what it makes capped,
and probed first in a process of its own with a limit on time and memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from halfwatt.core.child_process import module_command
from halfwatt.core.errors import ModelError
from halfwatt.dialogues.dialogue import Dialogue, Message

MAX_TEMPLATE = 256 * 1024  # characters of a template
MAX_OVERHEAD = 256 * 1024  # characters that rendering may add to the messages
PROBE_S = 5  # CPU seconds that the probe of a template may take
PROBE_B = 1 << 30  # bytes of memory, likewise
_REFUSED = 9  # exit code of the probe's process
_INTERNALS = re.compile(r"__[a-z]+__")


class Declined(ModelError):
    """A template does not render a dialogue: it asks for another kind, or has a fault."""


def render(template: str, dialogue: Dialogue, *, prompt: bool, tokens: dict[str, Any]) -> str:
    """Render ``template``. ``tokens`` are the special tokens that it may name.

    Raises:
        ModelError: see `ChatTokenizer.render`.
    """
    from jinja2.exceptions import SecurityError, TemplateError

    from halfwatt.models.template_language import compiled

    messages = [{"role": m.role, "content": m.content} for m in dialogue.messages]
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt}
    try:
        text = compiled(template).render(tokens | given)
    except SecurityError as error:
        raise ModelError("the chat template tries to leave its sandbox", got=str(error)) from error
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, MemoryError, RecursionError) as error:
        what = f"the chat template does not render dialogue {dialogue.id or '(unnamed)'}"
        hint = "pass another one with --chat-template FILE, or change the dialogue"
        raise Declined(what, got=f"{type(error).__name__}: {error}"[:300], hint=hint) from error
    allowed = MAX_OVERHEAD + 4 * sum(len(m.content) for m in dialogue.messages)
    if len(text) > allowed:
        raise ModelError("the chat template makes too much text", got=f"{len(text)}, at most {allowed} characters")
    return text


def probe(template: str, tokens: dict[str, str], *, limit_s: int = PROBE_S) -> None:
    """Try a stranger's template on made-up dialogues of 1, 2 and 12 exchanges, and of one after a system message, in a
    process with limits. Some want no more than one exchange, some a system message: one of these it has to render.

    Raises:
        ModelError: it failed in all of them, took more than ``limit_s`` CPU seconds, or more memory than a template
        can need.
    """
    _probe(json.dumps({"template": template, "tokens": tokens, "limit_s": limit_s}), limit_s)


@lru_cache  # a template that passed once passes again
def _probe(order: str, limit_s: int) -> None:
    command, timeout_s = module_command("halfwatt.models.template_sandbox"), 60 + 10 * limit_s  # of CPU time: limit_s
    child = subprocess.run(command, input=order, capture_output=True, text=True, check=False, timeout=timeout_s)
    if child.returncode == _REFUSED:
        raise ModelError("the chat template was refused", got=child.stdout.strip())
    if child.returncode:
        got = f"more than {limit_s} s of CPU time or {PROBE_B >> 30} GB for a short dialogue"
        raise ModelError("the chat template was stopped", got=got, hint="pass another one with --chat-template FILE")


def _probe_child() -> None:
    """The other end of `probe`: limits first, then the template; says on stdout why it was refused."""
    import resource

    order = json.load(sys.stdin)
    import halfwatt.models.template_language  # noqa: F401 - its import is not the template's time

    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit_s = int(spent.ru_utime + spent.ru_stime) + 1 + order["limit_s"]
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere the CPU limit must do
        mapped_b = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped_b + PROBE_B, mapped_b + PROBE_B))
    exchange = (Message("user", "Is the light on?"), Message("assistant", "Yes, it is on."))
    after_system = Dialogue("", (Message("system", "You watch the lights."), *exchange))
    kinds = [*(Dialogue("", exchange * times) for times in (1, 2, 12)), after_system]
    template, tokens, declined = order["template"], order["tokens"], list[Declined]()
    try:
        for dialogue in kinds:
            try:
                render(template, dialogue, prompt=False, tokens=tokens)
                render(template, dialogue.before(dialogue.assistant_turns[-1]), prompt=True, tokens=tokens)
            except Declined as refusal:
                declined.append(refusal)
        if len(declined) == len(kinds):
            raise declined[0]
    except ModelError as error:
        print(error.got or error.what)  # noqa: T201 - the pipe to the parent
        sys.exit(_REFUSED)


def check_template(template: str) -> None:
    """See that it is of a usual length and names nothing of Python's own.

    Raises:
        ModelError: it is not.
    """
    if len(template) > MAX_TEMPLATE:
        raise ModelError("the chat template is too long", got=f"{len(template)}, at most {MAX_TEMPLATE} characters")
    if inner := _INTERNALS.search(template):  # the sandbox would block it; a template that tries is not to be trusted
        raise ModelError("the chat template tries to leave its sandbox", got=inner.group(), hint="do not trust it")


if __name__ == "__main__":
    _probe_child()
