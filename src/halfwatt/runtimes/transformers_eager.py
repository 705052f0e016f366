"""The model as it is commonly run: transformers' ``generate``. Baseline B0, and the reference for correctness.

The model's own settings of beams and bans hold, which no other runtime here has; how replies are drawn and how long
they may be is asked for with each. Nothing is tuned: the default attention, torch's own number of threads unless one is
asked for, a KV cache within a reply and none between replies (`Reply.tokens_cached` is 0 whatever the operating point
says).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from halfwatt.core.errors import BadInput, ModelError
from halfwatt.core.settings import RuntimeName
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.formats.artifact import Artifact
from halfwatt.models import model_folder
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.chat_model import quiet, torch_device, torch_dtype
from halfwatt.models.sampling import AND_DRAWN, Sampling, own_settings
from halfwatt.models.tokenizer import ChatTokenizer, from_pretrained
from halfwatt.models.weights import weights_read
from halfwatt.runtimes.base import OperatingPoint, Reply, one_by_one, require_room
from halfwatt.runtimes.text_stream import stream_text


@dataclass(frozen=True, slots=True)
class TransformersEager:
    """transformers on ``device``, in ``dtype`` ("auto": as stored)."""

    device: str = "cpu"
    dtype: str = "auto"

    name: ClassVar[RuntimeName] = "torch_eager"

    @contextmanager
    def open(self, artifact: Artifact, at: OperatingPoint) -> Iterator[TransformersSession]:
        """Load the artifact; torch's thread count is set for the session when ``at.threads`` names one.

        Raises:
            ModelError: the model was changed since its export. EnvironmentFault: there is no such device here.
            BadInput: the operating point asks for what ``generate`` does not do.
        """
        device = torch_device(self.device)
        if at.kv_bits != 16:
            raise BadInput("torch_eager keeps its KV cache as it computes it", got=f"{at.kv_bits} bits", hint="use 16")
        if at.speculation is not None:
            raise BadInput("torch_eager does not guess ahead", got=at.speculation.kind, hint="leave speculation out")
        files = model_folder.weight_files(artifact.path)
        if model_folder.fingerprint(artifact.path, files, None) != artifact.sha256:
            raise ModelError(f"{artifact.path} is not the model that was exported", hint="export it again")
        threads = torch.get_num_threads()
        if at.threads is not None:
            torch.set_num_threads(at.threads)
        try:
            yield TransformersSession(artifact, device, torch_dtype(self.dtype), at.batch)
        finally:
            torch.set_num_threads(threads)


class TransformersSession:
    """Implements `halfwatt.runtimes.base.Session`."""

    def __init__(self, artifact: Artifact, device: torch.device, dtype: torch.dtype | None, batch: int = 1) -> None:
        """dtype: None = as stored; batch: dialogues that `replies` asks at once"""
        self._batch = batch
        self.tokenizer = ChatTokenizer.load(artifact.path)
        with quiet():
            network: PreTrainedModel = from_pretrained(
                AutoModelForCausalLM, artifact.path, dtype=dtype or "auto", use_safetensors=True
            )
        self.network = network.to(device).eval()  # type: ignore[arg-type]
        self._own = own_settings(artifact.path)
        stops = self._own.get("stop_strings", [])
        self._stop_strings = [stops] if isinstance(stops, str) else stops
        self._beams = int(self._own.get("num_beams", 1))
        # What is not asked for is off: ``generate`` fills in what a request leaves open from here.
        self.network.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        self._longest = int(self.network.config.max_position_embeddings)
        self._weights_b = weights_read(self.network) * self.network.dtype.itemsize
        self._kv_b = architecture_of(self.network).kv_numbers(self.network.config) * self.network.dtype.itemsize
        self._bytes = 0

    def reply(self, batch: Sequence[Dialogue], sampling: Sampling) -> list[Reply]:
        """Answer the dialogues together, the shorter prompts padded on the left.

        Raises:
            BadInput: a prompt leaves no room for a reply in the model's context.
        """
        prompts = [self.tokenizer.prompt_ids(dialogue) for dialogue in batch]
        rows = self._generate(prompts, sampling)
        return [self._as_reply(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]

    def replies(self, prompts: Sequence[Dialogue], samplings: Sequence[Sampling]) -> list[Reply]:
        """Prompts of about one length together where nothing is drawn: draws would hang on who else is asked."""
        if any(sampling != samplings[0] or sampling.temperature > 0 for sampling in samplings):
            return one_by_one(self, prompts, samplings)
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n].messages[-1].content))
        batches = [order[i : i + self._batch] for i in range(0, len(order), self._batch)]
        numbered: dict[int, Reply] = {}
        for some in batches:
            numbered |= zip(some, self.reply([prompts[n] for n in some], samplings[0]), strict=True)
        return [numbered[n] for n in range(len(prompts))]

    def stream(self, dialogue: Dialogue, sampling: Sampling) -> Generator[str, None, Reply]:
        """Answer one dialogue in pieces of whole characters; the generator's return value is the `Reply`.

        ``generate`` runs in a thread of its own; it stops at the next token when the generator is closed. Beams have no
        reply before they end.
        """
        if self._beams > 1:
            reply = self.reply([dialogue], sampling)[0]
            yield reply.text
            return reply
        prompt = self.tokenizer.prompt_ids(dialogue)
        tap = _Tap()
        thread = Thread(target=tap.run, args=(lambda: self._generate([prompt], sampling, tap),))
        thread.start()
        try:
            ids = yield from stream_text(tap.results(), self.tokenizer)
        finally:
            tap.closed.set()
            thread.join()
        return self._as_reply(prompt, ids)

    def logits(self, dialogue: Dialogue, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
        """See `halfwatt.runtimes.base.Session`."""
        ids = self.tokenizer.encode(self.tokenizer.render(dialogue, prompt=False))
        return self._logits(ids, range(len(ids)) if rows is None else rows)

    def continuations(self, dialogue: Dialogue, texts: Sequence[str], longest: int) -> list[float]:
        """Summed log p of each text's first tokens as the reply to ``dialogue``; the prompt is read for each again."""
        prompt, sums = self.tokenizer.answer_prompt_ids(dialogue), []
        for text in texts:
            ids = self.tokenizer.encode(text)[:longest]
            rows = self._logits(prompt + ids, range(len(prompt) - 1, len(prompt) + len(ids) - 1))
            log_p = log_softmax(rows.astype(float), axis=1)
            sums.append(float(log_p[range(len(ids)), ids].sum()))
        return sums

    def _logits(self, ids: list[int], rows: Sequence[int]) -> NDArray[np.float32]:
        require_room(len(ids), self._longest, reply=0)
        device = self.network.device
        with torch.inference_mode():
            wanted = torch.tensor(rows, dtype=torch.long, device=device)
            output = self.network(input_ids=torch.tensor([ids], device=device), use_cache=False, logits_to_keep=wanted)
        logits: NDArray[np.float32] = output.logits[0].float().numpy(force=True)
        return logits

    def reset(self) -> None:
        """Nothing is kept between replies."""

    def sync(self) -> None:
        """Wait until the device is idle."""
        if self.network.device.type == "cuda":
            torch.cuda.synchronize(self.network.device)
        elif self.network.device.type == "mps":
            torch.mps.synchronize()

    def bytes_moved(self) -> int:
        """Bytes of weights and KV cache read for all replies so far, see `bytes_read`."""
        return self._bytes

    def _generate(self, prompts: Sequence[list[int]], sampling: Sampling, tap: _Tap | None = None) -> list[list[int]]:
        """The new tokens of each row, padding cut off."""
        longest = max(map(len, prompts))
        require_room(longest, self._longest)
        steps = min(sampling.max_new_tokens, self._longest - longest)
        ids = [[self.tokenizer.pad_id] * (longest - len(p)) + p for p in prompts]
        mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
        most, device = {"min_new_tokens": steps, "min_length": longest + steps}, self.network.device
        own = {name: min(value, most[name]) if name in most else value for name, value in self._own.items()}
        more: dict[str, Any] = {"tokenizer": self.tokenizer.hf} if "stop_strings" in own else {}
        if tap is not None:
            more |= {"streamer": tap, "stopping_criteria": StoppingCriteriaList([tap])}
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.inference_mode():
            torch.manual_seed(sampling.seed)
            rows = self.network.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=generation_config(sampling, steps, self.tokenizer, own),
                **more,
            )
        new = rows[:, longest:].tolist()
        rows_read = len(prompts) * self._beams
        self._bytes += bytes_read(self._weights_b, self._kv_b, rows_read, longest, len(new[0]))
        return [self._cut(prompt, row) for prompt, row in zip(prompts, new, strict=True)]

    def _cut(self, prompt: list[int], row: list[int]) -> list[int]:
        """The row up to its first stop, that included; ``generate`` fills up what follows with padding, which may be a
        stop token."""
        first = bisect_left(range(len(row)), x=True, key=lambda last: self._says_stop(prompt, row[: last + 1]))
        ends = [i + 1 for i, token in enumerate(row) if token in self.tokenizer.eos_ids]
        ends += [max((i + 1 for i, token in enumerate(row) if token != self.tokenizer.pad_id), default=0)]
        return row[: min(ends[0], first + 1)]

    def _says_stop(self, prompt: list[int], ids: list[int]) -> bool:
        """Does one of the stop strings end in the reply? It may begin in the prompt."""
        if not self._stop_strings:
            return False
        tail = prompt[-max(map(len, self._stop_strings)) :]
        before, text = len(self.tokenizer.hf.decode(tail)), self.tokenizer.hf.decode(tail + ids)
        return any(stop in text[max(0, before - len(stop) + 1) :] for stop in self._stop_strings)

    def _as_reply(self, prompt: list[int], ids: list[int]) -> Reply:
        stopped = bool(ids) and (ids[-1] in self.tokenizer.eos_ids or self._says_stop(prompt, ids))
        return Reply(self.tokenizer.decode(ids), tuple(ids), len(prompt), 0, stopped)


class _Tap(BaseStreamer, StoppingCriteria):
    """Hands over the tokens of a ``generate`` in another thread one by one, and ends it once `closed` is set."""

    def __init__(self) -> None:
        self.closed = Event()
        self._tokens: SimpleQueue[int | None] = SimpleQueue()  # None is the end
        self._error: BaseException | None = None
        self._prompt_seen = False

    def run(self, generate: Callable[[], object]) -> None:
        """In the other thread."""
        try:
            generate()
        except BaseException as error:  # noqa: BLE001 - travels to the thread that waits
            self._error = error
        self._tokens.put(None)

    def results(self) -> Iterator[int]:
        """In the thread that waits; ends with the other thread's error, if any."""
        yield from iter(self._tokens.get, None)
        if self._error is not None:
            raise self._error

    def __call__(self, input_ids: torch.Tensor, _scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """For ``generate``, at every token: which rows are done."""
        return torch.full((len(input_ids),), self.closed.is_set(), dtype=torch.bool, device=input_ids.device)

    def put(self, value: torch.Tensor) -> None:
        """``generate`` hands over the prompt first."""
        if self._prompt_seen:
            self._tokens.put(int(value))
        self._prompt_seen = True

    def end(self) -> None:
        """`run` says when it is over."""


def generation_config(
    sampling: Sampling, steps: int, tokenizer: ChatTokenizer, own: Mapping[str, Any]
) -> GenerationConfig:
    """`Sampling` in transformers' words, every one of them explicit, and the model's ``own`` settings beyond it."""
    drawn: dict[str, Any] = {}
    if sampling.temperature > 0:
        drawn = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p")}
        drawn["min_p"] = sampling.min_p or None
    return GenerationConfig(  # type: ignore[no-untyped-call]
        **{name: value for name, value in own.items() if drawn or name not in AND_DRAWN},
        do_sample=bool(drawn),
        **drawn,
        repetition_penalty=sampling.repetition_penalty,
        max_new_tokens=steps,
        use_cache=True,
        eos_token_id=list(tokenizer.eos_ids),
        pad_token_id=tokenizer.pad_id,
    )


def bytes_read(weights_b: int, kv_b: int, rows: int, prompt: int, steps: int) -> int:
    """Bytes a batch reads in ``steps`` passes: the weights, and every row's cache, ``prompt + k`` tokens in pass k."""
    return steps * weights_b + rows * kv_b * (steps * prompt + steps * (steps - 1) // 2)
