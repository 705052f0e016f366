"""The OpenAI protocol: what requests may hold, and what replies look like.

What would change a reply and is not done here is refused by name, never dropped; what changes none is accepted.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.sampling import Sampling
from halfwatt.models.tokenizer import ChatTokenizer

# Not done here, and the values that ask for nothing.
NOT_DONE: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "prediction": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
ANYWAY = frozenset(  # changes no reply
    {"metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"}
    | {"service_tier", "store", "user"}
)
_TEXT = "text"
_MANY = 1_000_000  # tokens that nobody means


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Said(_Strict):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str

    @model_validator(mode="before")
    @classmethod
    def _said_anyway(cls, fields: Any) -> Any:
        """Clients send back what they got, with all that was empty in it."""
        return {k: v for k, v in fields.items() if v not in (None, [])} if isinstance(fields, dict) else fields

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        """Content may come in parts, of text alone."""
        if not isinstance(value, list):
            return value
        kinds = [part.get("type") if isinstance(part, dict) else None for part in value]
        if other := [kind for kind in kinds if kind != _TEXT]:
            raise ValueError(f"{str(other[0])[:40]} is not done here")
        return "".join(str(part.get(_TEXT, "")) for part in value)

    @property
    def message(self) -> Message:
        """As the model's template takes it."""
        return Message("system" if self.role == "developer" else self.role, self.content)


class StreamOptions(BaseModel):
    """include_usage: a last chunk with what the reply took."""

    include_usage: bool = False


class Request(_Strict):
    """What both kinds of request share."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=_MANY)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: int | None = None

    @field_validator("temperature", "top_p", "min_p", "repetition_penalty", mode="before")
    @classmethod
    def _whole_too(cls, value: Any) -> Any:
        return float(value) if type(value) is int and abs(value) < _MANY else value

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Raises BadInput: it is no such request; says why in one line."""
        try:
            fields = json.loads(body)
            json.dumps(fields, ensure_ascii=False).encode()  # half a character is no text
        except (ValueError, RecursionError) as error:
            raise BadInput("the body is not JSON in UTF-8", got=str(error)[:100]) from None
        if not isinstance(fields, dict):
            raise BadInput("the body is not a JSON object", got=type(fields).__name__)
        for name, neutral in NOT_DONE.items():
            value = fields.pop(name, None)
            if value is not None and value not in neutral:
                raise BadInput(f"{name} is not done here", hint="leave it out")
        try:
            return cls.model_validate({name: value for name, value in fields.items() if name not in ANYWAY})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BadInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the reply before them."""
        texts = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(filter(None, texts))

    @property
    def wants_usage(self) -> bool:
        """Is what a streamed reply took wanted as a chunk?"""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, own: Sampling, most: int) -> Sampling:
        """The model's own way, where the request says nothing else; greedy where its temperature is 0.

        most: tokens, whatever is asked for
        """
        asked: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "seed": secrets.randbits(31) if self.seed is None else self.seed & 0x7FFFFFFF,
            "max_new_tokens": min(most, self.longest or most),
        }
        return replace(own, **{name: value for name, value in asked.items() if value is not None})

    @property
    def longest(self) -> int | None:
        """Tokens that the reply may have."""
        return self.max_tokens


class ChatRequest(Request):
    """/v1/chat/completions."""

    messages: Annotated[list[Said], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=_MANY)] | None = None

    @property
    def longest(self) -> int | None:
        """The newer of its two names, where both are given."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def characters(self) -> int:
        """Of all messages."""
        return sum(len(said.message.content) for said in self.messages)

    @property
    def dialogue(self) -> Dialogue:
        """Raises BadInput: nothing is asked."""
        messages = tuple(said.message for said in self.messages)
        if messages[-1].role != "user":
            raise BadInput("the last message has to be the user's", got=messages[-1].role)
        return Dialogue("request", messages)

    def prompt_ids(self, tokenizer: ChatTokenizer) -> list[int]:
        """Raises BadInput: nothing is asked, or a text holds one of the template's tokens."""
        dialogue = self.dialogue
        if (special := tokenizer.special_in(dialogue)) is not None:
            what = f"a message holds {special!r}, which is a token of the model's template"
            raise BadInput(what, hint="write it otherwise")
        return tokenizer.prompt_ids(dialogue)


class CompletionRequest(Request):
    """/v1/completions: a text that the model goes on with."""

    prompt: str

    @field_validator("prompt", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """It may come as a list of one."""
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @property
    def dialogue(self) -> None:
        """It is none."""
        return

    @property
    def characters(self) -> int:
        """Of the text."""
        return len(self.prompt)

    def prompt_ids(self, tokenizer: ChatTokenizer) -> list[int]:
        """After the token that texts begin with, where the model has one. Raises BadInput: it is empty."""
        if not self.prompt:
            raise BadInput("the prompt is empty")
        return list(tokenizer.backend.encode(self.prompt, add_special_tokens=True).ids)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the replies to one request look."""

    chat: bool
    model: str
    id: str
    created: int

    @classmethod
    def of(cls, chat: bool, model: str) -> Shape:
        """With an id of its own."""
        return cls(chat, model, f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}", int(time.time()))

    def whole(self, text: str, reason: str, usage: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """A reply at once. more: beside the protocol's own fields."""
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {_TEXT: text}
        choice = {"index": 0, **said, "finish_reason": reason, "logprobs": None}
        return self._with(self._object, choices=[choice], usage=usage, **more)

    def opening(self) -> dict[str, Any] | None:
        """The first chunk of a stream: who speaks."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None}, None) if self.chat else None

    def piece(self, text: str) -> dict[str, Any]:
        """Some text."""
        return self._chunk({"content": text} if self.chat else text, None)

    def ending(self, reason: str) -> dict[str, Any]:
        """Why it ended."""
        return self._chunk({} if self.chat else "", reason)

    def account(self, usage: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """What it took."""
        return self._with(self._chunked, choices=[], usage=usage, **more)

    @property
    def _object(self) -> str:
        return "chat.completion" if self.chat else "text_completion"

    @property
    def _chunked(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, said: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, ("delta" if self.chat else _TEXT): said, "finish_reason": reason, "logprobs": None}
        return self._with(self._chunked, choices=[choice])

    def _with(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, **fields}


def fault(text: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error as clients read it."""
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}
