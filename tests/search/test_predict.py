"""The planner: shapes as the exports have them, the formula by hand, and the published error behind what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import planner as evidence
from halfwatt.api import verbs
from halfwatt.compress.apply import apply_recipe
from halfwatt.compress.base import StepContext
from halfwatt.compress.distil import Distil
from halfwatt.compress.fresh_student import Student
from halfwatt.compress.prune import Prune, Sparsify
from halfwatt.compress.quantize.mixed_precision import Mixed
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.recipe import Recipe, default_recipes
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.errors import BadInput, ModelError
from halfwatt.formats.gguf import Gguf
from halfwatt.models.chat_model import load, outline
from halfwatt.results.report import console
from halfwatt.search import hardware, predict
from halfwatt.search.predict import Coefficients, Exchange, Shape
from tests.support import tiny_models as tiny
from tests.support.command_line import halfwatt
from tests.support.terminal import plain

RECIPES = (
    Recipe("original"),
    *default_recipes(),
    Recipe("int4 with an int4 embedding", (Quantize(4, embedding_bits=4),)),
    Recipe("trim", (Trim(0.9), Quantize(4))),
    Recipe("prune", (Prune(ffn=0.5, drop=1), Quantize(8))),
    Recipe("sparse", (Sparsify("2:4"),)),
)
NARROW = (
    Recipe("heads and width", (Trim(0.9), Prune(width=0.5, kv_heads=1), Quantize(4))),
    Recipe("student", (Student(layers=1, width=64, ffn=64, kv_heads=1), Quantize(4, head_bits=8))),
)


@pytest.mark.parametrize(
    ("arch", "recipe"),
    [(arch, recipe) for arch in ("llama", "gpt2") for recipe in RECIPES] + [("qwen3", recipe) for recipe in NARROW],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_a_shape_is_what_the_export_will_have(arch: tiny.Arch, recipe: Recipe, tmp_path: Path) -> None:
    folder = tiny.folder(tmp_path, arch)
    told = tiny.dialogues()
    made = apply_recipe(load(folder), recipe, StepContext(told))
    artifact = Gguf().write(made, tmp_path / "export")
    (folder / "model.safetensors").unlink()
    shape = predict.shape(outline(folder), recipe, told)
    assert shape.read_b == artifact.weights_read_b
    assert shape.kv_b_per_token == artifact.kv_b_per_token
    assert shape.blocks == made.network.config.num_hidden_layers


def test_mixed_lies_between_its_two_grids(tmp_path: Path) -> None:
    model, told = outline(tiny.folder(tmp_path, "llama")), tiny.dialogues()
    four, eight, half = (
        predict.shape(model, Recipe("", (step,)), told).read_b for step in (Quantize(4), Quantize(8), Mixed(0.5))
    )
    assert half == pytest.approx((four + eight) / 2, abs=1)


def test_the_formula_by_hand() -> None:
    device = hardware.Hardware("x", "X", "gpu", teraflops=2, gigabytes_s=4, source="")
    shape = Shape(blocks=3, numbers=10_000, read_b=20_000, kv_b_per_token=100)
    exchange, own = Exchange(fresh=600, reply=10, context=50), Coefficients(5, 1e-6, 0.5, 1)
    steps = 10 / 2 + 2  # a reply token is shared by two, the prompt takes two passes
    expected = (20_000 * steps + 100 * 50 * 10) / 4e9 + 5 * 2 * 10_000 * 610 / 2e12 + 1e-6 * 3 * steps
    assert predict.seconds(shape, exchange, device, own, batch=2) == pytest.approx(expected, rel=1e-12)


def test_what_an_exchange_is(tmp_path: Path) -> None:
    tokenizer = outline(tiny.folder(tmp_path, "llama")).tokenizer
    told = tiny.dialogues()[1:2]  # two replies
    said = tokenizer.scored(told[0]).reply
    found = Exchange.of(told, tokenizer)
    last = max(i for i, own in enumerate(said) if own)
    assert found.fresh * 2 + found.reply * 2 == last + 1  # every token up to the last reply's end is read once
    assert found.reply * 2 == sum(said)
    assert 0 < found.context < len(said)


def test_the_coefficients_are_those_of_the_published_measurements() -> None:
    for kind, own in predict.FITTED.items():
        rows = evidence.of_kind(cpu=kind == "cpu")
        found = evidence.fitted(rows, evidence.left_out(rows))
        assert own.measurements == found.measurements
        assert own.compute == pytest.approx(found.compute, rel=0.01)
        assert own.block_s == pytest.approx(found.block_s, rel=0.01)
        assert own.error == pytest.approx(found.error, abs=0.005)


def test_where_nothing_waits_for_memory_fewer_bytes_save_nothing(tmp_path: Path) -> None:
    folder, told = tiny.folder(tmp_path, "llama"), tiny.dialogues()
    devices = hardware.find(["h100", "rpi4"])
    small = predict.plan(outline(folder), default_recipes(), devices, told)
    by_device = {p.hardware.key: p.energy_ratio for p in small.predictions if p.recipe == "int4"}
    assert by_device["h100"].mean < 1.01
    assert by_device["rpi4"].mean > by_device["h100"].mean
    ratio = by_device["h100"]
    assert ratio.hi / ratio.mean == pytest.approx(1 + predict.FITTED["gpu"].error)
    assert ratio.mean / ratio.lo == pytest.approx(1 + predict.FITTED["gpu"].error)
    assert (small.kind, small.grade) == ("modelled", "E")


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    folder, told = tiny.folder(tmp_path, "gpt2"), tiny.dialogues()
    model, device = outline(folder), hardware.find(["h100"])
    with pytest.raises(BadInput, match="did you mean rtx-4090"):
        hardware.find(["rtx-4091"])
    with pytest.raises(BadInput, match="--batch is 1 or more"):
        predict.plan(model, default_recipes(), device, told, batch=0)
    with pytest.raises(BadInput, match="two recipes are called int8"):
        predict.plan(model, [*default_recipes(), Recipe("int8")], device, told)
    with pytest.raises(ModelError, match="GPT-2's width cannot be pruned"):
        predict.plan(model, [Recipe("narrow", (Prune(width=0.5), Distil()))], device, told)
    with pytest.raises(ModelError, match="missing"):
        verbs.plan(tmp_path / "missing", ["h100"])


def test_the_devices_have_names_of_their_own() -> None:
    assert len({h.key for h in hardware.TABLE}) == len(hardware.TABLE)
    assert all(h.teraflops > 0 and h.gigabytes_s > 0 and h.source for h in hardware.TABLE)


def test_on_the_command_line(tmp_path: Path) -> None:
    recipe = tmp_path / "half.toml"
    recipe.write_text('[[step]]\nuse = "prune"\ndrop = 4\n[[step]]\nuse = "quantize"\nbits = 4\n')
    line = ["plan", "demo", "--hardware", "rpi5, tpu-v5e", "--recipe", str(recipe), "--batch", "2"]
    found = halfwatt(*line, "--json")
    assert found.returncode == 0, found.stderr
    plan = json.loads(found.stdout)
    assert {p["hardware"]["key"] for p in plan["predictions"]} == {"rpi5", "tpu-v5e"}
    ratios = {p["recipe"]: p["energy_ratio"]["mean"] for p in plan["predictions"] if p["hardware"]["key"] == "rpi5"}
    assert ratios["half"] > ratios["int4"] > ratios["int8"] > 1
    wrong = halfwatt("plan", "demo", "--hardware", "abacus")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "unknown --hardware (found: abacus); there are h100, " in wrong.stderr


def test_the_table_tells_how_far_it_may_be_off(tmp_path: Path) -> None:
    plan = predict.plan(
        outline(tiny.folder(tmp_path, "llama")), default_recipes(), hardware.find(["tpu-v5e", "rpi5"]), tiny.dialogues()
    )
    text = " ".join(plain(console.plan_view(replace(plan, model="tiny")), 120).split())
    assert "PREDICTED (grade E, modelled): ratios only, no joules" in text
    assert (
        "tpu: each within a factor of 1.42, as on a device left out of 35 measurements of GPUs, none of a TPU" in text
    )
    assert "cpu: each within a factor of 1.73" in text
    assert " J" not in text.replace("no joules", "")
