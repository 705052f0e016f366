"""The chat side of a tokenizer: dialogues to token ids and back.

The token ids are those of tokenizer.json, with which the model was trained. transformers rebuilds some tokenizers by
the class that tokenizer_config.json names, splits text by that class's rules and drops the file's; such a class is
asked only for tokens that the files do not name. A folder without config.json is read as it stands, without torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import and_
from pathlib import Path
from typing import Any, TypeVar

from halfwatt.core.errors import ModelError, NoTemplate, first_line
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.template_sandbox import Declined, check_template, render
from halfwatt.models.thinking import CLOSING, OPENING, answer_of, left_open, opening, reply_begins

T = TypeVar("T")
TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """One rendered dialogue. All three have one entry a token.

    reply:  True on tokens that the assistant wrote, each turn's end-of-turn token included
    end:    True on those end-of-turn tokens
    """

    ids: tuple[int, ...]
    reply: tuple[bool, ...]
    end: tuple[bool, ...]

    def of_last_reply(self) -> ScoredTokens:
        """With no other turn counted."""
        ends = [at for at, is_end in enumerate(self.end) if is_end]
        after = ends[-2] if len(ends) > 1 else -1
        last = [at > after for at in range(len(self.ids))]
        reply, end = (tuple(map(and_, flags, last)) for flags in (self.reply, self.end))
        return ScoredTokens(self.ids, reply, end)


MOST_ASIDE = 0.01  # share of the dialogues that may be left out so
_LAST_LINE_BREAK = re.compile(r"(\r\n|\r|\n)\Z")  # which Jinja leaves out
_TOKENS = "bos_token", "eos_token", "unk_token", "pad_token"


class ChatTokenizer:
    """A Hugging Face tokenizer with its chat template and its whole list of stop tokens.

    template:        the template's text, character for character
    eos_ids:         the whole list of generation_config.json, in its order (else of config.json, else the tokenizer's)
    pad_id:          fills up the shorter rows of a batch
    vocab_size:      the number of token ids, added tokens included
    special_tokens:  their texts: what a reply must never show; it may think
    thinking_tags:   by id, the special tokens that enclose what is thought; backend: of the `tokenizers` library
    """

    def __init__(self, hf: Any, template: str, eos_ids: tuple[int, ...]) -> None:
        """``hf`` is a transformers tokenizer with a `tokenizers` backend."""
        self.hf, self.template, self.eos_ids = hf, template, eos_ids
        self.pad_id: int = eos_ids[0] if hf.pad_token_id is None else hf.pad_token_id
        self.vocab_size: int = 1 + max(hf.get_vocab().values())
        self.backend = hf.backend_tokenizer
        self.backend.no_truncation()  # tokenizer.json may carry both, and neither belongs to a chat
        self.backend.no_padding()
        special = {str(t) for t in hf.added_tokens_decoder.values() if t.special} | set(hf.all_special_tokens)
        self.thinking_tags: dict[int, str] = {
            hf.convert_tokens_to_ids(tag): tag for tag in (OPENING, CLOSING) if tag in special
        }
        self.special_tokens: tuple[str, ...] = tuple(sorted(special - {"", OPENING, CLOSING}))
        self._special = re.compile("|".join(map(re.escape, self.special_tokens)) or "(?!)")

    @classmethod
    def load(cls, folder: Path, chat_template: str | None = None) -> ChatTokenizer:
        """Read tokenizer.json, the stop tokens and, unless its text is given, the chat template of ``folder``.

        Raises:
            ModelError: no tokenizer, no stop token, or no chat template and none given (names the option for it).
        """
        import halfwatt.models.template_language  # noqa: F401 - now, not in the first reply that is measured

        hf = _hf_tokenizer(folder)
        template = stored_template(folder, hf) if chat_template is None else chat_template
        if template is None:
            raise no_template(folder)
        check_template(template)
        return cls(hf, template, _eos_ids(folder, hf))

    def render(self, dialogue: Dialogue, *, prompt: bool) -> str:
        """The text that the template makes; ``prompt`` adds what opens the assistant's turn.

        Raises:
            ModelError: the template refuses these messages, breaks out of its sandbox, or makes too much text.
        """
        return render(self.template, dialogue, prompt=prompt, tokens=self.hf.special_tokens_map)

    def one_exchange(self, said: str) -> Dialogue:
        """In which both say the same, after a system message where the template wants one."""
        exchange: tuple[Message, ...] = (Message("user", said), Message("assistant", said))
        try:
            self.render(Dialogue("turn", exchange), prompt=False)
        except Declined:
            exchange = (Message("system", "You help."), *exchange)
        return Dialogue("turn", exchange)

    def prompt_ids(self, dialogue: Dialogue) -> list[int]:
        """Token ids of the rendered prompt, ready for the assistant's reply."""
        return self.encode(self.render(dialogue, prompt=True))

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` as it stands: no special token is added, those in the text are recognised."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def special_in(self, dialogue: Dialogue) -> str | None:
        """A special token that stands in a text, which would be read as one."""
        held = (self._special.search(message.content) for message in dialogue.messages)
        first = next(filter(None, held), None)
        return None if first is None else first[0]

    def scored(self, dialogue: Dialogue) -> ScoredTokens:
        """Token ids of the whole dialogue, and which of them the assistant wrote.

        A turn counts when the tokens of its prompt begin the whole, but for a <think> that the prompt opens, and a stop
        token comes right after its content. Templates may rewrite earlier turns when later ones follow; turns that this
        changes are left out.

        Raises:
            ModelError: no turn counts, or a text holds a special token, which would be read as one.
        """
        if (special := self.special_in(dialogue)) is not None:
            what = f"dialogue {dialogue.id}: its text holds {special!r}, which is a token of the template"
            raise ModelError(what, hint="write it otherwise, or remove the dialogue")
        text = self.render(dialogue, prompt=False)
        encoding = self.backend.encode(text, add_special_tokens=False)
        ids, offsets = list(encoding.ids), encoding.offsets
        reply, end, begun = [False] * len(ids), [False] * len(ids), False
        for turn in dialogue.assistant_turns:
            if (where := self._told_apart(text, ids, offsets, dialogue, turn)) is None:
                continue
            first, after = where
            begun = True
            stop = next((i for i in range(first, len(ids)) if ids[i] in self.eos_ids), None)  # the turn's own
            if stop is not None and offsets[stop][0] >= after and not text[after : offsets[stop][0]].strip():
                reply[first : stop + 1] = [True] * (stop + 1 - first)
                end[stop] = True
        if not any(end):
            tokens = ", ".join(repr(self.hf.convert_ids_to_tokens(i)) for i in self.eos_ids)
            stopless = f"no assistant turn of the template ends in one of the stop tokens {tokens}"
            otherwise = "the tokens of its prompts do not begin those of the whole"
            raise ModelError(
                f"dialogue {dialogue.id}: no reply can be told apart in the rendered text",
                got=stopless if begun else f"{otherwise}, or a reply begins with a line break",
                hint="check the chat template and the eos_token_id list of generation_config.json" if begun else None,
            )
        return ScoredTokens(tuple(ids), tuple(reply), tuple(end))

    def _told_apart(
        self, text: str, ids: list[int], offsets: Sequence[tuple[int, int]], dialogue: Dialogue, turn: int
    ) -> tuple[int, int] | None:
        """The first token of a reply in the rendered text, and the character after its last; None = it cannot be."""
        prompt = self.render(dialogue.before(turn), prompt=True)
        answer = answer_of(dialogue.messages[turn].content).strip()
        if (start := reply_begins(text, prompt, answer)) is not None:
            first = next((i for i, (_, end) in enumerate(offsets) if end > start), len(ids))
            return first, start + len(answer)
        before = self.encode(prompt)
        for said in (dialogue.messages[turn].content.strip(), answer):
            if ids[: len(before)] == before and (at := text.find(said, len(prompt))) >= 0:
                return len(before), at + len(said)
        return None

    @property
    def opens_thinking(self) -> bool:
        """Does the template let the model think before it answers?"""
        return bool(left_open(self.render(self.one_exchange("Hi").before(-1), prompt=True)))

    def answer_prompt_ids(self, dialogue: Dialogue) -> list[int]:
        """Token ids after which an answer comes at once: what the template opens is closed."""
        prompt = self.render(dialogue, prompt=True)
        return self.encode(f"{prompt}{CLOSING}\n\n" if left_open(prompt) else prompt)

    def answering_at_once(self) -> ChatTokenizer:
        """With prompts that end where replies begin in a dialogue, for models that learn what people say: where the
        template opens <think>, they do not think aloud; where it shows an empty one, they need not write that.

        Raises:
            ModelError: the template cannot be told so.
        """
        exchange = self.one_exchange("Hi")
        whole, prompt = self.render(exchange, prompt=False), self.render(exchange.before(-1), prompt=True)
        end, begins = opening(prompt), reply_begins(whole, prompt, "Hi")
        before = prompt.removesuffix(end)
        if (begun := before if begins is None else whole[:begins]) == prompt:
            return self
        ended = f"text[:{-len(end)}]" if end else "text"  # [:-0] would be nothing
        asked = f"add_generation_prompt and text.endswith({json.dumps(end)})"
        answered = f"{ended} ~ {json.dumps(begun[len(before) :])} if {asked} else text"
        # A block that captures text loses the line breaks beside its tags, a template of its own but the last one.
        inside = f"{{{{ '' }}}}{_LAST_LINE_BREAK.sub('', self.template)}{{{{ '' }}}}"
        template = f"{{% set text %}}{inside}{{% endset %}}{{{{ {answered} }}}}"
        plain = ChatTokenizer(self.hf, template, self.eos_ids)
        texts = plain.render(exchange, prompt=False), plain.render(exchange.before(-1), prompt=True)
        if texts != (whole, begun):
            what = "the chat template cannot be told to open no <think>, and people's replies hold none"
            raise ModelError(what, hint="pass --chat-template FILE with a template that does not think")
        return plain

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens, but for those that enclose what is thought."""
        runs = ((tag, list(run)) for tag, run in groupby(ids, self.thinking_tags.get))
        return "".join(tag * len(run) if tag else self.hf.decode(run, skip_special_tokens=True) for tag, run in runs)

    def save(self, folder: Path, *, plain: bool = False) -> None:
        """Write the tokenizer as it is used, the template (to both places that readers look in) and the stop tokens.

        ``folder`` must exist; generation_config.json is written when there is none.
        plain: without what only informs readers, so that it is read back without transformers where it can be
        """
        from halfwatt.models.stored_tokenizer import StoredTokenizer

        hf = (plain and StoredTokenizer.of(self.hf)) or self.hf
        hf.save_pretrained(folder)
        (folder / TEMPLATE_FILE).write_bytes(self.template.encode())
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        for key in ("is_local", "local_files_only", "name_or_path"):
            config.pop(key, None)  # says where it was loaded from, not what it is
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": self.template}
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        generation = folder / "generation_config.json"
        if not generation.exists():
            stops = {"eos_token_id": list(self.eos_ids), "pad_token_id": self.pad_id}
            generation.write_text(json.dumps(stops, indent=2) + "\n", encoding="utf-8")


def without_odd(
    dialogues: Sequence[Dialogue], read: Callable[[Dialogue], T]
) -> tuple[list[tuple[Dialogue, T]], list[ModelError]]:
    """What is read of each dialogue, and the faults of odd ones that are left out: one, or `MOST_ASIDE` of all at most.

    Raises:
        ModelError: the first fault where there are more; the template or the tokenizer does not fit.
    """
    rows, faults = list[tuple[Dialogue, T]](), list[ModelError]()
    for dialogue in dialogues:
        try:
            rows.append((dialogue, read(dialogue)))
        except ModelError as fault:
            faults.append(fault)
    if len(faults) > max(min(1, len(dialogues) - 1), MOST_ASIDE * len(dialogues)):
        raise faults[0]
    return rows, faults


def from_pretrained(factory: Any, folder: Path | None, **options: Any) -> Any:
    """Load anything through transformers: the only place, so that no code of a folder is ever run, nor a hub asked.

    folder: None = what the options hold
    """
    return factory.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)


def _hf_tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer_config.json").exists() and not (folder / "tokenizer.json").exists():
        raise ModelError(f"{folder} has no tokenizer", hint="a model folder holds tokenizer.json beside its weights")
    stored, configured = (folder / "tokenizer.json").exists(), (folder / "config.json").exists()
    by_class = configured and not stored  # which imports torch
    try:
        if not configured:
            from halfwatt.models.stored_tokenizer import StoredTokenizer

            if (plain := StoredTokenizer.read(folder)) is not None:
                return plain
        import transformers

        hf = from_pretrained(transformers.AutoTokenizer if by_class else transformers.PreTrainedTokenizerFast, folder)
        if stored and configured and (unnamed := [name for name in _TOKENS if getattr(hf, name) is None]):
            theirs = from_pretrained(transformers.AutoTokenizer, folder)
            for name in unnamed:
                if (token := getattr(theirs, name)) in hf.get_vocab():
                    setattr(hf, name, token)
    except Exception as error:  # the tokenizers library raises bare Exception for a faulty file
        raise ModelError(f"the tokenizer of {folder} cannot be read", got=first_line(error)) from error
    if not getattr(hf, "is_fast", False):
        hint = "add its tokenizer.json"
        raise ModelError(f"the tokenizer of {folder} has no fast form", got=type(hf).__name__, hint=hint)
    return hf


def stored_template(folder: Path, hf: Any) -> str | None:
    """The template of ``folder``, character for character; transformers reads its file with newlines translated.

    ``hf`` is the tokenizer that transformers made of the folder.
    """
    if (folder / TEMPLATE_FILE).exists():
        return read_template(folder / TEMPLATE_FILE)
    stored = hf.chat_template
    return (stored.get("default") if isinstance(stored, dict) else stored) or None


def no_template(path: Path) -> NoTemplate:
    """Of a model's folder or file: the error to raise."""
    hint = "pass --chat-template FILE with the Jinja template that it was trained with"
    return NoTemplate(f"{path} has no chat template, so its prompts cannot be built", hint=hint)


def read_template(path: Path) -> str:
    """The text of a template's file, byte for byte.

    Raises:
        ModelError: missing or not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the chat template {path} cannot be read", got=str(error)) from error


def _eos_ids(folder: Path, hf: Any) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.exists() and (stops := read_json(path).get("eos_token_id")) is not None:
            ids = stops if isinstance(stops, list) else [stops]
            if not ids or not all(type(i) is int and i >= 0 for i in ids):
                raise ModelError(f"eos_token_id of {path} is not a token id or a list of them", got=repr(stops))
            return tuple(dict.fromkeys(ids))
    if hf.eos_token_id is None:
        raise ModelError(f"{folder} names no stop token", hint="set eos_token_id in its generation_config.json")
    return (hf.eos_token_id,)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder.

    Raises:
        ModelError: missing, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON", got=first_line(error)) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object", got=type(content).__name__)
    return content
