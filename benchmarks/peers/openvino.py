"""OpenVINO GenAI: weights compressed by NNCF through optimum-intel, as its documentation says.

The prefix cache is on, as it is by default, and no larger than one context needs: it cannot be emptied, and a window
that goes through the same few short dialogues again is answered from it in part, in OpenVINO's favour. Arithmetic is
what OpenVINO chooses: bf16 where the processor has it.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.serving import Description, Order, PeerSession, main
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.serving_process import ServingSpec

KINDS, DATA_AWARE = ("int8", "int4"), "int4, data-aware"
_BLOCK = 32  # tokens of a block of the paged cache on a CPU
_MODEL = "openvino_model.xml"


def make(order: Order) -> Description:
    """Export: the documented default of each width, and int4 with AWQ and scale estimation on the dialogues."""
    bits = order.kind.partition(",")[0]
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino", "--model", str(order.model)]
    command += ["--task", "text-generation-with-past", "--weight-format", bits, str(order.to)]
    command += ["--group-size-fallback", "adjust"] if bits == "int4" else []  # for widths that 128 does not divide
    subprocess.run(command, check=True, stdout=sys.stderr)
    if order.kind == DATA_AWARE:
        _data_aware(order)
    sizes = _constants(order.to / _MODEL)
    return Description(f"openvino-genai {version('openvino-genai')}, nncf {version('nncf')}", sum(sizes), sum(sizes))


def _data_aware(order: Order) -> None:
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
    from transformers import AutoTokenizer

    groups = {"group_size": 128, "group_size_fallback": "adjust"}
    config = OVWeightQuantizationConfig(
        bits=4, ratio=1.0, quant_method="awq", scale_estimation=True, dataset=order.dialogues(128), **groups
    )
    tokenizer = AutoTokenizer.from_pretrained(order.model)
    model = OVModelForCausalLM.from_pretrained(
        order.model, export=True, quantization_config=config, tokenizer=tokenizer
    )
    model.save_pretrained(order.to)


def _constants(model: Path) -> list[int]:
    """Bytes of each constant of the network; a head tied to the embedding is one of them, and is read whole."""
    import openvino

    nodes = openvino.Core().read_model(model).get_ordered_ops()
    return [node.get_byte_size() for node in nodes if node.get_type_name() == "Constant"]


class OpenVino(PeerSession):
    """LLMPipeline on the CPU."""

    def __init__(self, spec: ServingSpec) -> None:
        import openvino_genai as genai

        super().__init__(spec)
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.num_kv_blocks = self.longest // _BLOCK + 1
        options = {"scheduler_config": scheduler, "INFERENCE_NUM_THREADS": self.threads}
        self._pipe = genai.LLMPipeline(str(self.files), "CPU", **options)
        self._whole: Any = None  # the same network outside the pipeline, which tells only the last token's logits

    def generate_ids(self, prompt: list[int], sampling: Sampling, most: int) -> tuple[list[int], int]:
        """The pipeline does not say what came from its cache."""
        import openvino
        import openvino_genai as genai

        config = genai.GenerationConfig()
        config.max_new_tokens, config.eos_token_id, config.stop_token_ids = most, min(self.stops), set(self.stops)
        config.repetition_penalty, config.do_sample = sampling.repetition_penalty, sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p, config.rng_seed = sampling.temperature, sampling.top_p, sampling.seed
            if sampling.top_k:
                config.top_k = sampling.top_k
        ids = np.array([prompt], np.int64)
        inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        new = [int(token) for token in self._pipe.generate(inputs, config).tokens[0]]
        return new, 0

    def reset(self) -> None:
        """The pipeline cannot be told to; its cache is of blocks of equal tokens, which changes no answer."""

    def all_logits(self, ids: list[int]) -> NDArray[np.float32]:
        """With the properties that the pipeline has."""
        import openvino

        if self._whole is None:
            compiled = openvino.Core().compile_model(
                self.files / _MODEL, "CPU", {"INFERENCE_NUM_THREADS": self.threads}
            )
            self._whole = compiled.create_infer_request()
        self._whole.reset_state()
        row = np.array([ids], np.int64)
        inputs = {"input_ids": row, "attention_mask": np.ones_like(row), "position_ids": np.arange(len(ids))[None]}
        inputs["beam_idx"] = np.zeros(1, np.int32)
        rows: NDArray[np.float32] = self._whole.infer(inputs)["logits"][0].astype(np.float32)
        return rows


if __name__ == "__main__":
    main(make, OpenVino)
