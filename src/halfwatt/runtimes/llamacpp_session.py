"""A loaded GGUF file that answers, through llama-cpp-python's C functions.

    prompt ids  -> longest prefix already in the KV cache is kept -> the rest is decoded in one batch
                -> sample in C -> decode that one token, with guesses at the next ones (speculation.py) -> sample after
                each guess that came true -> decode ... until a stop token, the cap or the context's end

Python sees one id a token and copies no logits: a greedy choice without a penalty looks at them where they are. The ids
of a prompt always come from the model's own `ChatTokenizer`, never from llama.cpp's.

llama.cpp computes in a thread of the session's own. Intel's AMX tiles are configured for each thread: llama.cpp does it
once, torch at will, and where both compute in one thread llama.cpp ends with an illegal instruction.
"""

from __future__ import annotations

import ctypes
import functools
from collections import deque
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from halfwatt.core.errors import EnvironmentFault, ModelError
from halfwatt.core.machine import cores
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact
from halfwatt.models.ngram_table import NgramTable
from halfwatt.models.sampling import Sampling
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.runtimes.base import OperatingPoint, Reply, common_prefix, one_by_one, require_room
from halfwatt.runtimes.llamacpp_continuations import ContinuationScorer
from halfwatt.runtimes.speculation import Drafter, LookupDrafter, TableDrafter
from halfwatt.runtimes.text_stream import stream_text

_FIRST_CONTEXT = 2048  # tokens, of all sequences; grown when dialogues need more, up to what the model was trained for
_LOGITS_AT_ONCE = 64  # tokens in a batch whose logits are all kept; bounds that buffer
UBATCH = 512  # prompt tokens computed together
_KV_TYPES = {16: llama.GGML_TYPE_F16, 8: llama.GGML_TYPE_Q8_0, 4: llama.GGML_TYPE_Q4_0}
_KV_SHARE = {16: 1.0, 8: 34 / 64, 4: 18 / 64}  # bytes of a block of 32 values, against fp16

T = TypeVar("T")


class LlamaCppSession:
    """Implements `halfwatt.runtimes.base.Session`.

    threads, threads_prefill:  as used; where the operating point names none, every core this process may use
    longest:                   tokens of the model's context
    """

    def __init__(
        self, artifact: Artifact, gguf: str, at: OperatingPoint, table: NgramTable | None = None, *, gpu: bool
    ) -> None:
        """Load the model.

        table: of drafts, where the operating point asks for it

        Raises:
            ModelError: llama.cpp cannot load the file; says why. EnvironmentFault: no memory for a context, say.
        """
        self.tokenizer = ChatTokenizer.load(artifact.path)
        self.threads = at.threads or cores()
        self.threads_prefill = at.threads_prefill or self.threads
        self._artifact, self._at, self._gpu, self._table = artifact, at, gpu, table
        self._stops = frozenset(self.tokenizer.eos_ids)
        self._bytes = 0.0
        self._log = _library()
        self._thread = ThreadPoolExecutor(1, "llama.cpp")
        self._context: Any = None
        self._scorer: ContinuationScorer | None = None
        params = llama.llama_model_default_params()
        params.n_gpu_layers = -1 if gpu else 0
        self._model = llama.llama_model_load_from_file(gguf.encode(), params)
        if not self._model:
            raise ModelError(f"llama.cpp cannot load {gguf}", got=self._log.last())
        self._keeps_state = llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(self._model)
        self._vocabulary = llama.llama_model_get_vocab(self._model)
        self._row: Any = ctypes.c_float * llama.llama_vocab_n_tokens(self._vocabulary)  # logits after one token
        self.longest = int(llama.llama_model_n_ctx_train(self._model))
        self._draft_tokens = at.speculation.longest if at.speculation else 0
        at_once = max(UBATCH, _LOGITS_AT_ONCE, at.batch, 1 + self._draft_tokens)
        self._batch = llama.llama_batch_init(at_once, 0, 1)
        for i in range(at_once):
            self._batch.n_seq_id[i] = 1  # each token is of one sequence
        self._size = 0
        self.reserve(_FIRST_CONTEXT // at.batch)

    def reply(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Reply]:
        """Answer each dialogue, one after the other.

        Raises:
            BadInput: a prompt leaves no room for a reply in the model's context.
        """
        return self.in_thread(lambda: [self._answer(dialogue, sampling) for dialogue in batch])

    def replies(self, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
        """Answer each with its own sampling; see `halfwatt.runtimes.base.Session`."""
        return one_by_one(self, prompts, samplings)

    def stream(self, dialogue: Dialogue, sampling: Sampling) -> Generator[str, None, Reply]:
        """Answer one dialogue in pieces of whole characters; the generator's return value is the `Reply`."""
        prompt = self.tokenizer.prompt_ids(dialogue)
        cached = self.in_thread(lambda: self._begin(prompt, sampling))
        tokens = self._generate(prompt, sampling)
        one_by_one = iter(lambda: self.in_thread(lambda: next(tokens, None)), None)
        ids = yield from stream_text(one_by_one, self.tokenizer)
        return self._as_reply(prompt, cached, ids)

    def logits(self, dialogue: Dialogue, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
        """See `halfwatt.runtimes.base.Session`. Forgets the cached prefix."""
        return self.logits_after(self.tokenizer.scored(dialogue).ids, rows)

    def logits_after(self, tokens: Sequence[int], rows: Sequence[int] | None = None) -> NDArray[np.float32]:
        """``[tokens, vocabulary]`` after each of these ids, or after those in ``rows``. Forgets the cached prefix."""
        ids, wanted = list(tokens), range(len(tokens)) if rows is None else frozenset(rows)
        require_room(len(ids), self.longest, reply=0)
        self._make_room(len(ids))
        self.reset()
        starts = range(0, len(ids), _LOGITS_AT_ONCE)
        parts = self.in_thread(lambda: [self._logits_of(ids, at, wanted) for at in starts])
        self.reset()
        return np.concatenate(parts)

    def continuations(self, dialogue: Dialogue, texts: Sequence[str], longest: int) -> list[float]:
        """Summed log p of each text's first tokens as the reply to ``dialogue``, in nats, in a context of its own."""
        prompt = self.tokenizer.answer_prompt_ids(dialogue)
        ids = [self.tokenizer.encode(text)[:longest] for text in texts]
        require_room(len(prompt), self.longest, max(map(len, ids)))
        return self.in_thread(lambda: self._score(prompt, ids))

    @property
    def room(self) -> int:
        """Tokens that each sequence has room for now."""
        return self._size

    def reserve(self, tokens: int) -> None:
        """Room for so many in each sequence, at least, up to what the model was trained for. More empties the cache.

        Raises:
            EnvironmentFault: there is no memory for it.
        """
        self._make_room(min(self.longest, tokens))

    def reset(self) -> None:
        """Empty the KV cache; what lies there is not overwritten, which takes longer than a small model's reply."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        self._forget()

    def sync(self) -> None:
        """Wait until the device is idle."""
        llama.llama_synchronize(self._context)

    def bytes_moved(self) -> int:
        """Bytes of weights and KV cache read for all replies so far: once a decoded token, once a batch of prompt."""
        return int(self._bytes)

    def tokenize(self, text: str) -> list[int]:
        """Token ids that llama.cpp's own tokenizer makes of rendered text, as other programs would see them."""
        raw = text.encode("utf-8")
        room = (llama.llama_token * (len(raw) + 8))()
        if (count := llama.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), False, True)) < 0:
            raise ModelError("llama.cpp could not tokenise a text", got=f"{len(raw)} bytes need {-count} tokens")
        return list(room[:count])

    def stored(self, key: str) -> str | None:
        """The value of a key of the GGUF file as text; None if there is no such key, or if it holds an array."""
        size = llama.llama_model_meta_val_str(self._model, key.encode(), ctypes.create_string_buffer(1), 1)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        llama.llama_model_meta_val_str(self._model, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8")

    def close(self) -> None:
        """Free the context and the model."""
        self._thread.shutdown()
        if self._context is not None:
            if self._scorer is not None:
                self._scorer.close()
            llama.llama_batch_free(self._batch)
            llama.llama_free(self._context)
            llama.llama_model_free(self._model)
            self._context = None

    def in_thread(self, compute: Callable[[], T]) -> T:
        """The result of ``compute``, computed in the session's own thread."""
        return self._thread.submit(compute).result()

    def _answer(self, dialogue: Dialogue, sampling: Sampling) -> Reply:
        prompt = self.tokenizer.prompt_ids(dialogue)
        cached = self._begin(prompt, sampling)
        return self._as_reply(prompt, cached, list(self._generate(prompt, sampling)))

    def _as_reply(self, prompt: list[int], cached: int, ids: list[int]) -> Reply:
        return Reply(self.tokenizer.decode(ids), tuple(ids), len(prompt), cached, ids[-1] in self._stops)

    def _begin(self, prompt: list[int], sampling: Sampling) -> int:
        self._make_room_for([prompt], sampling.max_new_tokens)
        return self._prefill(0, prompt)

    def _make_room_for(self, prompts: Sequence[list[int]], reply: int) -> None:
        """reply: tokens of the longest."""
        longest = max(map(len, prompts))
        require_room(longest, self.longest)
        self.reserve(longest + reply)

    def _prefill(self, slot: int, prompt: list[int]) -> int:
        """Bring a sequence to hold exactly ``prompt``; returns how many of its tokens were there already."""
        shared = common_prefix(self._held[slot], prompt[:-1]) if self._at.reuse_prefix else 0
        if not self._keep(slot, shared):  # this architecture can only forget everything
            shared = 0
            self._keep(slot, 0)
        for start in range(shared, len(prompt), UBATCH):
            self._pass([(slot, prompt[start : start + UBATCH])])
        return shared

    def _generate(self, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        """Sample ids until a stop token (which is given too), the cap, or the end of the context."""
        cap = min(sampling.max_new_tokens, self.longest - len(prompt))
        chain = self._chain(prompt, sampling)
        drafter = self._drafter(prompt)
        drafted: list[int] = []  # decoded with the token before them, and not yielded yet
        right, row = 0, -1  # how many of them the model chose too; the logits that choose the next token
        try:
            for count in range(1, cap + 1):
                token = self._choose(chain, row)
                yield token
                if token in self._stops or count == cap:
                    return
                if drafter is not None:
                    drafter.hear((token,))
                if drafted[right : right + 1] == [token]:
                    right = row = right + 1
                    continue
                if right < len(drafted):
                    self._keep(0, len(self._held[0]) - (len(drafted) - right))
                drafted = [] if drafter is None else drafter.guess(min(self._draft_tokens, cap - count))
                right = row = 0
                self._pass([(0, [token, *drafted])], [True] * (1 + len(drafted)))
        finally:
            if chain is not None:
                llama.llama_sampler_free(chain)

    def _chain(self, prompt: list[int], sampling: Sampling) -> Any:
        """A sampler for one reply; None = the largest logit wins."""
        if _is_greedy(sampling):
            return None
        chain = _sampler(sampling, self._row._length_, self.longest)
        if sampling.repetition_penalty != 1.0:
            for token in prompt:  # the penalty looks at the prompt too, as in transformers
                llama.llama_sampler_accept(chain, token)
        return chain

    def _choose(self, chain: Any, row: int) -> int:
        """The next token; without a sampler the first of the largest logits, read in place: a sampler copies all."""
        if chain is not None:
            return int(llama.llama_sampler_sample(chain, self._context, row))
        first = llama.llama_get_logits_ith(self._context, row)
        return int(np.frombuffer(self._row.from_address(ctypes.addressof(first.contents)), np.float32).argmax())

    def _drafter(self, prompt: list[int]) -> Drafter | None:
        if self._at.speculation is None or self._keeps_state:  # a state takes no wrong guess back
            return None
        drafter = LookupDrafter() if self._table is None else TableDrafter(self._table, self._at.speculation.least)
        drafter.hear(prompt)
        return drafter

    def _keep(self, slot: int, count: int) -> bool:
        """Forget all but the first tokens of a sequence; False where llama.cpp can only forget everything."""
        del self._held[slot][count:]
        return bool(llama.llama_memory_seq_rm(llama.llama_get_memory(self._context), slot, count, -1))

    def _pass(self, parts: Sequence[tuple[int, list[int]]], wanted: Sequence[bool] | None = None) -> None:
        """Decode some tokens of each sequence: (its number, their ids).

        The logits after the ``wanted`` tokens of all (None = after the last one of each) can be read, in order.
        """
        batch, row = self._batch, 0
        for slot, ids in parts:
            start = len(self._held[slot])
            for n, token in enumerate(ids):
                batch.token[row], batch.pos[row], batch.seq_id[row][0] = token, start + n, slot
                batch.logits[row] = n == len(ids) - 1 if wanted is None else wanted[row]
                row += 1
        batch.n_tokens = row
        if (code := llama.llama_decode(self._context, batch)) != 0:
            self.reset()
            raise EnvironmentFault(f"llama_decode failed with code {code}", got=self._log.last())
        for slot, ids in parts:
            self._held[slot] += ids
        read = sum(len(self._held[slot]) for slot, _ in parts)  # tokens whose keys and values were read
        a = self._artifact
        self._bytes += a.weights_read_b + read * a.kv_b_per_token * _KV_SHARE[self._at.kv_bits]

    def _logits_of(self, ids: list[int], start: int, rows: Container[int]) -> NDArray[np.float32]:
        """Decode a batch and copy the logits of those of its tokens that are in ``rows``, [rows, vocabulary]."""
        part = ids[start : start + _LOGITS_AT_ONCE]
        wanted = [start + n in rows for n in range(len(part))]
        before = self._bytes
        self._pass([(0, part)], wanted)
        self._bytes = before  # not a reply
        shape = sum(wanted), llama.llama_vocab_n_tokens(self._vocabulary)
        if not shape[0]:
            return np.empty(shape, np.float32)
        return np.ctypeslib.as_array(llama.llama_get_logits(self._context), shape=shape).copy()

    def _make_room(self, tokens: int) -> None:
        """A context of at least this many tokens. A new one is twice as large as it must be, and empty."""
        if tokens <= self._size:
            return
        if self._context is not None:
            llama.llama_free(self._context)
        self._size = min(self.longest, max(tokens, 2 * self._size))
        self._forget()
        params = self._context_params()
        params.n_ctx, params.n_seq_max = self._size * self._at.batch, self._at.batch
        params.n_batch = params.n_ubatch = UBATCH
        self._context = llama.llama_init_from_model(self._model, params)
        if not self._context:
            llama.llama_model_free(self._model)
            raise EnvironmentFault(f"llama.cpp cannot make a context of {self._size} tokens", got=self._log.last())

    def _context_params(self) -> Any:
        """Threads, types and devices; how much fits is the caller's."""
        params = llama.llama_context_default_params()
        params.n_threads, params.n_threads_batch = self.threads, self.threads_prefill
        params.type_k = params.type_v = _KV_TYPES[self._at.kv_bits]
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.offload_kqv = params.op_offload = self._gpu
        return params

    def _score(self, prompt: list[int], texts: list[list[int]]) -> list[float]:
        if self._scorer is None:
            self._scorer = ContinuationScorer(self._model, self._context_params())
        return self._scorer.score(prompt, texts)

    def _forget(self) -> None:
        self._held: list[list[int]] = [[] for _ in range(self._at.batch)]  # the ids in each sequence's cache, in order


def _is_greedy(sampling: Sampling) -> bool:
    return sampling.temperature == 0 and sampling.repetition_penalty == 1.0


def _sampler(sampling: Sampling, vocabulary: int, longest: int) -> Any:
    """A sampler chain in transformers' order: repetition penalty, temperature, top-k, top-p, min-p, draw."""
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    penalty, drawn = sampling.repetition_penalty, sampling.temperature != 0
    links: tuple[tuple[bool, Any, tuple[float, ...]], ...] = (
        (penalty != 1.0, llama.llama_sampler_init_penalties, (vocabulary, longest, penalty, 0.0, 0.0)),
        (not drawn, llama.llama_sampler_init_greedy, ()),
        (drawn, llama.llama_sampler_init_temp, (sampling.temperature,)),
        (drawn and sampling.top_k > 0, llama.llama_sampler_init_top_k, (sampling.top_k,)),
        (drawn and sampling.top_p < 1, llama.llama_sampler_init_top_p, (sampling.top_p, 1)),
        (drawn and sampling.min_p > 0, llama.llama_sampler_init_min_p, (sampling.min_p, 1)),
        (drawn, llama.llama_sampler_init_dist, (sampling.seed & 0x7FFFFFFF,)),
    )
    for wanted, init, values in links:
        if wanted:
            llama.llama_sampler_chain_add(chain, init(*values))
    return chain


class _Log:
    """llama.cpp's log: nothing is printed, the last error lines are kept for messages."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=3)
        self._callback = llama.llama_log_callback(self._keep)  # held here, because C keeps only its address
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))

    def last(self) -> str | None:
        return "; ".join(self._lines) or None

    def _keep(self, level: int, text: bytes, _data: object) -> None:
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            self._lines.append(text.decode("utf-8", "replace").strip())


@functools.cache
def _library() -> _Log:
    """Start llama.cpp with its log caught. There is one log sink and one library a process, so this is made once."""
    log = _Log()
    llama.llama_backend_init()
    return log
