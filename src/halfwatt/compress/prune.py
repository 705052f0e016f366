"""Structured pruning: a smaller network of the same architecture, made of the parts that dialogues use most.

    width      keep the residual channels with the largest mean |activation| after the norms, summed over all blocks
                                                                                            Minitron, arXiv 2407.14679
    FFN        keep the neurons with the largest mean |activation| (after gate * up)        Minitron
    KV groups  keep the groups whose heads' outputs are largest, with all their query heads          Minitron
    blocks     drop the blocks without which the model's own answers change least: KL to itself, left out one at a
               time                                       SLEB, arXiv 2402.09025 (there with perplexity)

Shapes stay uniform over the layers, so that the plain architecture class of every loader takes the result; FFN widths
are multiples of 64. Activations are read on the assistant's tokens of the calibration dialogues. Importance of a
neuron: the L2 norm over dialogues of its mean |activation| in each.

`sparsify` is the counter-example: Wanda's unstructured and 2:4 masks (arXiv 2306.11695) set weights to zero and leave
every shape, every stored byte and every multiplication where it was. It exists to be measured.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from halfwatt.compress.base import WIDTH, Stage, Step, StepContext
from halfwatt.compress.search_ranges import OneOf
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Batch, Predictor, calibration
from halfwatt.core.errors import ModelError
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.architectures.base import Architecture
from halfwatt.models.architectures.registry import architecture_of
from halfwatt.models.chat_model import ChatModel
from halfwatt.models.surgery import rebuilt, resized_config, sliced, without_blocks

_DIALOGUES = 512  # that are looked at, at most; 128 of them choose 92 % of the same neurons only
_BATCHES = 2  # of them, on which blocks are left out


def most_important(importance: Tensor, count: int) -> Tensor:
    """int64 [count]: the numbers of the most important entries, rising."""
    return importance.topk(count).indices.sort().values


def multiple_of_64(width: int, share: float) -> int:
    """The multiple of 64 nearest to ``share`` of ``width``, at least 64."""
    return max(WIDTH, round(width * share / WIDTH) * WIDTH)


def narrow(name: str, value: Tensor, keep: Tensor, own: Architecture) -> Tensor:
    """A tensor of the state dict with some channels of the residual stream kept.

    Rows of the matrices that write into the stream (biases too), columns of all others, and the norms of the stream.
    Biases of readers and norms of single heads stay.
    """
    module = name.rpartition(".")[0]
    if module.endswith((own.attention_out, *own.other_out, own.ffn_out)):
        return value.index_select(0, keep)
    if value.ndim == 2:
        return value.index_select(1, keep)
    norms = (*(norm for norm, _ in own.norms), *own.post_norms)
    in_block = f".{own.blocks_name}." in name
    return value[keep] if module.endswith(norms if in_block else own.final_norm_name) else value


def wanda(weight: Tensor, norms: Tensor, pattern: Literal["unstructured", "2:4"], share: float = 0.5) -> Tensor:
    """Bool [out, in]: what Wanda keeps, by |w| ||x||_2 within each row.

    weight: [out, in]; norms: [in], L2 norm of each input over the calibration tokens
    share:  of each row that goes to zero; "2:4" keeps the best two of every four
    """
    size = 4 if pattern == "2:4" else weight.shape[1]
    score = (weight.abs() * norms).reshape(len(weight), -1, size)
    best = score.topk(2 if pattern == "2:4" else size - round(size * share), dim=-1).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(2, best, True).reshape(weight.shape)


@torch.no_grad()
def importances(network: PreTrainedModel, batches: Sequence[Batch], modules: Sequence[nn.Module]) -> list[Tensor]:
    """[inputs] of each module: the L2 norm over dialogues of the mean |input| on a dialogue's learned tokens."""
    own, home = architecture_of(network), network.device
    squares = [torch.zeros(own.rows(m).shape[1]) for m in modules]
    network.to(batches[0].ids.device)  # type: ignore[arg-type]
    try:
        for batch in batches:
            for total, inputs in zip(squares, _inputs(network, batch, modules), strict=True):
                weight = batch.reply.float()[..., None]  # [rows, length, 1]
                per_dialogue = (inputs.abs().float() * weight).sum(1) / weight.sum(1).clamp_min(1)
                total += per_dialogue.square().sum(0).cpu()
    finally:
        network.to(home)  # type: ignore[arg-type]
    return [total.sqrt() for total in squares]


def _inputs(network: Any, batch: Batch, modules: Sequence[nn.Module]) -> list[Tensor]:
    """[rows, length, inputs] of each module for one batch."""
    inputs: dict[nn.Module, Tensor] = {}

    def hear(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[module] = given[0].detach()

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(hear))
        network.base_model(input_ids=batch.ids, use_cache=False)
    return [inputs[m] for m in modules]


@torch.no_grad()
def divergences_without(model: ChatModel, batches: Sequence[Batch], live: Sequence[int]) -> list[float]:
    """KL divergence in nats a token from the network of the ``live`` blocks to it without each of them, in turn.

    What comes before the block that is left out is computed once: those blocks give again what they gave at first.
    """
    network: Any = copy.deepcopy(model.network).to(batches[0].ids.device)  # type: ignore[arg-type]
    own, predictor = model.architecture, Predictor(network).eval()
    blocks, kinds = list(own.blocks(network)), own.kinds(network.config)

    def run_through(some: Sequence[int]) -> None:
        own.set_blocks(network, [blocks[i] for i in some])
        network.config.layer_types = [kinds[i] for i in some]

    changes, outputs = torch.zeros(len(live)), list[Any]()
    for batch in batches:
        run_through(live)
        outputs.clear()
        with ExitStack() as hooks:
            for i in live:
                hooks.enter_context(blocks[i].register_forward_hook(lambda _m, _i, output: outputs.append(output)))
            whole = predictor(batch.ids, batch.reply)
        for n, gone in enumerate(live):
            run_through([i for i in live if i != gone])
            changes[n] += losses.forward_kl(whole, predictor(batch.ids, batch.reply)).sum().cpu()
            blocks[gone].forward = partial(_given, outputs[n])
        for i in live:
            del blocks[i].forward
    return [float(change) for change in changes / sum(len(batch.labels) for batch in batches)]


def _given(output: Any, *_arguments: Any, **_options: Any) -> Any:
    return output


@dataclass(frozen=True, slots=True)
class Prune(Step):
    """Make a network of the same kind with fewer neurons, heads or blocks. Not all can be cut in every architecture."""

    width: Annotated[float, OneOf(0.5, 0.667, 0.75, 1.0)] = 1.0
    """Share of the hidden size that stays, rounded to multiples of 64."""
    ffn: Annotated[float, OneOf(0.25, 0.5, 1.0)] = 1.0
    """Share of the FFN neurons that stays, rounded to multiples of 64."""
    kv_heads: int | None = None
    """KV heads that stay, each with its query heads; None = all."""
    drop: int = 0
    """Blocks that go."""
    chosen: Literal["measured", "middle"] = "measured"
    """Which blocks go: the one that is missed least, then the next; or those in the middle, without a look at them."""

    name: ClassVar[str] = "prune"
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __str__(self) -> str:
        return f"width {self.width:g}, FFN {self.ffn:g}"

    def problems(self, model: ChatModel) -> list[str]:
        config, own = model.network.config, model.architecture
        problems = [
            f"{name} is a share above 0 and at most 1, not {share:g}"
            for name, share in (("width", self.width), ("ffn", self.ffn))
            if not 0 < share <= 1
        ]
        cuts = {"width": self.width != 1, "ffn": self.ffn != 1, "kv_heads": self.kv_heads is not None}
        problems += [
            reason for dimension, reason in own.unprunable.items() if {**cuts, "blocks": self.drop != 0}[dimension]
        ]
        if not 0 <= self.drop < config.num_hidden_layers:
            problems.append(f"{self.drop} of {config.num_hidden_layers} blocks cannot be dropped")
        groups = own.kv_heads(config)
        if self.kv_heads is not None and "kv_heads" not in own.unprunable and not 1 <= self.kv_heads <= groups:
            problems.append(f"{self.kv_heads} of {groups} KV heads cannot stay")
        if model.grid:
            problems.append("the model is on the integer grid already: prune first, then quantize")
        return problems or own.problems(resized_config(config, self.sizes(model)))

    def sizes(self, model: ChatModel, _dialogues: Sequence[Dialogue] = ()) -> dict[str, Any]:
        config, own = model.network.config, model.architecture
        size, changes = own.head_size(config), dict[str, Any]()
        if self.drop:
            changes["num_hidden_layers"] = config.num_hidden_layers - self.drop
        if self.kv_heads is not None:
            heads = config.num_attention_heads * self.kv_heads // own.kv_heads(config)
            changes |= {"num_key_value_heads": self.kv_heads, "num_attention_heads": heads, "head_dim": size}
        if self.ffn < 1:
            width = own.ffn_width(model.network)
            changes[own.ffn_size] = min(width, multiple_of_64(width, self.ffn))
        if self.width < 1:
            width = config.hidden_size
            changes |= {"hidden_size": min(width, multiple_of_64(width, self.width)), "head_dim": size}
        return own.config_entries(changes)

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Read the activations of the calibration dialogues, then cut.

        Raises:
            BadInput: no dialogues to read them on.
        """
        if self.drop and self.chosen == "middle":
            model = self._without_middle(model)
            if replace(self, drop=0) == Prune(chosen="middle"):
                return model
        read = calibration(model, context, "pruning needs dialogues to see what they use", _DIALOGUES)
        batches = [batch.to(torch.device(context.device)) for batch in read]
        if self.drop and self.chosen == "measured":
            model = self._without_blocks(model, batches, context)
        if self.kv_heads is not None:
            model = self._with_heads(model, batches, self.kv_heads)
        if self.ffn < 1:
            model = self._with_ffn(model, batches)
        if self.width < 1:
            model = self._with_width(model, batches)
        return model

    def _without_blocks(self, model: ChatModel, batches: Sequence[Batch], context: StepContext) -> ChatModel:
        """Drop one block after the other, each time the one that is missed least."""
        live = list(range(model.network.config.num_hidden_layers))
        step = max(1, len(batches) // _BATCHES)
        few = batches[step // 2 :: step]
        for k in range(self.drop):
            divergences = dict(zip(live, divergences_without(model, few, live), strict=True))
            possible = [i for i in live if not _problems_with(model, [j for j in live if j != i])]
            live.remove(gone := min(possible, key=divergences.__getitem__))
            context.settings.progress(f"dropped block {gone} ({k + 1} of {self.drop}): {divergences[gone]:.3f} nats")
        return _keeping(model, live)

    def _without_middle(self, model: ChatModel) -> ChatModel:
        """Keep the first blocks and the last: those nearest to the tokens change least by what lay between."""
        count = model.network.config.num_hidden_layers
        left = count - self.drop
        live = [*range(left - left // 2), *range(count - left // 2, count)]
        if problems := _problems_with(model, live):
            raise ModelError(f"{self.name} cannot be applied", got="; ".join(problems))
        return _keeping(model, live)

    def _with_heads(self, model: ChatModel, batches: Sequence[Batch], count: int) -> ChatModel:
        own, config, state = model.architecture, model.network.config, _state(model)
        assert own.queries is not None, "such an architecture says so in `unprunable`"
        groups = own.kv_heads(config)
        per_group = config.num_attention_heads // groups * own.head_size(config)  # values of a KV head's query heads
        for block, importance in _per_block(model, own.attention_out, batches):
            keep = most_important(importance.square().reshape(groups, per_group).sum(1), count)
            queries = _spans(keep, per_group)
            for name in (own.queries, *own.keys_values):
                rows = _spans(keep, state[f"{block}{name}.weight"].shape[int(own.transposed)] // groups)
                state |= sliced(state, block + name, rows, rows=True, transposed=own.transposed)
            state |= sliced(state, block + own.attention_out, queries, rows=False, transposed=own.transposed)
        return _cut(model, Prune(kv_heads=count).sizes(model), state, f"{count} of {groups} KV heads kept")

    def _with_ffn(self, model: ChatModel, batches: Sequence[Batch]) -> ChatModel:
        own, state = model.architecture, _state(model)
        changes = Prune(ffn=self.ffn).sizes(model)
        width, count = own.ffn_width(model.network), changes[own.ffn_size]
        for block, importance in _per_block(model, own.ffn_out, batches):
            keep = most_important(importance, count)
            for name in own.ffn_in:
                parts = state[f"{block}{name}.weight"].shape[int(own.transposed)] // width  # gate and up may be one
                rows = torch.cat([keep + width * part for part in range(parts)])
                state |= sliced(state, block + name, rows, rows=True, transposed=own.transposed)
            state |= sliced(state, block + own.ffn_out, keep, rows=False, transposed=own.transposed)
        return _cut(model, changes, state, f"{count} of {width} FFN neurons kept")

    def _with_width(self, model: ChatModel, batches: Sequence[Batch]) -> ChatModel:
        """Channels are the same everywhere: every matrix that reads or writes the residual stream loses the rest."""
        network, own = model.network, model.architecture
        changes = Prune(width=self.width).sizes(model)
        width, count = network.config.hidden_size, changes["hidden_size"]
        readers = [own.modules(b, readers)[0] for b in own.blocks(network) for _, readers in own.norms]
        keep = most_important(torch.stack(importances(network, batches, readers)).square().sum(0), count)
        state = {name: narrow(name, value, keep, own) for name, value in _state(model).items()}
        return _cut(model, changes, state, f"{count} of {width} channels kept")


@dataclass(frozen=True, slots=True)
class Sparsify(Step):
    """Set weights to zero and save nothing: Wanda's masks on every matrix of the blocks, to be measured.

    pattern:  "unstructured" zeroes ``share`` of each row, "2:4" two of every four
    """

    pattern: Literal["unstructured", "2:4"] = "2:4"
    share: float = 0.5

    name: ClassVar[str] = "sparsify"
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def problems(self, model: ChatModel) -> list[str]:
        problems = [] if 0 < self.share < 1 else [f"share lies between 0 and 1, not {self.share:g}"]
        return [*problems, "the model is on the integer grid already"] if model.grid else problems

    @torch.no_grad()
    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Mask a float32 copy.

        Raises:
            BadInput: no dialogues to read activations on.
        """
        batches = calibration(model, context, "masks need dialogues to see what is used", 128)
        network: Any = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
        own = model.architecture
        attention = (*filter(None, [own.queries]), *own.keys_values, own.attention_out, *own.other_out)
        modules = [m for b in own.blocks(network) for m in own.modules(b, (*own.ffn_in, own.ffn_out, *attention))]
        squares = [torch.zeros(own.rows(m).shape[1]) for m in modules]
        for batch in batches:
            for total, x in zip(squares, _inputs(network, batch, modules), strict=True):
                total += x[batch.reply].float().square().sum(0)
        for module, total in zip(modules, squares, strict=True):
            own.rows(module).mul_(wanda(own.rows(module), total.sqrt(), self.pattern, self.share))
        summary = f"masked: {self.pattern}, {self.share:.0%} of the blocks' weights are zero and stored all the same"
        return replace(model, network=network, lineage=(*model.lineage, summary))


def _changes(model: ChatModel, live: Sequence[int]) -> dict[str, Any]:
    """To the config, when these blocks alone are left."""
    config, changes = model.network.config, {"num_hidden_layers": len(live)}
    if not hasattr(config, "layer_types"):
        return changes
    kinds = model.architecture.kinds(config)
    return changes | {"layer_types": [kinds[i] for i in live]}


def _problems_with(model: ChatModel, live: Sequence[int]) -> list[str]:
    return model.architecture.problems(resized_config(model.network.config, _changes(model, live)))


def _keeping(model: ChatModel, live: Sequence[int]) -> ChatModel:
    dropped = sorted(set(range(model.network.config.num_hidden_layers)) - set(live))
    state = without_blocks(_state(model), model.architecture.blocks_prefix(model.network), set(dropped))
    return _cut(model, _changes(model, live), state, f"blocks {', '.join(map(str, dropped))} dropped")


def _state(model: ChatModel) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.network.state_dict().items()}


def _per_block(model: ChatModel, module: str, batches: Sequence[Batch]) -> Iterator[tuple[str, Tensor]]:
    """What a block's names begin with, and the importance of the inputs of its ``module``, block by block."""
    own, prefix = model.architecture, model.architecture.blocks_prefix(model.network)
    having = {n: m[0] for n, block in enumerate(own.blocks(model.network)) if (m := own.modules(block, [module]))}
    per_block = importances(model.network, batches, list(having.values()))
    return ((f"{prefix}{number}.", importance) for number, importance in zip(having, per_block, strict=True))


def _cut(model: ChatModel, changes: dict[str, Any], state: dict[str, Tensor], summary: str) -> ChatModel:
    network = rebuilt(model.network, changes, state)
    return replace(model, network=network, lineage=(*model.lineage, f"pruned: {summary}"))


def _spans(groups: Tensor, size: int) -> Tensor:
    """The numbers of all entries of some groups of ``size`` neighbours."""
    return (groups[:, None] * size + torch.arange(size)).reshape(-1)
