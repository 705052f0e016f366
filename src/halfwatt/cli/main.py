"""The command line: the only place that prints, exits or reads the environment.

Results go to stdout (one JSON document with --json), progress to stderr. Exit codes: 0 done and proven, 1 done but the
gate failed or nothing was proven, 2 bad input or usage, 3 environment, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnknownCommandError, UnusedCliTokensError

from halfwatt.cli.output import complain
from halfwatt.core.errors import HalfwattError, suggestion
from halfwatt.core.machine import halfwatt_version

if TYPE_CHECKING:
    from halfwatt.core.settings import RunSettings

# What --help says of each verb, and where it is: read when it is called, for the flags of steps are their fields, and
# those import torch.
VERBS = {
    "verbs:optimize": "Find the cheapest form of MODEL that answers as well, and prove it. Goes on where it was "
    "interrupted.",
    "verbs:measure": "What MODEL uses per reply on this machine.",
    "verbs:compare": "Energy and quality of two models, paired. Exit 0 when B passes the gate against A, else 1.",
    "verbs:plan": "What recipes would save on hardware that is not here: predicted ratios, with their error. No "
    "weights needed.",
    "step_verbs:quantize": "Put MODEL on the int8 or int4 grid and write it for llama.cpp, proved in its own runtime.",
    "step_verbs:trim": "Keep the part of MODEL's vocabulary that the dialogues use.",
    "step_verbs:prune": "Make MODEL smaller: fewer FFN neurons, heads or blocks, by what the dialogues use.",
    "step_verbs:distil": "Let MODEL learn to answer as a teacher does.",
    "verbs:chat": "Talk to a model; prints joules, tokens and seconds after each reply. Ends with an empty line or "
    "Ctrl-D.",
    "verbs:serve": "Answer the OpenAI protocol with MODEL, many at once; each reply says what it took. Ends with "
    "Ctrl-C.",
    "verbs:doctor": "Which energy meters exist here, what each covers, and what would enable the others.",
    "verbs:verify": "Recompute every figure of a result from the raw readings in it. Exit 0 when all agree, else 1.",
}


app = App(
    name="halfwatt",
    help="Make a chat model answer as well for a fraction of the joules, and prove it on this machine.",
    help_format="plaintext",
    version=halfwatt_version,
    default_parameter=Parameter(negative=(), show_default=lambda x: None if x is False or x == () else x),
)
for place, (verb, text) in enumerate(VERBS.items()):
    app.command(f"halfwatt.cli.{verb}", name=verb.partition(":")[2], help=text, sort_key=place)


def main(base: RunSettings | None = None) -> None:
    """The console entry point: one line for every error, and the exit code that belongs to it.

    base: settings that no flag changes, such as a shorter protocol
    """
    try:
        code = run(sys.argv[1:], base)
    except CycloptsError as error:
        complain(usage_error(error))
        code = 2
    except HalfwattError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        complain(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on where it stopped")
        code = 130
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one line
        if "--debug" in sys.argv:
            traceback.print_exc()
        text = f"unexpected {type(error).__name__}: {error}; run again with --debug and report it"
        if isinstance(error, OSError):
            text = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        complain(text)
        code = 3
    sys.exit(code)


def run(line: list[str], base: RunSettings | None) -> int:
    """Do what ``line`` says. Returns the exit code.

    Raises:
        CycloptsError: the line cannot be read. HalfwattError: as the verb does.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "--offline" in line:
        os.environ["HF_HUB_OFFLINE"] = "1"  # transformers asks on its own too
    verb, bound, unseen = app.parse_args(line, print_error=False, exit_on_error=False, verbose=False)
    if "base" in unseen:
        from halfwatt.core.settings import RunSettings

        bound.arguments["base"] = base or RunSettings()
    code: int | None = verb(*bound.args, **bound.kwargs)
    return code or (0 if line else 2)  # without a verb the help has been shown


def usage_error(error: CycloptsError) -> str:
    """What is wrong with the line, and where to look."""
    match error:
        case UnknownCommandError(unused_tokens=[word, *_]):  # its own text imports every verb to name the likely one
            text = f"No such command {word!r}; {suggestion(word, [verb.partition(':')[2] for verb in VERBS])}"
        case UnusedCliTokensError(unused_tokens=[*words]):
            text = f"Got unexpected {' '.join(words)}"
        case MissingArgumentError(argument=argument, keyword=None) if argument is not None:
            text = f"Missing {' / '.join(argument.names)}"
        case _:
            text = str(error).rstrip(".")
    verb = " ".join([*(error.command_chain or ()), "--help"])
    return f"{text}; see halfwatt {verb}"


if __name__ == "__main__":
    main()
