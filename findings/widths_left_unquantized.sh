#!/usr/bin/env bash
# torchao 0.18.0, int4 weights on a processor, groups of 128, a layer with 192 inputs, which 128 does not divide. IntxWeightOnlyConfig and
# Int8DynamicActivationIntxWeightConfig refuse it with a message. PrototypeInt4WeightOnlyConfig, the one whose kernels run on a processor, leaves
# such a layer as it is: quantize_ returns, nothing is logged or warned, and the model is int4 in part.
#
# One would expect: a refusal as from the other two, or a warning. With group_size=64 all layers are quantized.
#
# Seen on Python 3.11, torch 2.13.0:
#   IntxWeightOnlyConfig, groups of 128: refused
#   Int8DynamicActivationIntxWeightConfig, groups of 128: refused
#   PrototypeInt4WeightOnlyConfig, its default: 1 of 3 layers int4, warnings 0
#   PrototypeInt4WeightOnlyConfig, groups of 64: 3 of 3 layers int4, warnings 0
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchao==0.18.0 numpy==2.4.6
cd "$work"
cat > widths.py <<'PY'
import logging
import sys
import warnings

import torch
from torch import nn
from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, IntxWeightOnlyConfig, PerGroup, quantize_

words = []
handler = logging.Handler(logging.WARNING)
handler.emit = words.append
logging.getLogger().addHandler(handler)


def outcome(config, how):
    torch.manual_seed(0)
    sizes = ((192, 192), (192, 256), (256, 192))
    network = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in sizes)).to(torch.bfloat16)
    words.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            quantize_(network, config)
        except (AssertionError, ValueError):
            print(f"{how}: refused")
            return "refused"
    int4 = sum("Int4" in type(layer.weight).__name__ + type(layer.weight.data).__name__ for layer in network)
    warned = len(words) + len(caught)
    print(f"{how}: {int4} of {len(network)} layers int4, warnings {warned}")
    return int4, warned


group = PerGroup(128)
same = [
    outcome(IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=group), "IntxWeightOnlyConfig, groups of 128"),
    outcome(
        Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=group),
        "Int8DynamicActivationIntxWeightConfig, groups of 128",
    ),
    outcome(PrototypeInt4WeightOnlyConfig(), "PrototypeInt4WeightOnlyConfig, its default"),
    outcome(PrototypeInt4WeightOnlyConfig(group_size=64), "PrototypeInt4WeightOnlyConfig, groups of 64"),
] == ["refused", "refused", (1, 0), (3, 0)]
print("still so" if same else "this has changed")
sys.exit(not same)
PY
"$work/venv/bin/python" widths.py 2> words || { cat words >&2; exit 1; }
