"""How likely llama.cpp finds several texts after one prompt: nothing is generated, and the prompt is read once.

prompt -> sequence 0 -> shared by a sequence for each text (`llama_memory_seq_cp`; one unified cache, so that no key
          is copied) -> the texts' tokens, side by side in batches -> log p of each token after the one before it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as llama

from halfwatt.core.errors import EnvironmentFault

_AT_ONCE = 64  # tokens in a batch, all with their logits; bounds that buffer
_STEP = 256  # tokens by which a context is larger than it must be, so that few are made


class ContinuationScorer:
    """A context of its own beside a session's, made when it is needed first."""

    def __init__(self, model: Any, params: Any) -> None:
        """Of a loaded model. params: of the session's own contexts, of which this one keeps threads and types."""
        self._model, self._params = model, params
        self._vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        self._batch = llama.llama_batch_init(_AT_ONCE, 0, 1)
        self._context: Any = None
        self._size = self._sequences = 0

    def score(self, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
        """Summed ``log p`` of each text's tokens after the prompt, in nats; 0 for an empty one."""
        self._make_room(len(prompt) + sum(map(len, texts)), 1 + len(texts))
        memory = llama.llama_get_memory(self._context)
        llama.llama_memory_clear(memory, True)
        for start in range(0, len(prompt), _AT_ONCE):
            part = prompt[start : start + _AT_ONCE]
            self._decode([(token, start + n, 0, start + n == len(prompt) - 1) for n, token in enumerate(part)])
        firsts = [text[0] for text in texts if text]
        first = iter(self._log_p([-1] * len(firsts), firsts))
        sums = [next(first) if text else 0.0 for text in texts]
        rows: list[tuple[int, int, int, int]] = []  # token, position, text, the token that comes next
        for number, text in enumerate(texts):
            llama.llama_memory_seq_cp(memory, 0, number + 1, -1, -1)
            rows += [(text[n], len(prompt) + n, number, text[n + 1]) for n in range(len(text) - 1)]
        for start in range(0, len(rows), _AT_ONCE):
            part_rows = rows[start : start + _AT_ONCE]
            self._decode([(token, at, number + 1, True) for token, at, number, _ in part_rows])
            scores = self._log_p(range(len(part_rows)), [after for *_, after in part_rows])
            for (_, _, number, _), score in zip(part_rows, scores, strict=True):
                sums[number] += score
        return sums

    def close(self) -> None:
        """Free the context."""
        llama.llama_batch_free(self._batch)
        if self._context is not None:
            llama.llama_free(self._context)

    def _decode(self, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        for row, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[row], batch.pos[row], batch.n_seq_id[row] = token, position, 1
            batch.seq_id[row][0], batch.logits[row] = sequence, wanted
        batch.n_tokens = len(tokens)
        if (code := llama.llama_decode(self._context, batch)) != 0:
            raise EnvironmentFault(f"llama_decode failed with code {code}")

    def _log_p(self, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Of one token a row of the last batch's logits."""
        scores = []
        for row, token in zip(rows, tokens, strict=True):
            logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, row), (self._vocabulary,))
            highest = logits.max()
            scores.append(float(logits[token] - highest - np.log(np.exp(logits - highest).sum(dtype=np.float64))))
        return scores

    def _make_room(self, tokens: int, sequences: int) -> None:
        if tokens <= self._size and sequences <= self._sequences:
            return
        if self._context is not None:
            llama.llama_free(self._context)
        self._size, self._sequences = max(self._size, tokens + _STEP), max(self._sequences, sequences)
        params = self._params
        params.n_ctx, params.n_seq_max, params.kv_unified = self._size, self._sequences, True
        params.n_batch = params.n_ubatch = _AT_ONCE
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            raise EnvironmentFault(f"llama.cpp cannot make a context of {self._size} tokens")
