"""A tokenizer as its files say it, without transformers, which takes a second to import: a search starts a hundred
serving processes, and each reads one.

Only what transformers 5 saves for its own fast tokenizer is read so; there is nothing in such files that a class of its
would add (tests compare both).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

CONFIG, FILE = "tokenizer_config.json", "tokenizer.json"
_NAMED = "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
_CHANGES_NOTHING = {
    "backend",
    "chat_template",
    "model_max_length",
    "padding_side",
    "tokenizer_class",
    "truncation_side",
}


@dataclass(frozen=True, slots=True)
class StoredTokenizer:
    """What `ChatTokenizer` asks of a transformers tokenizer, by the same names.

    named: ``bos_token`` and the others that there are; extra: further special tokens
    """

    backend_tokenizer: Tokenizer
    special_tokens_map: Mapping[str, str]
    extra: tuple[str, ...]
    chat_template: str | None

    @classmethod
    def read(cls, folder: Path) -> StoredTokenizer | None:
        """None where the files hold what only transformers would know how to honour. Raises what tokenizers raises for
        a file that is none."""
        if not ((folder / CONFIG).exists() and (folder / FILE).exists()):
            return None
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        named = {name: config[name] for name in _NAMED if config.get(name) is not None}
        extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
        more = {"clean_up_tokenization_spaces", "extra_special_tokens", "additional_special_tokens"}
        plain = (
            config.get("tokenizer_class") == "PreTrainedTokenizerFast"
            and not config.get("clean_up_tokenization_spaces")
            and config.keys() <= {*_NAMED, *_CHANGES_NOTHING, *more}
            and isinstance(extra, list)
            and all(isinstance(token, str) for token in (*named.values(), *extra))
        )
        if not plain:
            return None
        return cls(Tokenizer.from_file(str(folder / FILE)), named, tuple(extra), config.get("chat_template"))

    @property
    def is_fast(self) -> bool:
        return True

    @property
    def all_special_tokens(self) -> list[str]:
        return list(dict.fromkeys((*self.special_tokens_map.values(), *self.extra)))

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        tokens: Mapping[int, AddedToken] = self.backend_tokenizer.get_added_tokens_decoder()
        return tokens

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._id_of("pad_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of("bos_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._id_of("unk_token")

    def _id_of(self, name: str) -> int | None:
        token = self.special_tokens_map.get(name)
        return None if token is None else self.convert_tokens_to_ids(token)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))

    def convert_tokens_to_ids(self, token: str) -> int | None:
        number: int | None = self.backend_tokenizer.token_to_id(token)
        return number

    def convert_ids_to_tokens(self, number: int) -> str | None:
        token: str | None = self.backend_tokenizer.id_to_token(number)
        return token

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def save_pretrained(self, folder: Path) -> None:
        """The files that it was read from, but for the template, which is its owner's."""
        self.backend_tokenizer.save(str(folder / FILE))
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special_tokens_map}
        if self.extra:
            config["extra_special_tokens"] = list(self.extra)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
