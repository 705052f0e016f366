"""What a server is told, once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where it listens, and how much it takes."""

    host: str = "127.0.0.1"
    """Where it listens; other than this machine's own only with a key."""
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
    reply: int = 1024
    """Tokens of a reply, at most."""
    body: int = 1 << 20
    """Bytes of a request, at most."""
    header: int = 16 << 10
    """Bytes of its head, at most."""
    patience: float = 120.0
    """Seconds from a request to the end of its reply, at most."""
    drain: float = 30.0
    """Seconds that replies in the making have when the server is told to end."""
