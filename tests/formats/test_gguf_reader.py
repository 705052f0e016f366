"""GGUF files read: our own grid back, llama.cpp's own ids, and files that are torn, hostile or of unknown kinds."""

from __future__ import annotations

import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from halfwatt.compress.base import StepContext
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.core.errors import ModelError
from halfwatt.core.settings import Access
from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.formats.gguf import Gguf
from halfwatt.formats.gguf_file import GgufFile
from halfwatt.formats.gguf_given import is_gguf
from halfwatt.formats.registry import load_model
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.grid import GridTensor
from halfwatt.models.sampling import read_sampling
from tests.support import tiny_models as tiny

SAID = tuple(
    Dialogue(str(n), (Message("user", text), Message("assistant", text[::-1]))) for n, text in enumerate(tiny.SENTENCES)
)
CONTEXT = StepContext(dialogues=SAID)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return load(tiny.folder(tmp_path_factory.mktemp("model"), tied=False, dtype=torch.float16))


def written(model: ChatModel, into: Path) -> Path:
    return Gguf().write(model, into).path / "model.gguf"


def assert_same_grid(ours: GridTensor, theirs: GridTensor) -> None:
    assert ours.bits == theirs.bits
    assert torch.equal(ours.q, theirs.q)
    assert torch.equal(ours.scale, theirs.scale)


# --- a file's own grid


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_integers_in_are_integers_out(bits: Any, method: Any, original: ChatModel, tmp_path: Path) -> None:
    coarse = Quantize(bits, embedding_bits=bits, scale_search="hqq").apply(original, CONTEXT)
    back = Gguf().read(written(coarse, tmp_path / "a"), Access())
    again = Quantize(bits, embedding_bits=bits, method=method).apply(back, CONTEXT)
    assert again.grid.keys() == coarse.grid.keys()
    for name, grid in coarse.grid.items():
        assert_same_grid(again.grid[name], grid)
    assert f"{len(coarse.grid)} weights keep the integers of the file" in again.lineage
    assert Gguf().write(again, tmp_path / "b").parts == Gguf().write(coarse, tmp_path / "c").parts


def test_fewer_bits_than_asked_are_kept_and_more_are_rounded(original: ChatModel, tmp_path: Path) -> None:
    four = Gguf().read(written(Quantize(4, 4, 4).apply(original, CONTEXT), tmp_path / "4"), Access())
    assert {grid.bits for grid in Quantize(8).apply(four, CONTEXT).grid.values()} == {4}
    eight = Gguf().read(written(Quantize(8).apply(original, CONTEXT), tmp_path / "8"), Access())
    assert {grid.bits for name, grid in Quantize(4).apply(eight, CONTEXT).grid.items() if "layers" in name} == {4}


def test_what_a_step_changed_is_not_the_files_any_more(original: ChatModel, tmp_path: Path) -> None:
    back = Gguf().read(written(Quantize(4, 4, 4).apply(original, CONTEXT), tmp_path / "4"), Access())
    name = "model.layers.1.mlp.down_proj.weight"
    with torch.no_grad():
        back.network.get_parameter(name).mul_(1.5)
    again = Quantize(4, 4, 4).apply(back, CONTEXT)
    assert not torch.equal(again.grid[name].scale, back.given[name].scale)
    assert_same_grid(
        again.grid["model.layers.0.mlp.down_proj.weight"], back.given["model.layers.0.mlp.down_proj.weight"]
    )


def test_gptq_of_a_part_leaves_the_rest_as_it_is(original: ChatModel, tmp_path: Path) -> None:
    """Norms and up_proj may not hand columns over to what keeps its integers."""
    names = tuple(f"model.layers.0.{m}.weight" for m in ("self_attn.k_proj", "mlp.up_proj"))
    mixed = Quantize(4, 4, 8, int8=names).apply(original, CONTEXT)
    back = Gguf().read(written(mixed, tmp_path / "m"), Access())
    again = Quantize(4, 4, 8, method="gptq", sweeps=0).apply(back, CONTEXT)
    for name, grid in mixed.grid.items():
        if name in names:
            assert again.grid[name].bits == 4
        else:
            assert_same_grid(again.grid[name], grid)
    for name, values in back.network.named_parameters():
        if "norm" in name:
            assert torch.equal(again.network.get_parameter(name), values.float())


# --- what a file is made of


def test_types_are_read_as_they_are_stored(original: ChatModel, tmp_path: Path) -> None:
    assert Gguf().read(written(original, tmp_path / "16"), Access()).network.dtype == torch.float16
    assert Gguf().read(tmp_path / "16", Access(dtype="bf16")).network.dtype == torch.bfloat16
    four = Quantize(4).apply(original, CONTEXT)
    back = Gguf().read(written(four, tmp_path / "4"), Access(dtype="fp32"))
    state = four.network.state_dict()
    assert all(torch.equal(values, state[name]) for name, values in back.network.state_dict().items())


def test_our_own_file_is_what_runs_and_keeps_what_gguf_has_no_room_for(tmp_path: Path) -> None:
    """As the original of another search: B1 may be the file, its words and its settings are as they were."""
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "no_repeat_ngram_size": 3}
    drawn = load(tiny.folder(tmp_path / "model", generation=settings))
    words = Split(Regex(r"\p{L}+|[^\p{L}]"), "isolated")  # which llama.cpp has no name for
    odd = tiny.tokenizer(pre_tokenizer=Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)]))
    odd.save_pretrained(tmp_path / "odd")
    shutil.copy(tmp_path / "odd" / "tokenizer.json", drawn.source)
    drawn = load(drawn.source)
    folder = written(drawn, tmp_path / "artifact").parent
    for name in (folder, folder / "model.gguf"):
        back = load_model(str(name), Access())
        assert is_gguf(back)
        assert back.generation == drawn.generation
        text = tiny.SENTENCES[0] + " 7:30 pm!"
        assert back.tokenizer.encode(text) == drawn.tokenizer.encode(text)
    back.save(tmp_path / "saved")
    assert read_sampling(tmp_path / "saved") == drawn.generation


def test_norms_that_are_stored_with_one_added_lose_nothing(tmp_path: Path) -> None:
    model = load(tiny.folder(tmp_path, "gemma3_text"))
    norm = dict(model.network.named_parameters())["model.norm.weight"]
    with torch.no_grad():
        norm.copy_(torch.linspace(-0.01, 0.01, len(norm)))
    back = Gguf().read(written(model, tmp_path / "a"), Access(dtype="bf16"))
    assert torch.allclose(back.network.state_dict()["model.norm.weight"].float(), norm, rtol=0.01, atol=1e-6)


def test_a_factor_of_positions_without_a_kind_is_linear(original: ChatModel, tmp_path: Path) -> None:
    """llama.cpp's default; the older key too."""
    file = written(original, tmp_path / "a")
    files = (
        edited(file, tmp_path / "new.gguf", llama__rope__scaling__factor=4),
        edited(file, tmp_path / "old.gguf", llama__rope__scale_linear=4),
    )
    for each in files:
        rope = Gguf().read(each, Access()).network.config.rope_parameters
        assert (rope["rope_type"], rope["factor"]) == ("linear", 4.0)


def test_a_template_from_outside_names_the_stop_token(original: ChatModel, tmp_path: Path) -> None:
    """As for a base model, whose file knows the end of a text only."""
    base = edited(written(original, tmp_path / "a"), tmp_path / "base.gguf", drop=("chat_template", "eot", "halfwatt"))
    with pytest.raises(ModelError, match=r"no chat template.*--chat-template FILE"):
        Gguf().read(base, Access())
    (tmp_path / "t.jinja").write_text(tiny.CHATML.replace("<|im_end|>", "<|im_start|>"))
    assert Gguf().read(base, Access(chat_template=tmp_path / "t.jinja")).tokenizer.eos_ids == (tiny.END, tiny.START)


def edited(file: Path, to: Path, drop: tuple[str, ...] = (), arch: str = "llama", **values: Any) -> Path:
    """A copy without some keys, and with others of these values (``a__b`` = "a.b")."""
    reader, writer = gguf.GGUFReader(file), gguf.GGUFWriter(None, arch)
    new = {name.replace("__", "."): value for name, value in values.items()}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and not any(part in name for part in drop) and name not in writer.kv_data[0]:
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, new.pop(name, field.contents()), field.types[0], inner)
    for name, number in new.items():
        writer.add_uint32(name, number)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file(to)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


# --- strangers' files


def test_a_torn_file_is_refused_wherever_it_is_torn(original: ChatModel, tmp_path: Path) -> None:
    whole, torn = written(original, tmp_path / "a").read_bytes(), tmp_path / "torn.gguf"
    for length in [0, 3, 10, 40, *range(100, len(whole), len(whole) // 40), len(whole) - 64]:
        torn.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"torn\.gguf is not a sound GGUF file"):
            GgufFile.open(torn)


def test_lengths_beyond_the_file_take_no_memory(original: ChatModel, tmp_path: Path) -> None:
    whole, bad = written(original, tmp_path / "a").read_bytes(), tmp_path / "bad.gguf"
    for at in range(0, len(whole[:4096]) - 8):
        if whole[at : at + 8] in (struct.pack("<Q", n) for n in (64, 96, 128, 384)):
            bad.write_bytes(whole[:at] + struct.pack("<Q", 1 << 60) + whole[at + 8 :])
            with pytest.raises(ModelError):
                Gguf().read(bad, Access())
    for version in (1, 4, 1 << 24):
        bad.write_bytes(whole[:4] + struct.pack("<I", version) + whole[8:])
        with pytest.raises(ModelError, match="version"):
            GgufFile.open(bad)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"llama__block_count": 3}, "lacks"),
        ({"llama__embedding_length": 1 << 30}, "other shapes"),
        ({"tokenizer__ggml__model": "rwkv"}, "known are gpt2 and llama"),
        ({"tokenizer__ggml__pre": "nobody"}, "splitting words is not known"),
        ({"tokenizer__ggml__merges": ["a"]}, "cannot be read"),
        ({"halfwatt__eos_token_ids": "[99999]"}, "outside the vocabulary"),
        ({"tokenizer__chat_template": "{{ ''.__class__ }}"}, "sandbox"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    values: dict[str, Any], says: str, original: ChatModel, tmp_path: Path
) -> None:
    bad = edited(written(original, tmp_path / "a"), tmp_path / "bad.gguf", **values)
    with pytest.raises(ModelError, match=says) as refused:
        Gguf().read(bad, Access())
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"llama__block_count": 1}, "does not compute with"),
        ({"llama__block_count": 1 << 31}, "cannot be opened"),
        ({"llama__attention__head_count": 0}, "ZeroDivisionError"),
        ({"arch": "mamba", "mamba__context_length": 512}, "cannot be opened .found: mamba"),
    ],
)
def test_what_nothing_here_computes_can_only_be_run(
    values: dict[str, Any], says: str, original: ChatModel, tmp_path: Path
) -> None:
    strange = Gguf().read(edited(written(original, tmp_path / "a"), tmp_path / "strange.gguf", **values), Access())
    assert re.search(says, strange.run_only)
    assert len(strange.run_only.splitlines()) == 1


def test_damaged_weights_are_named(original: ChatModel, tmp_path: Path) -> None:
    network = tiny.network("llama", tied=False)
    bad = replace(original, network=network.half())  # type: ignore[no-untyped-call]
    file = written(bad, tmp_path / "a")
    place, whole = GgufFile.open(file).stored["blk.1.ffn_up.weight"], bytearray(file.read_bytes())
    at = whole.find(place.data.tobytes())
    whole[at : at + 2] = struct.pack("<e", float("nan"))
    file.write_bytes(bytes(whole))
    with pytest.raises(ModelError, match=r"damaged \(found: blk.1.ffn_up.weight holds NaN\)"):
        Gguf().read(file, Access())
