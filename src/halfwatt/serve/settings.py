"""What a server is told, once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from halfwatt.core.errors import BadInput


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where it listens, and how much it takes."""

    host: str = "127.0.0.1"
    """Where it listens; other than this machine's own only with a key in the environment variable HALFWATT_API_KEY."""
    port: int = 8080
    """0 = any that is free."""
    name: str | None = None
    """What clients call the model; not given = its folder's name."""
    beside: str | None = None
    """The original, to be asked beside it under its own name: a model or an artifact."""
    users: int = 16
    """Replies that are made at once."""
    queue: int = 64
    """Prompts that may wait beside them; who comes then is asked to come again (503)."""
    context: int | None = None
    """Tokens of a conversation, reply included; not given = what the model was made for and memory allows."""
    max_reply_tokens: int = 1024
    """Of a reply, whatever is asked for."""
    max_body_bytes: int = 1 << 20
    """Of a request."""
    max_head_bytes: int = 16 << 10
    """Of a request's head."""
    timeout_s: float = 120.0
    """From a request to the end of its reply."""
    drain_s: float = 30.0
    """That replies in the making have when the server is told to end."""

    def __post_init__(self) -> None:
        """Raises BadInput: a number is too small."""
        least = {"port": 0, "queue": 0, "drain_s": 0, "max_head_bytes": 1024}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < (allowed := least.get(field.name, 1)):
                raise BadInput(f"--{field.name.replace('_', '-')} is {allowed} or more", got=f"{value:g}")
