"""What a verb is given, as objects: a file of dialogues as sets and splits, or the demo's where none is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from halfwatt import demo
from halfwatt.core.errors import BadInput
from halfwatt.core.settings import RunSettings
from halfwatt.dialogues.dialogue import DialogueSet, Split
from halfwatt.dialogues.readers import read_dialogues
from halfwatt.dialogues.splits import SealedSplit, by_source, split_set
from halfwatt.evaluate.requests import mixture
from halfwatt.meters.discover import Instruments, instruments
from halfwatt.runtimes.registry import serving_device
from halfwatt.search.job import OtherKind

MIN_TEST = 200  # dialogues that the gate wants at least
FRACTIONS: dict[Split, float] = {"train": 0.3, "tune": 0.3, "test": 0.4}  # of few dialogues, by first user turn
LARGE: dict[Split, float] = {"tune": 0.15, "test": 0.25}  # of many: students live on what is left to learn from
LEAST: dict[Split, int] = {"tune": 150, "test": MIN_TEST}  # if there are so many
MOST: dict[Split, int] = {"tune": 1000, "test": 2000}  # the gate needs no more to be sure
OTHER: dict[Split, float] = {"tune": 0.4, "test": 0.6}  # of another kind, from which nothing is learned
OUTSIDE = 64  # dialogues of each other kind, at most

Dialogues = str | Path | DialogueSet | None


def dialogue_set(model: str, dialogues: Dialogues, split: Split, settings: RunSettings) -> DialogueSet:
    """A set as it is, a file read as ``split``, or the demo's own split: called "demo", and what the demo model gets.

    Raises:
        BadInput: none were given for another model. DialogueError: the file is faulty.
    """
    if isinstance(dialogues, DialogueSet):
        return dialogues
    if dialogues is not None and not _are_demos(dialogues):
        return read_dialogues(Path(dialogues), split=split, skip_bad=settings.skip_bad, ignore=settings.ignore)
    if dialogues is None and model != "demo":
        raise BadInput(f"no dialogues for {model}", hint="pass --dialogues FILE")
    return demo.dialogues(split)


def _are_demos(dialogues: Dialogues) -> bool:
    return dialogues is None or (not isinstance(dialogues, DialogueSet) and str(dialogues) == "demo")


def dialogues_to_ask(model: str, dialogues: Dialogues, settings: RunSettings) -> DialogueSet:
    """For verbs that judge nothing for good: the given ones, or the demo's, with which any folder can be asked."""
    return dialogue_set("demo" if Path(model).exists() else model, dialogues, "tune", settings)


def sizes(n: int) -> dict[Split, float | int]:
    """Of the splits of ``n`` dialogues, for `split_set`.

    >>> [sizes(n) for n in (100, 1500, 10_000)]  # doctest: +NORMALIZE_WHITESPACE
    [{'train': 0.3, 'tune': 30, 'test': 40},
     {'train': 0.3, 'tune': 225, 'test': 375},
     {'train': 0.3, 'tune': 1000, 'test': 2000}]
    """
    wanted = {split: min(MOST[split], max(LEAST[split], round(LARGE[split] * n))) for split in MOST}
    return {"train": FRACTIONS["train"], **{s: max(1, min(wanted[s], round(FRACTIONS[s] * n))) for s in MOST}}


def splits(model: str, dialogues: Dialogues, settings: RunSettings) -> dict[Split, DialogueSet]:
    """train, tune and test; the user's dialogues are split by first user turn.

    Raises:
        BadInput: no dialogues for a model that is not the demo, or too few to judge anything.
    """
    whole = dialogue_set(model, dialogues, "train", settings)
    if _are_demos(dialogues):
        return {"train": whole, "tune": demo.dialogues("tune"), "test": demo.dialogues("test")}
    parts = split_set(whole, sizes(len(whole)), seed=settings.seed)
    if len(parts["test"]) < 2 or len(parts["tune"]) < 2:
        hint = f"give at least {round(MIN_TEST / FRACTIONS['test'])}, so that {MIN_TEST} are left for the gate"
        raise BadInput(f"{len(whole)} dialogues are too few to choose on one part and judge on another", hint=hint)
    return parts


def outside_dialogues(dialogues: Dialogues, settings: RunSettings) -> dict[str, DialogueSet]:
    """Other dialogues than the user's own, by kind: the given ones, or the demo's unless they are the traffic."""
    if settings.search.outside is None and _are_demos(dialogues):
        return {}
    return by_source(dialogue_set("demo", settings.search.outside, "tune", settings), OUTSIDE)


def other_kind(
    dialogues: Dialogues, own: Mapping[Split, DialogueSet], settings: RunSettings, seal: Path
) -> OtherKind | None:
    """What users ask beside the user's own kind, for a cascade; None = none is wanted. Nothing is learned from it.

    Raises:
        BadInput: there are none, or too few of either kind to choose on one part and judge on another; or nobody is to
            be taught.
    """
    search = settings.search
    if search.cascade is None:
        return None
    if not 0 < search.cascade < 1:
        raise BadInput("the share of other dialogues is between 0 and 1", got=f"{search.cascade:g}")
    if search.budget is None and search.recipe is None:
        raise BadInput("--cascade puts a student in front", hint="pass --budget 60m, so that there is one, or --recipe")
    if search.outside is None and _are_demos(dialogues):
        raise BadInput("--cascade needs dialogues of another kind", hint="pass --outside FILE")
    whole = dialogue_set("demo", search.outside, "tune", settings)
    tune, test = (min(MOST[split], round(share * len(whole))) for split, share in OTHER.items())
    parts = split_set(whole, {"tune": tune, "test": test}, seed=settings.seed)
    for split in OTHER:
        mixture(len(own[split]), len(parts[split]), search.cascade)
    return OtherKind(parts["tune"], SealedSplit(parts["test"], seal), search.cascade)


@contextmanager
def workplace(settings: RunSettings | None) -> Iterator[tuple[RunSettings, Path, Instruments]]:
    """The settings with the device that ``auto`` means here, a folder for exports that are not kept, and the meters."""
    settings = settings or RunSettings()
    device = serving_device(settings.access)
    with scratch() as cache, closing(instruments(device, rapl_root=settings.rapl_root)) as tools:
        yield replace(settings, access=replace(settings.access, device=device)), cache, tools


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A folder for exports that are not kept."""
    with TemporaryDirectory(prefix=".halfwatt-", dir=parent) as folder:
        yield Path(folder)
