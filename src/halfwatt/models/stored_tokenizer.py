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
FURTHER = "extra_special_tokens", "additional_special_tokens"  # special tokens that have no name, as 5 and 4 call them
_LEGACY = "special_tokens_map.json", "added_tokens.json"
_CHANGES_NOTHING = (
    "backend",
    "chat_template",
    "clean_up_tokenization_spaces",
    "model_max_length",
    "padding_side",
    "tokenizer_class",
    "truncation_side",
)


@dataclass(frozen=True, slots=True)
class StoredTokenizer:
    """What `ChatTokenizer` asks of a transformers tokenizer, by the same names.

    special_tokens_map: ``bos_token`` and the others that there are; config: what tokenizer_config.json holds, or shall
    """

    backend_tokenizer: Tokenizer
    special_tokens_map: Mapping[str, str]
    all_special_tokens: tuple[str, ...]
    config: Mapping[str, Any]
    is_fast: bool = True

    @classmethod
    def read(cls, folder: Path) -> StoredTokenizer | None:
        """None where the files hold what only transformers would know how to honour. Raises what tokenizers raises for
        a file that is none."""
        if not ((folder / CONFIG).exists() and (folder / FILE).exists()):
            return None
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        further: Any = next(filter(None, map(config.get, FURTHER)), [])
        plain = (
            config.get("tokenizer_class") == "PreTrainedTokenizerFast"
            and not config.get("clean_up_tokenization_spaces")
            and isinstance(config.get("chat_template", ""), str)
            and config.keys() <= {*_NAMED, *FURTHER, *_CHANGES_NOTHING}
            and isinstance(further, list)
            and not any((folder / name).exists() for name in _LEGACY)
        )
        if not plain:
            return None
        named = {name: config[name] for name in _NAMED if config.get(name) is not None}
        return cls._of_known(Tokenizer.from_file(str(folder / FILE)), named, further, config)

    @classmethod
    def of(cls, hf: Any) -> StoredTokenizer | None:
        """A transformers tokenizer in such files' terms, whatever it was read from: its backend is what reads texts.

        Entries of its configuration that changed the backend are in that by now; those that only inform are left out.
        None where it does to texts what the backend does not, or the backend what its file does not say.
        """
        if isinstance(hf, cls):
            return hf
        if _tidies(hf) or hf.backend_tokenizer.encode_special_tokens:
            return None
        named = dict(hf.special_tokens_map)
        further = [token for token in map(str, hf.all_special_tokens) if token not in named.values()]
        config = named | ({FURTHER[0]: further} if further else {})
        return cls._of_known(hf.backend_tokenizer, named, further, config) if named.keys() <= {*_NAMED} else None

    @classmethod
    def _of_known(
        cls, backend: Tokenizer, named: Mapping[str, Any], further: Sequence[Any], config: Mapping[str, Any]
    ) -> StoredTokenizer | None:
        """None where transformers would add tokens to the backend, or where that pads."""
        special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        tokens = (*named.values(), *further)
        known = all(isinstance(token, str) for token in tokens) and special.issuperset(tokens)
        return cls(backend, named, tokens, config) if known and backend.padding is None else None

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        return dict(self.backend_tokenizer.get_added_tokens_decoder())

    @property
    def chat_template(self) -> Any:
        return self.config.get("chat_template")

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
        """The two files that it is read from."""
        self.backend_tokenizer.save(str(folder / FILE))
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _tidies(hf: Any) -> bool:
    """Is a text that transformers decodes another than the backend's? Blanks before punctuation are taken out unless
    the model is BPE (transformers 5); a class may have a way of its own."""
    from transformers import PreTrainedTokenizerFast

    byte_pairs = type(hf.backend_tokenizer.model).__name__ == "BPE"
    forced = getattr(hf, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    cleans = hf.clean_up_tokenization_spaces and (forced or not byte_pairs)
    return bool(cleans) or type(hf)._decode is not PreTrainedTokenizerFast._decode
