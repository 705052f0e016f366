"""A tokenizer that spells spaces as U+2581 and falls back to bytes, as Llama 2's, Mistral's and Gemma's do."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from halfwatt.models.tokenizer import ChatTokenizer
from tests.support import tiny_models as tiny


def sentencepiece_like(*, legacy: bool = True) -> ChatTokenizer:
    """As Llama 2's and Mistral's tokenizer.json: BPE over text with spaces as U+2581, and bytes for the unknown."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(tiny.SENTENCES * 4, trainer)
    fields = json.loads(backend.to_str())
    # The byte tokens are ordinary entries there, not added ones.
    fields["added_tokens"] = [t for t in fields["added_tokens"] if not t["content"].startswith("<0x")]
    if not legacy:
        fields["normalizer"] = None
        fields["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    backend = Tokenizer.from_str(json.dumps(fields))
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tiny.SPECIAL[1:3]])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    wrap: Any = PreTrainedTokenizerFast
    hf = wrap(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return ChatTokenizer(hf, tiny.CHATML, tuple(hf.convert_tokens_to_ids(["<|im_end|>", "</s>"])))
