"""Trains the demo model: a Llama of 16M parameters, from random weights, on the demo's dialogues.

    python -m scripts.demo_model.train --data FOLDER --out FOLDER [--epochs 3 --minutes 120 ...]
    python -m scripts.demo_model.train --data FOLDER --out OTHER --start FOLDER/model [--support 5 ...]   a second stage

One dialogue a row (see corpus.py), batches of one length and about ``--batch-tokens`` tokens. The loss counts the
assistant's tokens fully and the user's by ``--user-weight``: at this size a model learns English from every sentence
it can get. AdamW, cosine to a tenth, bf16 autocast. A checkpoint every few minutes; the same command goes on from the
last one. The best weights by loss on the tune split are saved at the end, with curves and, where the board has a
counter of its own, the joules that it showed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.demo_model import corpus, prepare
from scripts.demo_model.corpus import Rows


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is made of; written beside the model."""

    epochs: float = 3.0
    batch_tokens: int = 4096  # padding included
    lr: float = 1.5e-3
    weight_decay: float = 0.1
    dropout: float = 0.0  # on the embedding and on what each attention and FFN block adds
    user_weight: float = 0.5
    warmup_steps: int = 200
    width: int = 384
    layers: int = 8
    heads: int = 6
    kv_heads: int = 3
    ffn: int = 1024
    vocabulary: int = 8192
    seed: int = 0
    evaluations: int = 12
    minutes: float = 600.0  # stop here, whatever is left
    home: float = 2.0  # how often an epoch shows each source
    service: float = 1.0
    support: float = 2.0
    chitchat: float = 0.35
    pairs: float = 0.0  # of the copies of single questions, the share that holds two to a dialogue


def build(settings: Settings) -> LlamaForCausalLM:
    """Random weights; dropout as forward hooks, so that the saved model is a plain Llama."""
    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        intermediate_size=settings.ffn,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=corpus.END,
        pad_token_id=corpus.PAD,
    )
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(config)


def add_dropout(model: LlamaForCausalLM, p: float) -> None:
    """Drop units of the embedding and of every block's contribution, while training only."""

    def drop(module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (nn.functional.dropout(output[0], p, module.training), *output[1:])
        return nn.functional.dropout(output, p, module.training)

    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)


def batch(rows: Rows, rows_of_step: NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, weights) of one step, int64 [rows, length]."""
    ids, weight = (torch.from_numpy(part[rows_of_step].astype(np.int64)) for part in (rows.ids, rows.weight))
    return ids.to(device, non_blocking=True), weight.to(device, non_blocking=True)


def loss_of(
    model: Callable[..., Any], ids: torch.Tensor, weight: torch.Tensor, user_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weighted mean of the loss, per-token losses [rows, length - 1])."""
    logits = model(input_ids=ids, use_cache=False).logits
    target, kind = ids[:, 1:], weight[:, 1:]
    each = nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), target.flatten(), reduction="none"
    ).view_as(target)
    scale = torch.where(kind == 2, 1.0, torch.where(kind == 1, user_weight, 0.0))
    return (each * scale).sum() / scale.sum().clamp_min(1.0), each


def evaluate(model: nn.Module, sets: dict[str, list[Rows]], device: torch.device) -> dict[str, float]:
    """Nats per assistant token (end of turn included) of each source of the tune split."""
    model.eval()
    nats = {}
    for source, tables in sets.items():
        total, tokens = 0.0, 0
        for rows in tables:
            for begin in range(0, len(rows.ids), 16):
                ids, weight = batch(rows, np.arange(begin, min(begin + 16, len(rows.ids))), device)
                with torch.no_grad(), _autocast(device):
                    _, each = loss_of(model, ids, weight, 0.0)
                mine = weight[:, 1:] == 2
                total += float((each * mine).sum())
                tokens += int(mine.sum())
        nats[source] = total / tokens
    model.train()
    return nats


def learning_rate(step: int, done: float, settings: Settings) -> float:
    """Linear warm-up, then a cosine to a tenth; ``done`` is the share that is used up, of the steps or the minutes."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    return settings.lr * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done))))


def epoch(tables: list[Rows], batch_tokens: int, seed: int, number: int) -> list[tuple[int, NDArray[np.int64]]]:
    """(table, row numbers) of every step of an epoch, shuffled; the same for the same seed and number."""
    rng = np.random.default_rng((seed, number))
    steps = []
    for k, rows in enumerate(tables):
        count = max(1, batch_tokens // rows.ids.shape[1])
        shuffled = rng.permutation(len(rows.ids))
        steps += [(k, shuffled[at : at + count]) for at in range(0, len(shuffled) - count + 1, count)]
    return [steps[i] for i in rng.permutation(len(steps))]


class Run:
    """One training run in one folder."""

    def __init__(
        self, settings: Settings, tables: list[Rows], tune: dict[str, list[Rows]], out: Path, device: str
    ) -> None:
        self.settings, self.tables, self.tune, self.out = settings, tables, tune, out
        self.device = torch.device(device)
        network: Any = build(settings)
        self.model: LlamaForCausalLM = network.to(self.device)
        add_dropout(self.model, settings.dropout)
        decay = [p for p in self.model.parameters() if p.ndim >= 2]
        plain = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.lr,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.step, self.seconds, self.joules = 0, 0.0, 0.0
        self.first_step = 0  # the step of this process's start
        self.curve: list[dict[str, Any]] = []
        self.best: tuple[float, dict[str, torch.Tensor]] | None = None
        self.epoch_steps = len(epoch(tables, settings.batch_tokens, settings.seed, 0))
        self.steps = round(settings.epochs * self.epoch_steps)

    def train(self, *, compiled: bool, checkpoint_s: float = 300.0) -> None:
        """Train from the last checkpoint to the end."""
        self._resume()
        self.first_step = self.step
        forward = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.model.train()
        meter = _meter(self.device)
        mark = self._mark(meter)
        every = max(1, self.steps // self.settings.evaluations)
        saved = start_s = time.monotonic()
        plan: list[tuple[int, NDArray[np.int64]]] = []
        while self.step < self.steps:
            if self.seconds + time.monotonic() - mark[0] > self.settings.minutes * 60:
                break
            if self.step % self.epoch_steps == 0 or not plan:
                plan = epoch(self.tables, self.settings.batch_tokens, self.settings.seed, self.step // self.epoch_steps)
            chosen = plan[self.step % self.epoch_steps]
            spent = (self.seconds + time.monotonic() - mark[0]) / (self.settings.minutes * 60)
            loss = self._update(forward, chosen, max(self.step / self.steps, spent))
            self.step += 1
            if self.step % every == 0 or self.step == self.steps:
                mark = self._account(meter, mark)
                self._note(float(loss.detach()), start_s)
            if time.monotonic() - saved > checkpoint_s:
                mark = self._account(meter, mark)
                self._checkpoint()
                saved = time.monotonic()
        self._account(meter, mark)
        if not self.curve or self.curve[-1]["step"] != self.step:
            self._note(None, start_s)
        self._checkpoint()

    def _update(
        self, forward: Callable[..., Any], step_rows: tuple[int, NDArray[np.int64]], done: float
    ) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, done, self.settings)
        ids, weight = batch(self.tables[step_rows[0]], step_rows[1], self.device)
        with _autocast(self.device):
            loss, _ = loss_of(forward, ids, weight, self.settings.user_weight)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _note(self, loss: float | None, start_s: float) -> None:
        """Evaluate, remember, keep the best weights."""
        scores = evaluate(self.model, self.tune, self.device)
        mean = sum(scores.values()) / len(scores)
        tokens = self.step * self.settings.batch_tokens
        self.curve.append({"step": self.step, "tokens": tokens, "train": loss, "tune": mean, **scores})
        if self.best is None or mean < self.best[0]:
            self.best = (mean, {k: v.detach().to("cpu", copy=True) for k, v in self.model.state_dict().items()})
        pace = (self.step - self.first_step) * self.settings.batch_tokens / max(1e-9, time.monotonic() - start_s)
        figures = " ".join(f"{k} {v:.3f}" for k, v in scores.items())
        line = f"step {self.step}/{self.steps} tune {mean:.4f} ({figures}) {pace / 1e3:.0f}k tokens/s"
        print(line, file=sys.stderr, flush=True)

    def _mark(self, meter: Any) -> tuple[float, float | None]:
        return time.monotonic(), None if meter is None else meter.read().joules

    def _account(self, meter: Any, mark: tuple[float, float | None]) -> tuple[float, float | None]:
        now = self._mark(meter)
        self.seconds += now[0] - mark[0]
        if now[1] is not None and mark[1] is not None:
            self.joules += now[1] - mark[1]
        return now

    def _checkpoint(self) -> None:
        """Model, optimizer and counters as safetensors and JSON; renamed into place when complete."""
        part, final = self.out / "checkpoint.part", self.out / "checkpoint"
        part.mkdir(parents=True, exist_ok=True)
        state = {"model." + k: v for k, v in self.model.state_dict().items() if k != "lm_head.weight"}
        for index, slot in self.optimizer.state_dict()["state"].items():
            state |= {f"adam.{index}.{k}": torch.as_tensor(v).clone() for k, v in slot.items()}
        if self.best is not None:
            state |= {"best." + k: v for k, v in self.best[1].items() if k != "lm_head.weight"}
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in state.items()}, part / "state.safetensors")
        counters = {
            "step": self.step,
            "seconds": self.seconds,
            "joules": self.joules,
            "curve": self.curve,
            "best": None if self.best is None else self.best[0],
        }
        (part / "counters.json").write_text(json.dumps(counters))
        previous = self.out / "checkpoint.old"
        _remove(previous)
        if final.exists():
            final.rename(previous)
        part.rename(final)
        _remove(previous)

    def _resume(self) -> None:
        folder = self.out / "checkpoint"
        folder = folder if folder.exists() else self.out / "checkpoint.old"
        if not folder.exists():
            return
        counters = json.loads((folder / "counters.json").read_text())
        state = load_file(folder / "state.safetensors")
        self.model.load_state_dict(_part(state, "model."), strict=False)
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _part(state, "adam.").items():
            index, field = name.split(".", 1)
            slots.setdefault(int(index), {})[field] = value
        self.optimizer.load_state_dict({"state": slots, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.step, self.seconds, self.joules = counters["step"], counters["seconds"], counters["joules"]
        self.curve = counters["curve"]
        if counters["best"] is not None:
            self.best = (counters["best"], _part(state, "best."))
        print(f"going on from step {self.step}", file=sys.stderr)

    def save(self, folder: Path, tokenizer: Path, earlier: list[dict[str, Any]]) -> None:
        """The best weights as a Hugging Face folder in bf16, and how they came about: a story for each stage."""
        assert self.best is not None, "train first"
        self.model.load_state_dict(self.best[1], strict=False)
        network: Any = self.model
        network.to(torch.bfloat16).save_pretrained(folder)
        write_companions(folder, tokenizer)
        story = {
            "settings": asdict(self.settings),
            "curve": self.curve,
            "best_tune": self.best[0],
            "seconds": round(self.seconds, 1),
            "joules": round(self.joules) if self.joules else None,  # None: no counter was there to read
            "joules_meter": "NVML total-energy counter, board" if self.joules else None,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "dialogues_an_epoch": sum(len(rows.ids) for rows in self.tables),
            "tokens_an_epoch": sum(int((rows.ids != corpus.PAD).sum()) for rows in self.tables),
        }
        stages = {"stages": [*earlier, story]}
        (folder / "training.json").write_text(json.dumps(stages, indent=1, allow_nan=False) + "\n")


def write_companions(folder: Path, tokenizer: Path) -> None:
    """Tokenizer, template and generation settings beside the weights."""
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (folder / "chat_template.jinja").write_text(corpus.TEMPLATE)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
        "chat_template": corpus.TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    generation = {
        "eos_token_id": [corpus.END],
        "pad_token_id": corpus.PAD,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
        "max_new_tokens": 256,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1))


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _remove(folder: Path) -> None:
    for file in folder.glob("*"):
        file.unlink()
    if folder.exists():
        folder.rmdir()


def _autocast(device: torch.device) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _meter(device: torch.device) -> Any:
    """The board's counter when the work runs on one; None elsewhere: nothing is guessed."""
    if device.type != "cuda":
        return None
    from halfwatt.meters.discover import instruments

    return instruments(str(device)).primary


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, Settings]:
    """The command line; every field of `Settings` is an option."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--data", type=Path, help="the folder with the four sources; not needed when --work is filled")
    parser.add_argument("--start", type=Path, help="a model folder of an earlier stage, instead of random weights")
    parser.add_argument("--work", type=Path, help="tokenizer and arrays; default: OUT/work")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true")
    for name, value in asdict(Settings()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    args = parser.parse_args(arguments)
    return args, Settings(**{name: getattr(args, name) for name in asdict(Settings())})


def main(arguments: list[str] | None = None) -> None:
    """Prepare what is missing, train, save into OUT/model."""
    args, settings = parse(arguments)
    work = args.work or args.out / "work"
    if not (work / "train.npz").exists():
        tokenizer = None if args.start is None else args.start / "tokenizer.json"
        shares = {source: getattr(settings, source) for source in prepare.SOURCES}
        mix = corpus.Mix(shares, settings.pairs)
        corpus.prepare_arrays(args.data, work, mix, tokenizer or settings.vocabulary)
    if args.device == "cuda":
        torch.set_float32_matmul_precision("high")
    tune = {source: corpus.load(work / f"tune.{source}.npz") for source in prepare.SOURCES}
    run = Run(settings, corpus.load(work / "train.npz"), tune, args.out, args.device)
    earlier: list[dict[str, Any]] = []
    if args.start is not None:
        run.model.load_state_dict(load_file(args.start / "model.safetensors"), strict=False)
        earlier = json.loads((args.start / "training.json").read_text())["stages"]
    run.train(compiled=not args.no_compile)
    run.save(args.out / "model", work / "tokenizer.json", earlier)


if __name__ == "__main__":
    main()
