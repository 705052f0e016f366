"""A reply's text while its tokens come, in pieces of whole characters."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

from tokenizers.decoders import DecodeStream

from halfwatt.models.tokenizer import ChatTokenizer


class TextStream:
    """Of one reply. What it gives, one after the other, is what the tokenizer makes of all tokens at once.

    Only where single bytes make no text the two may differ: of "W" and half a character some tokenizers make no "W" any
    more, when that has been given already.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=True)
        self._ids, self._shown = list[int](), ""

    def push(self, ids: Sequence[int]) -> str:
        """The text that is certain now and was not before."""
        pieces = "".join(map(self._piece, ids))
        self._ids += ids
        self._shown += pieces
        return pieces

    def rest(self) -> str:
        """What was held back, half a character say, at the end of the reply."""
        whole = self._tokenizer.decode(self._ids)
        return whole[len(self._shown) :] if whole.startswith(self._shown) else ""

    def _piece(self, token: int) -> str:
        if (tag := self._tokenizer.thinking_tags.get(token)) is not None:
            self._stream = DecodeStream(skip_special_tokens=True)
            return tag
        try:
            return self._stream.step(self._tokenizer.backend, token) or ""
        except Exception:  # noqa: BLE001 - tokenizers has no class for it: what it gave is no beginning of the text now
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._tokenizer.backend, token) or ""


def stream_text(tokens: Iterable[int], tokenizer: ChatTokenizer) -> Generator[str, None, list[int]]:
    """The text of a reply's tokens as they come; returns the tokens' ids."""
    text, ids = TextStream(tokenizer), list[int]()
    for token in tokens:
        ids.append(token)
        if piece := text.push([token]):
            yield piece
    if rest := text.rest():
        yield rest
    return ids
