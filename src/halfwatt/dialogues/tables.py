"""Tables of dialogues, Parquet files and the folders of Hugging Face datasets, read by the library that writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from halfwatt.core.errors import DialogueError, EnvironmentFault, first_line
from halfwatt.dialogues.dialogue import first_faults

PARQUET = ".parquet"
_DATA = {".arrow", ".csv", ".json", ".jsonl", ".ndjson", PARQUET, ".tsv"}  # names of files of rows, compressed or not
_ABOUT_DATA = {"config.json", "dataset_info.json", "dataset_infos.json"}  # which hold none
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"  # what `save_to_disk` leaves in a folder


def table_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row with its place, ``(" row 12", {...})``. No code of the folder is run, nothing is copied to a cache.

    Raises:
        DialogueError: no such table, or one with several splits. EnvironmentFault: the library is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        hint = "pip install datasets, or give JSON lines"
        raise EnvironmentFault(f"{path} is read by the library datasets, which is not here", hint=hint) from error
    try:
        if (path / _SAVED).exists() or (path / _SAVED_SPLITS).exists():
            table = datasets.load_from_disk(str(path))
        elif path.is_dir():
            builder = datasets.load_dataset_builder(str(path))
            _require_all_read(path, builder.config.data_files or {})
            table = builder.as_streaming_dataset()
        else:
            table = datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        if isinstance(table, dict):
            table = _only_split(path, table)
        yield from ((f" row {number}", row) for number, row in enumerate(table, start=1))
    except DialogueError:
        raise
    except Exception as error:  # a stranger's file can trip the library anywhere
        hint = "give a file of JSON lines or Parquet, or the folder of a dataset"
        raise DialogueError(f"{path} is no table that can be read", got=first_line(error), hint=hint) from error


def _require_all_read(path: Path, splits: Mapping[str, Sequence[str]]) -> None:
    """By their names the library takes some files of a folder for splits, and leaves the others without a word."""
    card = path / "README.md"
    if card.exists() and "data_files:" in card.read_text(encoding="utf-8", errors="replace"):
        return  # it says which
    read = {Path(file).resolve() for files in splits.values() for file in files}
    rows = (file for file in sorted(path.rglob("*")) if _DATA & {suffix.lower() for suffix in file.suffixes})
    inside = [file for file in rows if file.is_file() and file.name not in _ABOUT_DATA]
    visible = (file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts))
    if aside := [str(file.relative_to(path)) for file in visible if file.resolve() not in read]:
        some = first_faults([str(file.relative_to(path)) for file in inside if file.resolve() in read], 3)
        what = f"of the folder {path} only {some} would be read"
        raise DialogueError(what, got=first_faults(aside, 3), hint="give one file, or put those to be read in a folder")


def _only_split(path: Path, splits: dict[str, Any]) -> Any:
    if len(splits) > 1:
        one = path / next(iter(splits))
        hint = f"give one of them, such as {one}" if one.is_dir() else "give one of its files"
        raise DialogueError(f"{path} holds several splits", got=", ".join(splits), hint=hint)
    return next(iter(splits.values()))
