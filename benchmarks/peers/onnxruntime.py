"""ONNX Runtime GenAI: int4 by its model builder. The generator keeps the conversation's cache."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.serving import Description, Order, PeerSession, main
from halfwatt.models.sampling import Sampling
from halfwatt.runtimes.base import common_prefix
from halfwatt.runtimes.serving_process import ServingSpec

BEST = ("algo_config=k_quant_mixed",)  # the builder takes any name, and says nothing where it knows none such
KINDS = {"int4": (), "int4, k-quants": BEST}


def make(order: Order) -> Description:
    """Build: the default, and what its documentation recommends for quality, some matrices and the head at 8 bits."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(order.model), "-o", str(order.to)]
    command += ["-p", "int4", "-e", "cpu"]
    options = KINDS[order.kind]
    subprocess.run([*command, *(("--extra_options", *options) if options else ())], check=True, stdout=sys.stderr)
    size, read = _weights(order)
    return Description(f"onnxruntime-genai {version('onnxruntime-genai')}", size, read)


def _weights(order: Order) -> tuple[int, int]:
    """(bytes of all constants, bytes of those that a pass reads whole: all but tables that rows are looked up in)."""
    import onnx

    graph = onnx.load(order.to / "model.onnx", load_external_data=False).graph
    sizes = {t.name: _bytes(t) for t in graph.initializer}
    whole = {name for node in graph.node if "Gather" not in node.op_type for name in node.input}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name in whole)


def _bytes(tensor: Any) -> int:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries["length"]) if "length" in entries else int(tensor.ByteSize())


class OnnxRuntime(PeerSession):
    """A generator of its own for each way of sampling; the last one is kept, for its cache."""

    def __init__(self, spec: ServingSpec) -> None:
        import onnxruntime_genai as genai

        super().__init__(spec)
        config = genai.Config(str(self.files))
        session = {"intra_op_num_threads": self.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = genai.Model(config)
        self._generator: Any = None
        self._kept: tuple[Sampling, list[int]] | None = None  # the way of sampling, and the ids in the cache

    def generate_ids(self, prompt: list[int], sampling: Sampling, most: int) -> tuple[list[int], int]:
        """From the tokens on that the cache does not hold."""
        common = self._rewind(prompt, sampling)
        self._generator.append_tokens(np.array([prompt[common:]], np.int32))
        new: list[int] = []
        while len(new) < most and not (new and new[-1] in self.stops):
            self._generator.generate_next_token()
            new.append(int(self._generator.get_next_tokens()[0]))
        self._kept = (sampling, [*prompt, *new[:-1]])
        return new, common

    def all_logits(self, ids: list[int]) -> NDArray[np.float32]:
        """In one pass."""
        self._fresh(Sampling())
        self._generator.append_tokens(np.array([ids], np.int32))
        rows: NDArray[np.float32] = self._generator.get_output("logits")[0].astype(np.float32)
        self.reset()
        return rows

    def reset(self) -> None:
        """Without a generator there is no cache."""
        self._generator = self._kept = None

    def _rewind(self, prompt: list[int], sampling: Sampling) -> int:
        """The generator at the end of what it shares with the prompt."""
        if self._kept is None or self._kept[0] != sampling or not self.at.reuse_prefix:
            self._fresh(sampling)
            return 0
        common = common_prefix(self._kept[1], prompt[:-1])
        self._generator.rewind_to(common)
        return common

    def _fresh(self, sampling: Sampling) -> None:
        import onnxruntime_genai as genai

        options: dict[str, Any] = {"max_length": self.longest, "do_sample": sampling.temperature > 0}
        options["repetition_penalty"] = sampling.repetition_penalty
        if sampling.temperature > 0:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "random_seed": sampling.seed}
            if sampling.top_k:
                options["top_k"] = sampling.top_k
        params = genai.GeneratorParams(self._model)
        params.set_search_options(**options)
        self._generator = genai.Generator(self._model, params)


if __name__ == "__main__":
    main(make, OnnxRuntime)
