"""The llama.cpp runtime: replies against transformers' own, the KV cache's bookkeeping, and what `open` refuses."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama_cpp import llama_cpp as llama_c
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.core.errors import BadInput, EnvironmentFault, ModelError
from halfwatt.core.files import sha256_file
from halfwatt.core.json_records import from_json
from halfwatt.core.machine import cores
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.formats.artifact import Artifact
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes import llamacpp_session
from halfwatt.runtimes.base import OperatingPoint
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.llamacpp_session import LlamaCppSession
from tests.support import tiny_models as tiny

ONE = OperatingPoint(threads=1)
SHORT = Sampling(max_new_tokens=16)
FIRST, SECOND = (d.before(1) for d in tiny.dialogues()[:4:3])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load(tiny.folder(tmp_path_factory.mktemp("model"), "llama"))


@pytest.fixture(scope="module")
def artifact(llama: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Gguf().write(llama, tmp_path_factory.mktemp("artifact") / "out")


@pytest.fixture
def session(artifact: Artifact) -> Iterator[LlamaCppSession]:
    with LlamaCpp().open(artifact, ONE) as opened:
        yield opened


def by_transformers(model: ChatModel, dialogue: Dialogue, sampling: Sampling) -> list[int]:
    prompt = torch.tensor([model.tokenizer.prompt_ids(dialogue)])
    network: Any = model.network
    ids = network.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=sampling.max_new_tokens,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=list(model.tokenizer.eos_ids),
        pad_token_id=tiny.PAD,
    )
    return [int(i) for i in ids[0, prompt.shape[1] :]]


# --- replies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_greedy_replies_are_transformers_greedy_replies(arch: tiny.Arch, tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, arch))
    with LlamaCpp().open(Gguf().write(model, tmp_path / "out"), ONE) as session:
        for dialogue in tiny.dialogues():
            prompt = dialogue.before(dialogue.assistant_turns[-1])
            reply = session.reply([prompt], SHORT)[0]
            assert list(reply.token_ids) == by_transformers(model, prompt, SHORT)
            assert reply.text == model.tokenizer.decode(reply.token_ids)
            assert reply.tokens_in == len(model.tokenizer.prompt_ids(prompt))


def test_the_repetition_penalty_looks_at_prompt_and_reply_as_transformers_does(
    llama: ChatModel, session: LlamaCppSession
) -> None:
    punished = replace(SHORT, repetition_penalty=1.7)
    replies = [list(session.reply([FIRST], s)[0].token_ids) for s in (SHORT, punished)]
    assert replies == [by_transformers(llama, FIRST, s) for s in (SHORT, punished)]
    assert replies[0] != replies[1]


def test_samples_are_drawn_from_transformers_distribution(llama: ChatModel, session: LlamaCppSession) -> None:
    sampling = Sampling(temperature=1.3, top_k=8, top_p=0.9, min_p=0.02, repetition_penalty=1.2, max_new_tokens=1)
    ids = torch.tensor([llama.tokenizer.prompt_ids(FIRST)])
    warpers: Any = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
            TemperatureLogitsWarper(sampling.temperature),
            TopKLogitsWarper(sampling.top_k),
            TopPLogitsWarper(sampling.top_p),
            MinPLogitsWarper(sampling.min_p),
        ]
    )
    with torch.inference_mode():
        wanted = warpers(ids, llama.network(ids).logits[:, -1]).softmax(-1)[0]
    draws = 1500
    got = Counter(session.reply([FIRST], replace(sampling, seed=i))[0].token_ids[0] for i in range(draws))
    assert set(got) <= {int(i) for i in wanted.nonzero()}
    for token, probability in enumerate(wanted.tolist()):
        spread = 4.5 * (probability * (1 - probability) / draws) ** 0.5
        assert abs(got[token] / draws - probability) <= spread


def test_the_stop_list_is_honoured_and_the_cap_is_told_from_it(llama: ChatModel, tmp_path: Path) -> None:
    free = by_transformers(llama, FIRST, SHORT)
    assert len(free) == SHORT.max_new_tokens  # random weights do not stop by themselves here
    stop = next(t for t in free[2:] if t not in free[:2])
    stopping = load(tiny.folder(tmp_path, generation={"eos_token_id": [tiny.END, stop]}))
    with LlamaCpp().open(Gguf().write(stopping, tmp_path / "out"), ONE) as session:
        reply = session.reply([FIRST], SHORT)[0]
        assert list(reply.token_ids) == free[: free.index(stop) + 1]
        assert reply.stopped
        assert not session.reply([FIRST], replace(SHORT, max_new_tokens=2))[0].stopped


# --- the cache -----------------------------------------------------------------------------------------------------


def test_the_same_prompt_again_leaves_one_token_to_decode(session: LlamaCppSession) -> None:
    first, again = (session.reply([FIRST], SHORT)[0] for _ in range(2))
    assert again.tokens_cached == first.tokens_in - 1
    assert again.token_ids == first.token_ids


def test_reset_and_logits_forget_the_prefix(session: LlamaCppSession) -> None:
    wanted = session.reply([FIRST], SHORT)[0]
    for forget in (session.reset, lambda: session.logits(tiny.dialogues()[1])):
        forget()
        assert session.reply([FIRST], SHORT)[0] == wanted  # tokens_cached = 0 included


def test_logits_are_torchs_whatever_the_batch(
    llama: ChatModel, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogue = tiny.dialogues()[2]
    ids = torch.tensor([llama.tokenizer.scored(dialogue).ids])
    with torch.inference_mode():
        wanted = llama.network(ids).logits[0].numpy()
    for at_once in (64, 7):
        monkeypatch.setattr(llamacpp_session, "_LOGITS_AT_ONCE", at_once)
        with LlamaCpp().open(artifact, ONE) as session:
            got = session.logits(dialogue)
            few = [1, 8, len(got) - 1]  # of some batches none
            assert np.abs(session.logits(dialogue, few) - got[few]).max() < 0.05 * wanted.std()
        assert got.shape == wanted.shape
        assert got.dtype == np.float32
        assert np.abs(got - wanted).max() < 0.05 * wanted.std()


def test_torch_may_compute_between_replies(llama: ChatModel, tmp_path: Path) -> None:
    """Where the processor has AMX, torch's bf16 products take the tiles that llama.cpp configured in that thread."""
    made = Gguf().write(Quantize(8).apply(llama, StepContext()), tmp_path / "int8")
    some = torch.randn(256, 256, dtype=torch.bfloat16)
    with LlamaCpp().open(made, ONE) as session:
        wanted, logits = session.reply([FIRST], SHORT)[0].token_ids, session.logits(tiny.dialogues()[1])
        some @ some
        assert session.reply([FIRST], SHORT)[0].token_ids == wanted
        some @ some
        assert np.array_equal(session.logits(tiny.dialogues()[1]), logits)
        some @ some
        streamed = list(session.stream(FIRST, SHORT))
        some @ some
        assert streamed == list(session.stream(FIRST, SHORT))


def test_a_context_grows_when_a_dialogue_needs_it(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    long = Dialogue("long", (Message("user", "light " * 60),))
    with LlamaCpp().open(artifact, ONE) as roomy:
        wanted = roomy.reply([long], SHORT)[0].token_ids
    monkeypatch.setattr(llamacpp_session, "_FIRST_CONTEXT", 32)
    with LlamaCpp().open(artifact, ONE) as tight:
        assert tight.reply([long], SHORT)[0].token_ids == wanted


def test_a_reply_ends_with_the_context(session: LlamaCppSession) -> None:
    prompt = Dialogue("nearly", (Message("user", "light " * 245),))
    session._stops = frozenset()
    reply = session.reply([prompt], replace(SHORT, max_new_tokens=400))[0]
    assert reply.tokens_in + len(reply.token_ids) == session.longest == 512
    assert not reply.stopped


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_the_cache_may_have_fewer_bits(bits: Any, tmp_path: Path) -> None:
    base = load(tiny.folder(tmp_path, "qwen3"))
    wide = replace(base, network=tiny.network("qwen3", width=128))  # heads of 32, a block of the small types
    artifact = Gguf().write(wide, tmp_path / "out")
    dialogue = tiny.dialogues()[1]
    with LlamaCpp().open(artifact, replace(ONE, kv_bits=bits)) as session:
        got = session.logits(dialogue)
        session.reply([FIRST], replace(SHORT, max_new_tokens=1))
        moved = session.bytes_moved() - artifact.weights_read_b
    with torch.inference_mode():
        wanted = wide.network(torch.tensor([wide.tokenizer.scored(dialogue).ids])).logits[0].numpy()
    error = float(np.abs(got - wanted).mean() / wanted.std())
    assert error < {16: 2e-3, 8: 0.03, 4: 0.5}[bits]
    assert bits == 16 or error > 3e-3  # the setting reaches the cache
    tokens = len(wide.tokenizer.prompt_ids(FIRST))
    assert moved == pytest.approx(tokens * artifact.kv_b_per_token * {16: 1, 8: 34 / 64, 4: 18 / 64}[bits], abs=1)


def test_bytes_moved_are_weights_and_cache_once_a_step(artifact: Artifact, session: LlamaCppSession) -> None:
    reply = session.reply([FIRST], SHORT)[0]
    lengths = [reply.tokens_in + i for i in range(len(reply.token_ids))]  # the prompt, then all but the last id
    assert session.bytes_moved() == sum(artifact.weights_read_b + n * artifact.kv_b_per_token for n in lengths)
    with LlamaCpp().open(artifact, replace(ONE, reuse_prefix=False)) as forgets:
        forgets.reply([FIRST, FIRST], SHORT)
        assert forgets.bytes_moved() == 2 * session.bytes_moved()
    assert artifact.kv_b_per_token == 2 * 2 * 16 * 2 * 2  # layers, KV heads, values a head, keys and values, bytes


def test_threads_are_recorded(artifact: Artifact) -> None:
    with LlamaCpp().open(artifact, OperatingPoint(threads=2, threads_prefill=3)) as session:
        assert (session.threads, session.threads_prefill) == (2, 3)
    with LlamaCpp().open(artifact, OperatingPoint()) as session:
        assert session.threads == session.threads_prefill == cores()


# --- export and open -----------------------------------------------------------------------------------------------


def test_the_folder_is_whole_and_serves_without_torch(artifact: Artifact) -> None:
    assert from_json((artifact.path / "artifact.json").read_bytes(), Artifact) == artifact
    assert {p.name for p in artifact.path.iterdir()} == {
        "model.gguf",
        "artifact.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    }
    assert artifact.sha256 == sha256_file(artifact.path / "model.gguf")
    script = (
        "import sys; from pathlib import Path; from halfwatt.core.json_records import from_json;"
        "from halfwatt.formats.artifact import Artifact; from halfwatt.runtimes.base import OperatingPoint;"
        "from halfwatt.models.sampling import Sampling; from halfwatt.dialogues.dialogue import Dialogue, Message;"
        "from halfwatt.runtimes.llamacpp import LlamaCpp;"
        f"a = from_json(Path({str(artifact.path / 'artifact.json')!r}).read_bytes(), Artifact)\n"
        "with LlamaCpp().open(a, OperatingPoint(threads=1)) as s:\n"
        "    r = s.reply([Dialogue('x', (Message('user', 'Hi'),))], Sampling(max_new_tokens=4))\n"
        "print(len(r[0].token_ids), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "False"]
    assert "llama" not in done.stderr  # its log stays silent


def test_two_hundred_damaged_files_never_reach_llama_cpp(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("a damaged file was handed to llama.cpp")

    monkeypatch.setattr(llama_c, "llama_model_load_from_file", loaded)
    whole = (artifact.path / "model.gguf").read_bytes()
    moved = replace(artifact, path=tmp_path)
    draw = random.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        if draw.random() < 0.5:
            del damaged[draw.randrange(len(whole)) :]
        else:
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        (tmp_path / "model.gguf").write_bytes(damaged)
        with pytest.raises(ModelError, match="not the file that was exported"), LlamaCpp().open(moved, ONE):
            pass


def test_a_file_that_is_no_gguf_fails_with_llama_cpps_reason(artifact: Artifact, tmp_path: Path) -> None:
    for path in artifact.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.gguf").write_bytes(b"not a model" * 100)
    moved = replace(artifact, path=tmp_path, sha256=sha256_file(tmp_path / "model.gguf"))
    with pytest.raises(ModelError, match=r"cannot load .* \(found: .*(magic|failed)"), LlamaCpp().open(moved, ONE):
        pass


def test_what_this_runtime_cannot_do_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cpu or cuda"), LlamaCpp("tpu").open(artifact, ONE):
        pass
    with pytest.raises(ModelError, match=r"no model\.gguf"), LlamaCpp().open(replace(artifact, path=tmp_path), ONE):
        pass


@pytest.mark.skipif(llama_c.llama_supports_gpu_offload(), reason="this build has a GPU")
def test_a_gpu_that_the_build_lacks_is_refused_with_the_command(artifact: Artifact) -> None:
    with pytest.raises(EnvironmentFault, match="GGML_CUDA"), LlamaCpp("cuda").open(artifact, ONE):
        pass


def test_a_quantized_model_replies_like_its_own_weights(llama: ChatModel, tmp_path: Path) -> None:
    made = Quantize(8).apply(llama, StepContext())
    with LlamaCpp().open(Gguf().write(made, tmp_path / "out"), ONE) as session:
        reply = session.reply([FIRST], replace(SHORT, max_new_tokens=4))[0]
    assert list(reply.token_ids) == by_transformers(made, FIRST, replace(SHORT, max_new_tokens=4))
