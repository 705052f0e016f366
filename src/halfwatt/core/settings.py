"""What a run is told, once: whatever a caller may set is a field here and nowhere else.

`RunSettings` is handed down whole, or as the one part that a stage needs. Light: the command line makes its flags of
these classes before anything else is imported; a field's docstring is its flag's help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from halfwatt.core.types import Progress

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "bf16", "fp16", "fp32"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
RuntimeName = Literal["torch_eager", "llamacpp", "cascade"]  # the rows of `halfwatt.runtimes.registry`
RuntimeChoice = Literal["auto", "torch_eager", "llamacpp"]  # auto = as commonly run


@dataclass(frozen=True, slots=True)
class Access:
    """How models are reached and where they run."""

    device: str = "cpu"
    """Where the model runs."""
    dtype: str = "auto"
    """Of the original; auto = as stored."""
    offline: bool = False
    """Never ask the network."""
    chat_template: Path | None = None
    """The model's own, where its folder has none or another is wanted; a judge keeps its own."""
    run_only: bool = False
    """Only run it, a GGUF file, though its network could be opened: students learn from its answers."""


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """What every model is asked."""

    max_turns: int = 4  # replies per dialogue that are measured and judged: its first ones
    seeds: tuple[int, ...] = (1, 2)  # of the sampled replies beside the greedy one, for models that sample
    first_judged: int = (
        100  # dialogues of the tune split that a candidate is judged on; doubled until the gate can tell
    )
    compared: int = 200  # dialogues on which `compare` judges, drawn by the seed
    min_cap: int = 256  # tokens that a reply may take at least; else twice the 99th percentile of the human replies
    fit_dialogues: int = 1200  # of a part that G7 asks its judge about, at most, one reply each
    fit_tokens: int = 48  # of a reply that the judge reads, its first ones


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """How long and how often a measuring run looks."""

    min_blocks: int = 5
    max_blocks: int = 60
    limit_s: float = 900.0  # of all blocks; beyond the least number none begins that would end later
    half_width: float = 0.02  # stop when every ratio is known to so much up and down
    window_s: float = 2.0  # of the slowest arm; with a meter that updates in steps, of every arm, 10 s and 100 updates
    idle_s: float = 10.0
    prefill: bool = True  # windows with one output token, to tell prefill from decode
    repeats: int = 12  # windows that may be repeated in one run because they were disturbed


@dataclass(frozen=True, slots=True)
class Protocol:
    """The measuring runs of a search, from a first look to the final run."""

    screen: MeasurePlan = MeasurePlan(3, 3, window_s=1.0, prefill=False, idle_s=3.0)  # can it beat the best so far?
    tune: MeasurePlan = MeasurePlan(2, 2, window_s=0.5, prefill=False, idle_s=3.0)  # which operating point?
    paired: MeasurePlan = MeasurePlan(3, 12, window_s=1.0, half_width=0.06, prefill=False, idle_s=3.0)  # against B1
    final: MeasurePlan = MeasurePlan(min_blocks=7, half_width=0.04)  # B0, B1, winner; sealed
    alone: MeasurePlan = MeasurePlan()  # one model, outside a search
    compare: MeasurePlan = MeasurePlan(limit_s=420.0, half_width=0.04, prefill=False)  # two beside each other
    parity_dialogues: int = 64  # by which an export is proved to be the model in memory (gate G0)


@dataclass(frozen=True, slots=True)
class Margins:
    """How much worse is still as good. The defaults were fixed before any model was judged."""

    perplexity: float = 0.02  # G1: perplexity on the human replies may rise by this share
    eos_nats: float = 0.10  # G2: log P(end of turn) at true ends may fall by this many nats
    eos_elsewhere: float = 0.20  # G2: mean P(end of turn) elsewhere may change by this share, up or down
    failures: float = 0.02  # G3: the share of replies that plainly fail may rise by this much
    shorter: float = 0.90  # G4: the geometric mean of the length ratio may not fall below this
    longer: float = 1.05  # G4: nor rise above this: tokens are joules
    chrf: float = 0.05  # G5: chrF to the human replies may fall by this share
    diversity: float = 0.10  # G5: distinct-2 and bigram entropy may fall by this share
    facts: float = 0.05  # G6: the share of values that are not carried may rise by this much,
    facts_replies: float = 0.02  # or by so many values as this share of all replies, where values are rare (as in G3)
    misfit: float = 0.05  # G7: the share of other dialogues in a reply's likelihood may rise by this much
    plain_misfit: float = 0.02  # G7: the share of replies that are plainly another dialogue's may rise by this much
    parity_kl: float = 1e-3  # G0: mean KL of the exported runtime against the model in memory, nats per token
    parity_top1: float = 0.99  # G0: share of positions at which both prefer the same token, near ties aside

    def with_max_loss(self, share: float | None) -> Margins:
        """The user's own limit on the loss of perplexity; None leaves the default."""
        return self if share is None else replace(self, perplexity=share)


@dataclass(frozen=True, slots=True)
class Budget:
    """What trying may cost, over all sittings; None = any. What was begun within it is finished."""

    seconds: float | None = None
    joules: float | None = None
    trials: int | None = None


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What a search may try, and for whom."""

    budget: Budget | None = None
    """What the search may cost; None = the fixed list of recipes."""
    users: int = 1
    """Who ask at once and may be answered together."""
    replies_per_hour: float | None = None
    """The traffic, where it is known: a search ends where a year cannot repay another trial."""
    candidates: tuple[Path, ...] = ()
    """A smaller model to begin with, as often as you like; none = the demo's own, for the demo alone."""
    storage: str | None = None
    """Where trials are shared: a file or a database URL; None = in the output folder."""
    recipe: Path | None = None
    """TOML: measure this chain of steps; None = the fixed list of recipes, or what a search proposes."""
    outside: Path | None = None
    """Other chats: what a model made for yours lost on them; None = the demo's."""
    cascade: float | None = None
    """Put a student in front of the original, for traffic of which such a share is like the --outside chats."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Everything that a run is told besides the model, the dialogues and the folder."""

    access: Access = field(default_factory=Access)
    requests: RequestSettings = field(default_factory=RequestSettings)
    protocol: Protocol = field(default_factory=Protocol)
    margins: Margins = field(default_factory=Margins)
    search: SearchSettings = field(default_factory=SearchSettings)
    judge: str | None = None  # of what fits (G7): a model; None = the original
    seed: int = 0  # of sampling, of splits and of the order of windows
    skip_bad: bool = False  # leave out faulty dialogues, at most 1 % of all, and say which
    ignore: tuple[str, ...] = ()  # keys of dialogues to leave alone, though they mean something that is not honoured
    precision: Precision = "auto"  # of the products in training; auto = bf16 where the device computes it
    rapl_root: str | None = None  # a powercap tree, for containers and guests
    command: str = "halfwatt (Python)"  # for the record
    progress: Progress = lambda _: None
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of processes that serve other runtimes
