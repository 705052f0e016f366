"""What every family of networks has to keep: one class, which each family's tests inherit with its row of facts.

class TestLlama(ArchitectureContract):
    arch = "llama"
    rotates_neighbours = True
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import gguf
import pytest
import torch

from halfwatt.compress.apply import apply_step
from halfwatt.compress.base import Step, StepContext
from halfwatt.compress.fresh_student import Student
from halfwatt.compress.prune import Prune
from halfwatt.compress.quantize.column_balancing import Handover, handovers
from halfwatt.compress.quantize.gptq import Walk
from halfwatt.compress.quantize.quantize import Quantize
from halfwatt.compress.training.batches import Predictor, calibration, collate, encode_rows
from halfwatt.compress.vocabulary_trim import Trim
from halfwatt.core.errors import ModelError
from halfwatt.core.settings import Access
from halfwatt.formats.artifact import Parity
from halfwatt.formats.gguf import Gguf, write_gguf
from halfwatt.models.architectures.registry import architectures
from halfwatt.models.chat_model import ChatModel, load
from halfwatt.models.exact_network import exact_network
from halfwatt.models.grid import GridTensor, unpack
from halfwatt.models.sampling import Sampling
from halfwatt.models.weights import weights_read
from halfwatt.runtimes.base import OperatingPoint, Speculation
from halfwatt.runtimes.llamacpp import LlamaCpp
from halfwatt.runtimes.llamacpp_continuations import _AT_ONCE
from tests.support import tiny_models as tiny
from tests.support.llamacpp_parity import parity_in_llamacpp

CONTEXT = StepContext(dialogues=tiny.dialogues())
YARN = {"rope_type": "yarn", "factor": 8.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
CUTS: dict[str, Step] = {
    "width": Prune(width=0.5),
    "kv_heads": Prune(kv_heads=1),
    "ffn": Prune(ffn=0.5),
    "blocks": Prune(drop=1),
    "ffn and blocks": Prune(ffn=0.67, drop=1),
    "vocabulary": Trim(0.5),
    "student": Student(layers=1, width=64, ffn=64, kv_heads=1),
}


class ArchitectureContract:
    """A family's row.

    arch:                its ``model_type``
    config:              entries of the config beside `tiny_models`' own, such that each of them matters
    unprunable:          what `Prune` refuses, and a word of the reason
    rotates_neighbours:  does llama.cpp rotate a head's values (0, 1), (2, 3), ...?
    shapes:              entries of other configs that are computed alike
    refused:             entries of a config that llama.cpp would compute differently, and a word of the reason
    """

    arch: ClassVar[str]
    config: ClassVar[dict[str, Any]] = {}
    unprunable: ClassVar[dict[str, str]] = {}
    rotates_neighbours: ClassVar[bool] = False
    shapes: ClassVar[tuple[dict[str, Any], ...]] = ()
    refused: ClassVar[tuple[tuple[dict[str, Any], str], ...]] = ()

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        into = tmp_path_factory.mktemp(self.arch)
        return tiny.folder(into, self.arch, width=128, tied=False, config=self.config)

    @pytest.fixture(scope="class")
    def model(self, folder: Path) -> ChatModel:
        return load(folder)

    def test_it_is_one_of_those_supported(self, model: ChatModel) -> None:
        own = model.architecture
        assert own is architectures()[type(model.network).__name__]
        assert own.model_type == self.arch == model.network.config.model_type
        assert len(own.blocks(model.network)) == model.network.config.num_hidden_layers
        assert own.problems(model.network.config) == []
        attention = (*filter(None, [own.queries]), *own.keys_values, own.attention_out, *own.other_out)
        everywhere = (*own.ffn_in, own.ffn_out, *(norm for norm, _ in own.norms), *own.post_norms)
        blocks = own.blocks(model.network)
        assert all(len(own.modules(block, everywhere)) == len(everywhere) for block in blocks)
        assert all(any(own.modules(block, [name]) for block in blocks) for name in attention)
        assert all(own.modules(block, readers) for block in blocks for _, readers in own.norms)

    def test_a_token_adds_what_the_cache_then_holds(self, model: ChatModel) -> None:
        with torch.no_grad():
            cache = model.network(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
        attending = [layer for layer in cache.layers if hasattr(layer, "values")]
        held = sum(layer.keys.numel() + layer.values.numel() for layer in attending)
        assert model.architecture.kv_numbers(model.network.config) * 3 == held
        tables = {"embed_tokens", "wte", "wpe"}
        read = sum(p.numel() for name, p in model.network.named_parameters() if not tables & set(name.split(".")))
        assert weights_read(model.network) == read

    def test_training_sees_the_networks_own_logits_and_lowers_the_loss(self, folder: Path) -> None:
        model = load(folder)
        batch = collate(encode_rows(tiny.dialogues(), model.tokenizer, 512))
        predictor = Predictor(model.network)
        whole = model.network(input_ids=batch.ids).logits[:, :-1][batch.reply[:, 1:]]
        logits = predictor(batch.ids, batch.reply)
        assert torch.allclose(logits, whole, rtol=1e-3, atol=1e-3)
        before = torch.nn.functional.cross_entropy(logits, batch.labels)
        gradients = torch.autograd.grad(before, list(model.network.parameters()))
        assert all(bool(torch.isfinite(g).all()) for g in gradients)
        step = 0.05 / sum(float(g.square().sum()) for g in gradients)
        with torch.no_grad():
            for parameter, gradient in zip(model.network.parameters(), gradients, strict=True):
                parameter.sub_(step * gradient)
            after = torch.nn.functional.cross_entropy(predictor(batch.ids, batch.reply), batch.labels)
        assert 0.02 < float(before.detach() - after) < 0.08, "0.05, were the loss a plane"

    @pytest.mark.parametrize("tied", [True, False])
    def test_integers_alone_compute_what_the_rounded_copy_computes(self, tied: bool, tmp_path: Path) -> None:
        """And what is written of them is the same file."""
        given = tiny.folder(tmp_path, self.arch, tied=tied, dtype=torch.bfloat16, config=self.config)
        model, step, ids = load(given), Quantize(4, head_bits=8, embedding_bits=4), torch.tensor([[5, 6, 7, 8]])
        before = {name: p.clone() for name, p in model.network.named_parameters()}
        whole, lean = step.apply(model, CONTEXT), step.integers(model, CONTEXT)
        assert [name for name, p in lean.network.named_parameters() if p.is_meta] == [*lean.grid]
        assert (lean.lineage, lean.kept) == (whole.lineage, whole.kept)
        kept, given_up = ({p.data_ptr() for p in m.network.parameters() if not p.is_meta} for m in (lean, model))
        assert not kept & given_up, "one tensor of a mapped file keeps all of it in memory"
        with torch.inference_mode():
            computed = exact_network(lean)(input_ids=ids, use_cache=False).logits
            assert torch.equal(computed, whole.network(input_ids=ids, use_cache=False).logits)
        assert all(torch.equal(p, before[name]) for name, p in model.network.named_parameters()), "lent, and given back"
        for name, product in (("whole", whole), ("lean", lean)):
            write_gguf(product, tmp_path / name)
        assert (tmp_path / "lean").read_bytes() == (tmp_path / "whole").read_bytes()

    @pytest.mark.parametrize("tied", [True, False])
    def test_sixteen_bits_compute_what_torch_computes(self, tied: bool, tmp_path: Path) -> None:
        model = load(tiny.folder(tmp_path, self.arch, tied=tied, config=self.config))
        _exact(parity_in_llamacpp(model, tmp_path / "out"))

    def test_so_they_do_in_other_shapes(self, tmp_path: Path) -> None:
        for number, shape in enumerate(self.shapes):
            model = load(tiny.folder(tmp_path, self.arch, seed=number, config={**self.config, **shape}))
            _exact(parity_in_llamacpp(model, tmp_path / f"out-{number}"))

    @pytest.mark.parametrize("cut", CUTS)
    def test_what_is_cut_is_exported_and_loads_again(self, cut: str, model: ChatModel, tmp_path: Path) -> None:
        step = CUTS[cut]
        if reasons := [self.unprunable[part] for part in cut.split(" and ") if part in self.unprunable]:
            assert any(reasons[0] in problem for problem in step.problems(model))
            with pytest.raises(ModelError, match=reasons[0]):
                apply_step(step, model, CONTEXT)
            return
        smaller = apply_step(step, model, CONTEXT)
        assert sum(p.numel() for p in smaller.network.parameters()) < sum(p.numel() for p in model.network.parameters())
        _exact(parity_in_llamacpp(smaller, tmp_path / "out"))
        smaller.save(tmp_path / "saved")
        ids = torch.arange(4, 60)[None]
        with torch.no_grad():
            assert torch.equal(load(tmp_path / "saved").network(ids).logits, smaller.network(ids).logits)

    def test_a_walk_through_a_balanced_network_says_what_the_network_says(self, model: ChatModel) -> None:
        own, batches = model.architecture, calibration(model, CONTEXT, "", 5)
        network: Any = copy.deepcopy(model.network)
        handed = [handover for block in own.blocks(network) for handover in handovers(network, block)]
        head = network.get_output_embeddings()
        handed.append(Handover(own.final_norm(network), (head,), offset=own.norm_offset))
        for seed, handover in enumerate(handed):
            c = torch.rand(handover.rows()[0].shape[1], generator=torch.Generator().manual_seed(seed)) + 0.5
            handover.scale(c)
        walk = Walk(network, batches)
        for block in walk.blocks:
            walk.advance(block)
        with torch.no_grad():
            expected = torch.cat([Predictor(model.network)(batch.ids, batch.reply) for batch in batches])
            logits = head(walk.final(network))
        assert torch.allclose(logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

    def test_a_reply_does_not_hang_on_what_the_session_holds(self, model: ChatModel, tmp_path: Path) -> None:
        artifact, how = Gguf().write(model, tmp_path / "out"), Sampling(max_new_tokens=8)
        prompts = [d.before(turn) for d in tiny.dialogues() for turn in d.assistant_turns]
        points = [OperatingPoint(threads=1, reuse_prefix=False), OperatingPoint(threads=1)]
        points += [OperatingPoint(threads=1, speculation=Speculation("lookup")), OperatingPoint(threads=1, batch=3)]
        replies = []
        for at in points:
            with LlamaCpp().open(artifact, at) as session:
                asked = [prompts[k : k + at.batch] for k in range(0, len(prompts), at.batch)]
                replies.append([reply.token_ids for some in asked for reply in session.reply(some, how)])
        assert all(some == replies[0] for some in replies)

    def test_texts_after_a_prompt_are_as_likely_as_the_networks_logits_say(
        self, model: ChatModel, tmp_path: Path
    ) -> None:
        """More than fit one batch, beside each other and alone: what G7 reads, of states as of caches."""
        tokenizer, talk = model.tokenizer, max(tiny.dialogues(), key=lambda d: len(d.assistant_turns))
        at = talk.assistant_turns[-1]
        texts = [talk.messages[turn].content for turn in range(at)] * 5
        rows = [tokenizer.encode(text) for text in texts]
        assert sum(map(len, rows)) > 2 * _AT_ONCE
        prompt, artifact = tokenizer.prompt_ids(talk.before(at)), Gguf().write(model, tmp_path / "out")
        with LlamaCpp().open(artifact, OperatingPoint(threads=1)) as session, torch.no_grad():
            together = session.continuations(talk.before(at), texts, 100)
            alone = [session.continuations(talk.before(at), [text], 100)[0] for text in texts[:2]]
            log_p = [model.network(torch.tensor([prompt + row])).logits[0].double().log_softmax(1) for row in rows]
        expected = [
            sum(float(p[len(prompt) - 1 + n, i]) for n, i in enumerate(r)) for p, r in zip(log_p, rows, strict=True)
        ]
        assert together == pytest.approx(expected, rel=1e-3), "a state of another text is off by whole nats"
        assert alone == pytest.approx(together[:2], rel=1e-3)

    @pytest.mark.parametrize(
        "step", [Quantize(8), Quantize(4, 8), Quantize(4, 4, 4), Quantize(4, scale_search="absmax")]
    )
    def test_the_integers_in_the_file_are_those_of_the_grid(
        self, step: Quantize, model: ChatModel, tmp_path: Path
    ) -> None:
        quantized = step.apply(model, CONTEXT)
        written = write_gguf(quantized, tmp_path / "m.gguf")
        tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
        arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[model.architecture.gguf_name]
        names = gguf.get_tensor_name_map(arch, model.network.config.num_hidden_layers)
        for name, grid in quantized.grid.items():
            for module, wanted in self.stored(name.removesuffix(".weight"), grid).items():
                stored = tensors[f"{names.get_name(module)}.weight"]
                assert stored.tensor_type.name == ("Q8_0" if grid.bits == 8 else "Q4_0")
                back = unpack(torch.from_numpy(stored.data.copy()), grid.bits)
                assert torch.equal(back.q, wanted.q), name
                assert torch.equal(back.scale, wanted.scale), name
        assert written.size_b == sum(int(t.n_bytes) for t in tensors.values())
        tables = [t for t in tensors if t in ("token_embd.weight", "position_embd.weight")]
        assert written.weights_read_b == written.size_b - sum(int(tensors[t].n_bytes) for t in tables)

    def stored(self, module: str, grid: GridTensor) -> dict[str, GridTensor]:
        """What a file has of a matrix on the grid, by names that gguf's table knows."""
        if not self.rotates_neighbours or not module.endswith(("q_proj", "k_proj")):
            return {module: grid}
        return {module: permuted(grid, 4 if "q_proj" in module else 2)}

    @pytest.mark.parametrize("step", [Quantize(8), Quantize(4)])
    def test_integers_compute_what_their_weights_compute(self, step: Quantize, tmp_path: Path) -> None:
        """llama.cpp rounds activations to int8 too, which wide random weights blow up; a wrong layout is far worse."""
        model = load(tiny.folder(tmp_path, self.arch, config=self.config))
        parity = parity_in_llamacpp(step.apply(model, CONTEXT), tmp_path / "out")
        assert parity.problems == ()
        assert parity.kl_mean < 0.02

    def _is_run_or_read_as_another(self, model: ChatModel, back: ChatModel) -> None:
        if back.run_only:
            assert model.architecture.gguf_name in back.run_only
            return
        ids = torch.arange(4, 60)[None]
        with torch.no_grad():
            assert torch.allclose(back.network(ids).logits, model.network(ids).logits, atol=1e-4)

    def test_a_file_of_it_is_read_as_the_same_network(self, tmp_path: Path) -> None:
        for number, shape in enumerate(({}, *self.shapes)):
            config = {**self.config, **shape}
            folder = tiny.folder(
                tmp_path, self.arch, seed=number, tied=number % 2 == 0, dtype=torch.float16, config=config
            )
            model = load(folder, dtype="fp32")
            Gguf().write(model, tmp_path / f"out-{number}")
            back = Gguf().read(tmp_path / f"out-{number}", Access(dtype="fp32"))
            if not model.architecture.reads_gguf:
                self._is_run_or_read_as_another(model, back)
                continue
            wanted = model.network.state_dict()
            assert back.network.state_dict().keys() == wanted.keys()
            assert all(torch.equal(values, wanted[name]) for name, values in back.network.state_dict().items())
            ids = torch.arange(4, 200)[None]
            with torch.no_grad():
                assert torch.allclose(back.network(ids).logits, model.network(ids).logits, atol=1e-4)

    def test_what_llama_cpp_would_compute_differently_is_refused(self, model: ChatModel, tmp_path: Path) -> None:
        for settings, word in self.refused:
            other = tiny.changed(model, **settings)
            with pytest.raises(ModelError, match=word):
                Gguf().write(other, tmp_path / "export")
            assert word in " ".join(Prune(ffn=0.5).problems(other)), "and before work"
        assert not list(tmp_path.iterdir())


def permuted(grid: GridTensor, heads: int) -> GridTensor:
    """Row 2i of a head = its old row i, row 2i + 1 = old row i + half; written out plainly."""
    count = grid.q.shape[0]
    size = count // heads
    order = [h * size + i + k * size // 2 for h in range(heads) for i in range(size // 2) for k in (0, 1)]
    return GridTensor(grid.q[order], grid.scale[order], grid.bits)


def _exact(parity: Parity) -> None:
    assert parity.problems == ()
    assert parity.token_ids_equal
    assert parity.template_equal
    assert parity.eos_equal
    assert parity.kl_mean < 1e-4
    assert parity.kl_max < 1e-2
