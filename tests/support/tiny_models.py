"""Small models made in code, for the whole test suite: seconds to build, random weights, a real tokenizer and template.

    folder = tiny.folder(tmp_path, "qwen2", seed=0)        # a Hugging Face folder that chat_model.load reads

The weights are drawn wide enough that logits differ by whole nats: greedy choices have no near ties, and two runtimes
that agree to a few digits agree on every token.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.models.chat_model import ChatModel, quiet

Arch = str  # a ``model_type`` of transformers
ARCHS: tuple[Arch, ...] = ("llama", "mistral", "qwen2", "qwen3", "gpt2")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
PAD, START, END, TEXT_END = range(4)

SENTENCES = (
    "Turn on the light in the kitchen, please.",
    "Turning on the kitchen light now.",
    "Is the garage door open or closed? The garage door is closed.",
    "I'd like to book a table for 4 people at 7:30 pm.",
    "Your order 12345 was shipped on Monday; it'll arrive within 3 days.",
    "What's the weather like? It is sunny, 21 degrees, with a light wind.",
    "Play some music in the living room. Playing your favourite songs.",
    "Sorry, I can't find that. Could you say it again?",
    "user assistant system",
)

_WIDTH, _LAYERS, _HEADS, _KV_HEADS, _FFN, _CONTEXT = 64, 2, 4, 2, 96, 512


def dialogues() -> tuple[Dialogue, ...]:
    """Five dialogues of 1 to 3 exchanges; one opens with a system message, one holds text beyond ASCII."""
    exchanges = (
        (("user", "Turn on the kitchen light"), ("assistant", "Turning on the kitchen light now.")),
        (
            ("system", "You are a helpful assistant."),
            ("user", "Is the garage door open?"),
            ("assistant", "The garage door is closed."),
            ("user", "And the light?"),
            ("assistant", "The light is on."),
        ),
        (
            ("user", "I'd like a table for 4 people."),
            ("assistant", "Sure! At what time?"),
            ("user", "7:30 pm"),
            ("assistant", "Your table is booked."),
            ("user", "Thanks"),
            ("assistant", "You're welcome."),
        ),
        (("user", "Wie wär's mit Musik? 🎵 音楽"), ("assistant", "Ja - gern: “Für Elise”, 楽しい!")),
        (("user", "  spaces  and\n\nlines  "), ("assistant", "1\n2\n\n  3"), ("user", "ok"), ("assistant", "ok  then")),
    )
    return tuple(
        Dialogue(f"tiny-{i}", tuple(Message(role, text) for role, text in rows))  # type: ignore[arg-type]
        for i, rows in enumerate(exchanges)
    )


def tokenizer(*, template: str | None = CHATML, pre_tokenizer: Any = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 384 ids with ChatML's special tokens, trained here on a few sentences."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 4, trainer)
    hf = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, eos_token=SPECIAL[END], pad_token=SPECIAL[PAD], clean_up_tokenization_spaces=False
    )
    if template is not None:
        hf.chat_template = template
    return hf


def network(
    arch: Arch,
    *,
    seed: int = 0,
    tied: bool = True,
    vocab_size: int = 384,
    width: int = _WIDTH,
    layers: int = _LAYERS,
    config: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """A random network in float32, evaluation mode; ``width`` is a multiple of 32. config: entries beside the usual."""
    entries = _config(arch, width, layers) | {"vocab_size": vocab_size, "tie_word_embeddings": tied} | (config or {})
    drawn: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(arch, **entries))  # type: ignore[no-untyped-call]
    draw = torch.Generator().manual_seed(seed)
    loud = getattr(drawn.get_input_embeddings(), "embed_scale", 1.0)  # blocks must be heard beside such an embedding
    with torch.no_grad():
        for name, parameter in drawn.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if "norm" in name or "ln_" in name:
                change_nothing = parameter + (float(loud) - 1 if "post_" in name else 0.0)
                parameter.copy_(change_nothing + 0.1 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            elif "embed" in name or "wte" in name or "lm_head" in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(1.5 * noise / width**0.5)
    drawn.eval()  # type: ignore[no-untyped-call]
    return drawn


def _config(arch: Arch, width: int, layers: int) -> dict[str, Any]:
    common: dict[str, Any] = {"eos_token_id": END, "pad_token_id": PAD, "bos_token_id": None}
    if arch == "gpt2":
        return common | {"n_embd": width, "n_layer": layers, "n_head": _HEADS, "n_positions": _CONTEXT}
    sizes = {
        "hidden_size": width,
        "intermediate_size": _FFN * width // _WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "max_position_embeddings": _CONTEXT,
    }
    return common | sizes | ({"head_dim": width // _HEADS} if arch in ("llama", "qwen3") else {})


def changed(base: ChatModel, **settings: Any) -> ChatModel:
    """The same weights under a config with other settings."""
    config = base.network.config.__class__.from_dict({**base.network.config.to_dict(), **settings})
    network: Any = type(base.network)(config)
    network.load_state_dict(base.network.state_dict(), strict=False)
    return replace(base, network=network.eval())


def folder(
    into: Path,
    arch: Arch = "llama",
    *,
    seed: int = 0,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    template: str | None = CHATML,
    generation: dict[str, Any] | None = None,
    width: int = _WIDTH,
    layers: int = _LAYERS,
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a tiny model as a Hugging Face folder ``into/<arch>-<seed>`` and return its path.

    config:      entries of config.json beside the usual
    generation:  entries of generation_config.json beside eos_token_id [2, 3] and max_new_tokens 24
    """
    path = into / f"{arch}-{seed}"
    with quiet():
        drawn: Any = network(arch, seed=seed, tied=tied, width=width, layers=layers, config=config)
        drawn.to(dtype).save_pretrained(path)
    tokenizer(template=template).save_pretrained(path)
    entries = {"eos_token_id": [END, TEXT_END], "pad_token_id": PAD, "max_new_tokens": 24, **(generation or {})}
    (path / "generation_config.json").write_text(json.dumps(entries))
    return path
