"""The reference runtime against transformers itself, and what it counts against what a network really reads."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from halfwatt.core.errors import BadInput, EnvironmentFault, ModelError
from halfwatt.core.json_records import from_json
from halfwatt.formats.artifact import Artifact
from halfwatt.formats.transformers_folder import TransformersFolder
from halfwatt.models import chat_model
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.sampling import ONLY_TRANSFORMERS, Sampling, read_sampling
from halfwatt.models.weights import weights_read
from halfwatt.runtimes.base import OperatingPoint, Reply
from halfwatt.runtimes.transformers_eager import (
    TransformersEager,
    TransformersSession,
    bytes_read,
)
from tests.support import tiny_models as tiny

GREEDY = Sampling(max_new_tokens=20)
WARM = Sampling(temperature=1.0, top_k=50, max_new_tokens=20, seed=3)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path, "llama")


def session(folder: Path, at: OperatingPoint | None = None, **options: Any) -> Any:
    runtime = TransformersEager(**options)
    artifact = TransformersFolder(runtime.dtype).write(chat_model.load(folder), folder.parent / "exported")
    return runtime.open(artifact, at or OperatingPoint())


def prompts() -> list[Any]:
    return [d.before(d.assistant_turns[-1]) for d in tiny.dialogues()]


def drain(pieces: Any) -> tuple[list[str], Reply]:
    told = []
    while True:
        try:
            told.append(next(pieces))
        except StopIteration as end:
            return told, end.value


OWN: dict[str, Any] = {
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 20,
    "min_length": 30,
    "num_beams": 3,
    "suppress_tokens": "the first replies' tokens",
    "begin_suppress_tokens": "the first replies' tokens",
    "bad_words_ids": "the first replies' tokens",
    "stop_strings": ["e", "a"],
    "exponential_decay_length_penalty": [2, 1.5],
    "encoder_repetition_penalty": 2.0,
    "guidance_scale": 1.5,
}


@pytest.mark.parametrize("setting", OWN)
def test_the_models_own_settings_hold_alone_and_in_a_batch(setting: str, tmp_path: Path) -> None:
    """As in transformers' ``generate`` of the folder as it is; where they are left out another reply comes."""
    with session(tiny.folder(tmp_path / "plain", "llama")) as opened:
        plain = [list(reply.token_ids) for prompt in prompts() for reply in opened.reply([prompt], GREEDY)]
    first = sorted({ids[0] for ids in plain})
    given = {"suppress_tokens": first, "begin_suppress_tokens": first, "bad_words_ids": [[token] for token in first]}
    own = given.get(setting, OWN[setting])
    stops = [tiny.END, tiny.TEXT_END, *({ids[4] for ids in plain} if setting.startswith("min") else ())]
    generation = {setting: own, "eos_token_id": stops, "max_new_tokens": 20}
    folder = tiny.folder(tmp_path, "llama", generation=generation)
    assert read_sampling(folder).only_transformers == (f"{setting} = {str(own)[:40]}",)
    network: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    theirs = []
    with session(folder) as opened:
        for prompt in prompts():
            ids = torch.tensor([opened.tokenizer.prompt_ids(prompt)])
            more = {"tokenizer": tokenizer} if setting == "stop_strings" else {}
            reply = network.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **more)
            theirs.append(reply[0, ids.shape[1] :].tolist())
        alone = [list(opened.reply([prompt], GREEDY)[0].token_ids) for prompt in prompts()]
        streamed = [drain(opened.stream(prompt, GREEDY))[1] for prompt in prompts()]
        opened.tokenizer.pad_id = tiny.END  # what fills up a row may be a stop token
        together = opened.reply(prompts(), GREEDY)
    assert alone == theirs == [list(reply.token_ids) for reply in streamed]
    assert alone != plain
    if setting != "min_length":  # transformers counts what pads a prompt
        assert [list(reply.token_ids) for reply in together] == alone
    if setting == "stop_strings":
        assert any(reply.stopped and reply.token_ids[-1] not in (tiny.END, tiny.TEXT_END) for reply in together)
        assert [reply.stopped for reply in together] == [reply.stopped for reply in streamed]


OFF: dict[str, Any] = {name: [] for name in ONLY_TRANSFORMERS} | {
    "sequence_bias": {},
    "stop_strings": "",
    "num_beams": 1,
    "min_length": 0,
    "guidance_scale": 1.0,
    "encoder_repetition_penalty": 1,
}


def test_what_is_off_however_it_is_written_is_off(tmp_path: Path) -> None:
    """transformers itself refuses some of these: an empty list of banned words, say."""
    settings = OFF | {"typical_p": 1.0, "do_sample": False, "length_penalty": 1.0, "top_h": None}
    folder = tiny.folder(tmp_path, "llama", generation=settings)
    assert read_sampling(folder).only_transformers == ()
    with session(folder) as opened, session(tiny.folder(tmp_path / "plain", "llama")) as plain:
        assert opened.reply(prompts(), GREEDY) == plain.reply(prompts(), GREEDY)


def test_a_stop_string_may_begin_in_the_prompt(tmp_path: Path) -> None:
    """As the last line break of the template and the first of a reply."""
    with session(tiny.folder(tmp_path / "plain", "llama")) as opened:
        first = opened.reply([prompts()[0]], GREEDY)[0].token_ids[0]
        said = opened.tokenizer.decode([first])
    folder = tiny.folder(tmp_path, "llama", generation={"stop_strings": [f"assistant\n{said}"]})
    with session(folder) as opened:
        opened.tokenizer.pad_id = tiny.END
        alone, together = opened.reply([prompts()[0]], GREEDY)[0], opened.reply(prompts(), GREEDY)[0]
    assert (alone.token_ids, alone.stopped) == (together.token_ids, together.stopped) == ((first,), True)


@pytest.mark.parametrize("setting", ["guidance_scale", "forced_eos_token_id"])
def test_a_zero_that_does_something_is_told(setting: str, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path, "llama", generation={setting: 0})
    assert read_sampling(folder).only_transformers == (f"{setting} = 0",)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("do_sample", "false"),
        ("do_sample", 1),
        ("max_new_tokens", True),
        ("max_new_tokens", 20.5),
        ("repetition_penalty", "1.1"),
        ("num_beams", "4"),
        ("min_length", -1),
        ("bad_words_ids", [7]),
        ("suppress_tokens", [[7]]),
        ("sequence_bias", "much"),
        ("stop_strings", [7]),
        ("exponential_decay_length_penalty", ["a", 1.5]),
        ("early_stopping", 1),
        ("max_new_tokens", math.inf),
        ("guidance_scale", math.nan),
        ("num_beams", 0),
        ("exponential_decay_length_penalty", [20]),
        ("sequence_bias", [[[5], 1.0], [5]]),
        ("stop_strings", [""]),
    ],
)
def test_a_value_that_cannot_be_is_named(setting: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({setting: value}))
    with pytest.raises(ModelError, match=rf"value that cannot be \(found: {setting} = ") as caught:
        read_sampling(tmp_path)
    assert repr(value) in str(caught.value)


def test_a_way_of_generating_that_transformers_has_no_more_is_refused(tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path, "llama", generation={"num_beam_groups": 2, "num_beams": 4})
    with pytest.raises(ModelError, match=r"transformers 5 does not do.*num_beam_groups = 2"):
        read_sampling(folder)


def test_what_holds_only_where_replies_are_drawn_is_told_only_there(tmp_path: Path) -> None:
    drawn = tiny.folder(tmp_path, "llama", seed=1, generation={"typical_p": 0.5, "do_sample": True})
    assert read_sampling(drawn).only_transformers == ("typical_p = 0.5",)
    assert read_sampling(tiny.folder(tmp_path, "llama", generation={"typical_p": 0.5})).only_transformers == ()


@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_greedy_is_transformers_own(tmp_path: Path, arch: tiny.Arch) -> None:
    folder = tiny.folder(tmp_path, arch)
    network: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)  # AutoTokenizer would split as Qwen2's class does
    with session(folder) as opened:
        for prompt in prompts():
            chat = [{"role": m.role, "content": m.content} for m in prompt.messages]
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
            length = ids["input_ids"].shape[1]
            theirs = network.generate(**ids, do_sample=False, max_new_tokens=20)[0, length:].tolist()
            (reply,) = opened.reply([prompt], GREEDY)
            assert list(reply.token_ids) == theirs
            assert (reply.tokens_in, reply.tokens_cached, reply.stopped) == (length, 0, False)
            assert reply.text == tokenizer.decode(theirs, skip_special_tokens=True)


def test_a_stop_token_ends_the_reply_and_belongs_to_it(tmp_path: Path) -> None:
    with session(tiny.folder(tmp_path, "qwen2")) as opened:
        free = opened.reply(prompts(), GREEDY)
    stop = free[0].token_ids[5]  # let the list of stop tokens end in one that this model does choose
    cut = free[0].token_ids.index(stop)
    folder = tiny.folder(tmp_path / "stops", "qwen2", generation={"eos_token_id": [tiny.END, stop]})
    with session(folder) as opened:
        (alone,) = opened.reply([prompts()[0]], GREEDY)
        together = opened.reply(prompts(), GREEDY)
        told, streamed = drain(opened.stream(prompts()[0], GREEDY))
    assert alone == streamed == together[0]
    assert alone.token_ids == free[0].token_ids[: cut + 1]
    assert alone.stopped
    assert "".join(told) == alone.text
    for reply, whole in zip(together, free, strict=True):
        assert reply.token_ids == whole.token_ids[: len(reply.token_ids)]
        assert reply.stopped == (stop in reply.token_ids)
    assert not all(r.stopped for r in together), "the batch must hold rows that stop and rows that do not"


@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_a_padded_batch_answers_as_each_dialogue_alone(tmp_path: Path, arch: tiny.Arch) -> None:
    with session(tiny.folder(tmp_path, arch)) as opened:
        alone = [opened.reply([prompt], GREEDY)[0] for prompt in prompts()]
        assert opened.reply(prompts(), GREEDY) == alone


def test_sampling_depends_on_its_seed_alone(folder: Path) -> None:
    with session(folder) as opened:
        state = torch.get_rng_state()
        first = opened.reply(prompts()[:1], WARM)
        assert torch.equal(torch.get_rng_state(), state), "the process's own random numbers are left alone"
        torch.manual_seed(77)
        assert opened.reply(prompts()[:1], WARM) == first
        assert drain(opened.stream(prompts()[0], WARM))[1] == first[0]
        assert opened.reply(prompts()[:1], replace(WARM, seed=4)) != first
        assert opened.reply(prompts()[:1], replace(WARM, top_k=1)) == opened.reply(prompts()[:1], GREEDY)


def test_how_the_model_itself_would_draw_does_not_leak_in(tmp_path: Path) -> None:
    with session(tiny.folder(tmp_path, "llama")) as opened:
        plain = opened.reply(prompts(), GREEDY)
    loud = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0, "min_p": 0.5, "typical_p": 0.5}
    with session(tiny.folder(tmp_path / "loud", "llama", generation=loud)) as opened:
        assert opened.reply(prompts(), GREEDY) == plain
        assert opened.reply(prompts(), replace(GREEDY, repetition_penalty=3.0)) != plain


def test_a_closed_stream_stops_generating(folder: Path) -> None:
    with session(folder) as opened:
        before = opened.bytes_moved()
        pieces = opened.stream(prompts()[0], replace(GREEDY, max_new_tokens=400))
        next(pieces)
        pieces.close()
        moved = opened.bytes_moved() - before
        opened.reply([prompts()[0]], replace(GREEDY, max_new_tokens=400))
        assert 0 < moved < 0.9 * (opened.bytes_moved() - before - moved)


def test_a_stream_carries_its_errors(folder: Path) -> None:
    with session(folder) as opened:
        opened.network.lm_head = torch.nn.Linear(1, 1)
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            drain(opened.stream(prompts()[0], GREEDY))


@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_logits(tmp_path: Path, arch: tiny.Arch) -> None:
    folder = tiny.folder(tmp_path, arch)
    network = AutoModelForCausalLM.from_pretrained(folder)
    with session(folder) as opened:
        for dialogue in tiny.dialogues():
            ids = opened.tokenizer.scored(dialogue).ids
            with torch.no_grad():
                wanted = network(torch.tensor([ids])).logits[0].numpy()
            got = opened.logits(dialogue)
            assert (got.dtype, got.shape) == (np.float32, (len(ids), 384))
            np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_reply_ends_with_the_context(folder: Path) -> None:
    from halfwatt.dialogues.dialogue import Dialogue, Message

    with session(folder) as opened:
        fitting = Dialogue("fits", (Message("user", "light" * 120),))
        (reply,) = opened.reply([fitting], replace(GREEDY, max_new_tokens=10_000))
        assert reply.tokens_in + len(reply.token_ids) == 512


# --- counting


def test_bytes_read_by_hand() -> None:
    """Weights of 100 bytes, 3 bytes a cached token, 2 rows, a prompt of 5 tokens, 3 passes: caches of 5, 6, 7."""
    assert bytes_read(100, 3, 2, 5, 3) == 3 * 100 + 2 * 3 * (5 + 6 + 7)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_weights_read_are_those_that_a_step_multiplies_by(arch: tiny.Arch, tied: bool) -> None:
    network = tiny.network(arch, tied=tied)
    tables = 384 * 64 + (512 * 64 if arch == "gpt2" else 0)
    everything = sum(p.numel() for p in network.parameters())
    assert weights_read(network) == everything - tables + (384 * 64 if tied else 0)
    cache = network(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert architecture_of(network).kv_numbers(network.config) * 3 == held


def test_bytes_moved_add_up(folder: Path) -> None:
    with session(folder) as opened:
        assert opened.bytes_moved() == 0
        replies = opened.reply(prompts(), GREEDY)
        opened.logits(tiny.dialogues()[0])  # not a reply
        length, steps = max(r.tokens_in for r in replies), max(len(r.token_ids) for r in replies)
        weights = 4 * weights_read(opened.network)
        kv = 4 * architecture_of(opened.network).kv_numbers(opened.network.config)
        assert opened.bytes_moved() == bytes_read(weights, kv, len(replies), length, steps)
        once = opened.bytes_moved()
        opened.reply(prompts(), GREEDY)
        assert opened.bytes_moved() == 2 * once


# --- opening


def test_a_changed_artifact_is_not_opened(folder: Path, tmp_path: Path) -> None:
    artifact = TransformersFolder().write(chat_model.load(folder), tmp_path / "a")
    (folder / "chat_template.jinja").write_text("changed")
    with (
        pytest.raises(ModelError, match="not the model that was exported"),
        TransformersEager().open(artifact, OperatingPoint()),
    ):
        pass


def test_threads_are_set_for_the_session_only(folder: Path) -> None:
    with session(folder, OperatingPoint(threads=2)):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_what_this_runtime_does_not_do(folder: Path, tmp_path: Path) -> None:
    artifact = TransformersFolder().write(chat_model.load(folder), tmp_path / "a")
    for runtime, at, kind in (
        (TransformersEager(), OperatingPoint(kv_bits=8), BadInput),
        (TransformersEager(device="cuda:99"), OperatingPoint(), EnvironmentFault),
        (TransformersEager(device="abacus"), OperatingPoint(), BadInput),
        (TransformersEager(dtype="int3"), OperatingPoint(), BadInput),
    ):
        with pytest.raises(kind), runtime.open(artifact, at):
            pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda(folder: Path) -> None:
    with session(folder) as opened:
        wanted = opened.reply(prompts(), GREEDY)
    with TransformersEager(device="cuda").open(
        from_json((folder.parent / "exported/artifact.json").read_bytes(), Artifact), OperatingPoint()
    ) as opened:
        assert isinstance(opened, TransformersSession)
        assert opened.network.device.type == "cuda"
        assert opened.reply(prompts(), GREEDY) == wanted
        state = torch.cuda.get_rng_state()
        first = opened.reply(prompts()[:1], WARM)
        assert torch.equal(torch.cuda.get_rng_state(), state)
        assert opened.reply(prompts()[:1], WARM) == first
        opened.sync()
        assert len(list(itertools.islice(opened.stream(prompts()[0], GREEDY), 3))) > 0
