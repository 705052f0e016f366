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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

from halfwatt.compress.base import Stage, StepContext
from halfwatt.compress.search_ranges import OneOf
from halfwatt.compress.training import losses
from halfwatt.compress.training.batches import Batch, Predictor, in_batches
from halfwatt.core.errors import BadInput
from halfwatt.dialogues.dialogue import Dialogue
from halfwatt.models.architecture import (
    blocks_of,
    columns,
    head_size,
    parts_of,
    rebuilt,
    set_blocks,
    sliced,
    without_blocks,
)
from halfwatt.models.chat_model import ChatModel

Tensor = torch.Tensor
WIDTH = 64  # FFN widths are multiples of it
_DIALOGUES = 512  # that are looked at, at most
_LONGEST = 512


# --- pure ----------------------------------------------------------------------------------------------------------


def kept(importance: Tensor, count: int) -> Tensor:
    """int64 [count]: the most important entries, in their old order."""
    return importance.topk(count).indices.sort().values


def multiple_of_64(width: int, share: float) -> int:
    """The multiple of 64 nearest to ``share`` of ``width``, at least 64."""
    return max(WIDTH, round(width * share / WIDTH) * WIDTH)


def narrowed(name: str, value: Tensor, keep: Tensor, writers: Sequence[str]) -> Tensor:
    """A tensor of the state dict with some channels of the residual stream kept.

    Rows of the matrices that write into the stream (``writers``, biases too), columns of all others, and the norms of
    the stream. Biases of readers and norms of single heads stay.
    """
    if any(part in name for part in writers):
        return value.index_select(0, keep)
    if value.ndim == 2:
        return value.index_select(1, keep)
    return value[keep] if name.endswith("norm.weight") and "attn" not in name else value


def wanda(weight: Tensor, norms: Tensor, pattern: Literal["unstructured", "2:4"], share: float = 0.5) -> Tensor:
    """Bool [out, in]: what Wanda keeps, by |w| ||x||_2 within each row.

    weight: [out, in]; norms: [in], L2 norm of each input over the calibration tokens
    share:  of each row that goes to zero; "2:4" keeps the best two of every four
    """
    score = weight.abs() * norms
    if pattern == "2:4":
        best = score.reshape(len(weight), -1, 4).topk(2, dim=-1).indices
        mask = torch.zeros(len(weight), weight.shape[1] // 4, 4, dtype=torch.bool)
        return mask.scatter_(2, best, True).reshape(weight.shape)
    best = score.topk(weight.shape[1] - round(weight.shape[1] * share), dim=1).indices
    return torch.zeros(weight.shape, dtype=torch.bool).scatter_(1, best, True)


# --- reading activations -------------------------------------------------------------------------------------------


@torch.no_grad()
def importances(network: nn.Module, batches: Sequence[Batch], modules: Sequence[nn.Module]) -> list[Tensor]:
    """[inputs] of each module: the L2 norm over dialogues of the mean |input| on a dialogue's learned tokens."""
    squares = [torch.zeros(columns(m)) for m in modules]
    with _where(network, batches):
        for batch in batches:
            for total, inputs in zip(squares, _inputs(network, batch, modules), strict=True):
                weight = batch.reply.float()[..., None]  # [rows, length, 1]
                per_dialogue = (inputs.abs().float() * weight).sum(1) / weight.sum(1).clamp_min(1)
                total += per_dialogue.square().sum(0).cpu()
    return [total.sqrt() for total in squares]


@contextmanager
def _where(network: nn.Module, batches: Sequence[Batch]) -> Iterator[None]:
    """The network on the device of the batches, and back again."""
    home = next(network.parameters()).device
    network.to(batches[0].ids.device)
    try:
        yield
    finally:
        network.to(home)


def _inputs(network: Any, batch: Batch, modules: Sequence[nn.Module]) -> list[Tensor]:
    """[rows, length, inputs] of each module for one batch."""
    found: dict[int, Tensor] = {}
    with hearing(modules, lambda k, x: found.__setitem__(k, x)):
        network.base_model(input_ids=batch.ids, use_cache=False)
    return [found[k] for k in range(len(modules))]


@contextmanager
def hearing(modules: Sequence[nn.Module], hear: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call ``hear(k, inputs)`` whenever the k-th module runs."""

    def hook(k: int) -> Callable[..., None]:
        return lambda _module, inputs: hear(k, inputs[0].detach())

    handles = [m.register_forward_pre_hook(hook(k)) for k, m in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def left_out(model: ChatModel, batches: Sequence[Batch], live: Sequence[int]) -> list[float]:
    """KL divergence in nats a token from the whole network to it without each of the ``live`` blocks, in turn."""
    network: Any = copy.deepcopy(model.network).to(batches[0].ids.device)  # type: ignore[arg-type]
    whole = list(blocks_of(network))
    predictor = Predictor(network).eval()
    set_blocks(network, [whole[i] for i in live])
    wanted = [predictor(b.ids, b.reply) for b in batches]
    found = []
    for gone in live:
        set_blocks(network, [whole[i] for i in live if i != gone])
        apart = [losses.forward_kl(w, predictor(b.ids, b.reply)) for w, b in zip(wanted, batches, strict=True)]
        found.append(float(torch.cat(apart).mean()))
    return found


# --- the step ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prune:
    """Make a network of the same kind with fewer neurons, heads or blocks.

    width:     share of the residual channels (hidden size) that stays, rounded to multiples of 64. Not for GPT-2, whose
               head size hangs on width
    ffn:       share of the FFN neurons that stays, rounded to multiples of 64
    kv_heads:  KV heads that stay, each with its query heads; None = all. Not for GPT-2 either
    drop:      blocks that go
    """

    width: Annotated[float, OneOf(0.5, 0.667, 0.75, 1.0)] = 1.0
    ffn: Annotated[float, OneOf(0.25, 0.5, 1.0)] = 1.0
    kv_heads: int | None = None
    drop: int = 0

    name: ClassVar[str] = "prune"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    source: ClassVar[str] = "Minitron, arXiv 2407.14679; SLEB, arXiv 2402.09025"

    def __str__(self) -> str:
        return f"width {self.width:g}, FFN {self.ffn:g}"

    def problems(self, model: ChatModel) -> list[str]:
        """Sizes that cannot be."""
        config, found = model.network.config, []
        heads = getattr(config, "num_key_value_heads", None)
        for name, share in (("width", self.width), ("ffn", self.ffn)):
            if not 0 < share <= 1:
                found.append(f"{name} is a share above 0 and at most 1, not {share:g}")
        if self.width != 1 and parts_of(model.network).queries is None:
            found.append("GPT-2's width cannot be pruned: every loader takes the size of its heads from it")
        if not 0 <= self.drop < config.num_hidden_layers:
            found.append(f"{self.drop} of {config.num_hidden_layers} blocks cannot be dropped")
        if self.kv_heads is not None and parts_of(model.network).queries is None:
            found.append("GPT-2's heads cannot be pruned: every loader takes their size from the width")
        elif self.kv_heads is not None and not 1 <= self.kv_heads <= int(heads or 0):
            found.append(f"{self.kv_heads} of {heads} KV heads cannot stay")
        if model.grid:
            found.append("the model is on the integer grid already: prune first, then quantize")
        return found

    def sizes(self, model: ChatModel, _dialogues: Sequence[Dialogue] = ()) -> dict[str, Any]:
        """Entries of the config as they will be."""
        config, parts = model.network.config, parts_of(model.network)
        size, made = head_size(config), dict[str, Any]()
        if self.drop:
            made["num_hidden_layers"] = config.num_hidden_layers - self.drop
        if self.kv_heads is not None:
            heads = config.num_attention_heads * self.kv_heads // config.num_key_value_heads
            made |= {"num_key_value_heads": self.kv_heads, "num_attention_heads": heads, "head_dim": size}
        if self.ffn < 1:
            width = columns(blocks_of(model.network)[0].get_submodule(parts.ffn_out))
            made[parts.ffn_size] = min(width, multiple_of_64(width, self.ffn))
        if self.width < 1:
            width = config.hidden_size
            made |= {"hidden_size": min(width, multiple_of_64(width, self.width)), "head_dim": size}
        return made

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Read the activations of the calibration dialogues, then cut.

        Raises:
            BadInput: no dialogues to read them on.
        """
        if not context.dialogues:
            raise BadInput("pruning needs dialogues to see what they use", hint="pass --dialogues FILE")
        read = in_batches(context.some(_DIALOGUES), model.tokenizer, min(_LONGEST, model.context))
        batches = [batch.to(torch.device(context.device)) for batch in read]
        if self.drop:
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
        few = batches[:: max(1, len(batches) // 8)]
        for k in range(self.drop):
            missed = left_out(model, few, live)
            gone = live.pop(min(range(len(live)), key=missed.__getitem__))
            context.progress(f"dropped block {gone} ({k + 1} of {self.drop}): {min(missed):.3f} nats")
        dropped = set(range(model.network.config.num_hidden_layers)) - set(live)
        changes: dict[str, Any] = {"num_hidden_layers": len(live)}
        kinds = getattr(model.network.config, "layer_types", None)
        if kinds is not None:
            changes["layer_types"] = [kinds[i] for i in live]
        network = rebuilt(model.network, changes, without_blocks(_state(model.network), dropped))
        said = f"pruned: blocks {', '.join(map(str, sorted(dropped)))} dropped"
        return replace(model, network=network, lineage=(*model.lineage, said))

    def _with_heads(self, model: ChatModel, batches: Sequence[Batch], count: int) -> ChatModel:
        network, parts = model.network, parts_of(model.network)
        assert parts.queries is not None, "GPT-2 is refused in problems()"
        config = network.config
        groups, size = config.num_key_value_heads, head_size(config)
        per_group = config.num_attention_heads // groups * size  # values of all query heads of a KV head
        outs = [b.get_submodule(parts.attention_out) for b in blocks_of(network)]
        state = _state(network)
        for block, importance in enumerate(importances(network, batches, outs)):
            keep = kept(importance.square().reshape(groups, per_group).sum(1), count)
            queries, keys = _spans(keep, per_group), _spans(keep, size)
            state |= sliced(state, block, parts.queries, queries, rows=True, transposed=False)
            for name in parts.keys_values:
                state |= sliced(state, block, name, keys, rows=True, transposed=False)
            state |= sliced(state, block, parts.attention_out, queries, rows=False, transposed=False)
        said = f"pruned: {count} of {groups} KV heads kept"
        changes = Prune(kv_heads=count).sizes(model)
        return replace(model, network=rebuilt(network, changes, state), lineage=(*model.lineage, said))

    def _with_ffn(self, model: ChatModel, batches: Sequence[Batch]) -> ChatModel:
        network, parts = model.network, parts_of(model.network)
        outs = [b.get_submodule(parts.ffn_out) for b in blocks_of(network)]
        changes = Prune(ffn=self.ffn).sizes(model)
        width, count = columns(outs[0]), changes[parts.ffn_size]
        state = _state(network)
        for block, importance in enumerate(importances(network, batches, outs)):
            keep = kept(importance, count)
            for name in parts.ffn_in:
                state |= sliced(state, block, name, keep, rows=True, transposed=parts.transposed)
            state |= sliced(state, block, parts.ffn_out, keep, rows=False, transposed=parts.transposed)
        said = f"pruned: {count} of {width} FFN neurons kept"
        return replace(model, network=rebuilt(network, changes, state), lineage=(*model.lineage, said))

    def _with_width(self, model: ChatModel, batches: Sequence[Batch]) -> ChatModel:
        """Channels are the same everywhere: every matrix that reads or writes the residual stream loses the rest."""
        network, parts = model.network, parts_of(model.network)
        changes = Prune(width=self.width).sizes(model)
        width, count = network.config.hidden_size, changes["hidden_size"]
        names = (parts.keys_values[0], parts.ffn_in[0])
        readers = [b.get_submodule(name) for b in blocks_of(network) for name in names]
        keep = kept(torch.stack(importances(network, batches, readers)).square().sum(0), count)
        state = _state(network)
        writers = (f"{parts.attention_out}.", f"{parts.ffn_out}.")
        cut = {name: narrowed(name, value, keep, writers) for name, value in state.items()}
        said = f"pruned: {count} of {width} channels kept"
        return replace(model, network=rebuilt(network, changes, cut), lineage=(*model.lineage, said))


@dataclass(frozen=True, slots=True)
class Sparsify:
    """Set weights to zero and save nothing: Wanda's masks on every matrix of the blocks, to be measured.

    pattern:  "unstructured" zeroes ``share`` of each row, "2:4" two of every four
    """

    pattern: Literal["unstructured", "2:4"] = "2:4"
    share: float = 0.5

    name: ClassVar[str] = "sparsify"
    stage: ClassVar[Stage] = Stage.STRUCTURE
    source: ClassVar[str] = "Wanda, arXiv 2306.11695"

    def problems(self, model: ChatModel) -> list[str]:
        """A share that cannot be, or a model on the grid."""
        found = [] if 0 < self.share < 1 else [f"share lies between 0 and 1, not {self.share:g}"]
        return [*found, "the model is on the integer grid already"] if model.grid else found

    def sizes(self, _model: ChatModel, _dialogues: Sequence[Dialogue] = ()) -> dict[str, Any]:
        """None changes: that is what there is to be measured."""
        return {}

    def apply(self, model: ChatModel, context: StepContext) -> ChatModel:
        """Mask a float32 copy.

        Raises:
            BadInput: no dialogues to read activations on.
        """
        if not context.dialogues:
            raise BadInput("masks need dialogues to see what is used", hint="pass --dialogues FILE")
        batches = in_batches(context.some(128), model.tokenizer, min(_LONGEST, model.context))
        network: Any = copy.deepcopy(model.network).float()  # type: ignore[no-untyped-call]
        parts = parts_of(network)
        names = (*parts.ffn_in, parts.ffn_out, *filter(None, [parts.queries]), *parts.keys_values, parts.attention_out)
        modules = [b.get_submodule(name) for b in blocks_of(network) for name in names]
        squares = [torch.zeros(columns(m)) for m in modules]
        with torch.no_grad():
            for batch in batches:
                for total, x in zip(squares, _inputs(network, batch, modules), strict=True):
                    total += x[batch.reply].float().square().sum(0)
            for module, total in zip(modules, squares, strict=True):
                weight: Any = module.weight
                matrix = weight.T if parts.transposed else weight
                mask = wanda(matrix, total.sqrt(), self.pattern, self.share)
                weight.mul_(mask.T if parts.transposed else mask)
        said = f"masked: {self.pattern}, {self.share:.0%} of the blocks' weights are zero and stored all the same"
        return replace(model, network=network, lineage=(*model.lineage, said))


def _state(network: Any) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in network.state_dict().items()}


def _spans(groups: Tensor, size: int) -> Tensor:
    """The numbers of all entries of some groups of ``size`` neighbours."""
    return (groups[:, None] * size + torch.arange(size)).reshape(-1)
