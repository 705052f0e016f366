"""Parquet files and folders of datasets hold the same dialogues as the lines that they were made of."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from halfwatt.core.errors import DialogueError, EnvironmentFault
from halfwatt.dialogues.readers import read_dialogues

ROWS: list[dict[str, Any]] = [
    {
        "id": f"d{n}",
        "messages": [{"role": "user", "content": f"Ist Tür {n} zu?"}, {"role": "assistant", "content": f"第{n}扇门。"}],
        "system": "Be kind." if n else None,
    }
    for n in range(3)
]


def table() -> datasets.Dataset:
    return datasets.Dataset.from_list(ROWS)


def parquet(into: Path) -> Path:
    table().to_parquet(into / "chats.parquet")
    return into / "chats.parquet"


def shouted(into: Path) -> Path:
    return parquet(into).rename(into / "CHATS.PARQUET")


def saved(into: Path) -> Path:
    table().save_to_disk(into / "saved")
    return into / "saved"


def saved_splits(into: Path) -> Path:
    datasets.DatasetDict({"train": table()}).save_to_disk(into / "splits")
    return into / "splits"


def repository(into: Path) -> Path:
    (into / "repository" / "data").mkdir(parents=True)
    table().to_parquet(into / "repository" / "data" / "train-00000-of-00001.parquet")
    (into / "repository" / "README.md").write_text("---\nlicense: mit\n---\n")
    return into / "repository"


@pytest.mark.parametrize("make", [parquet, shouted, saved, saved_splits, repository])
def test_a_table_is_read_as_its_lines_are(make: Callable[[Path], Path], tmp_path: Path) -> None:
    lines = tmp_path / "chats.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    given = make(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert read_dialogues(given).dialogues == read_dialogues(lines).dialogues
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_of_several_splits_one_is_to_be_named(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": table(), "test": table()}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DialogueError, match=r"several splits.*train, test.*splits/train"):
        read_dialogues(tmp_path / "splits")
    assert len(read_dialogues(tmp_path / "splits" / "test")) == 3


@pytest.mark.parametrize("aside", ["more.jsonl", "data/chats.json", "chats.csv.gz", "MORE.PARQUET", "more.ndjson"])
def test_a_folder_of_which_only_some_would_be_read_is_refused(aside: str, tmp_path: Path) -> None:
    """By its name one file is the train split; the library reads that and says nothing of the others."""
    for name in ("train.jsonl", aside):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.jsonl").write_text("{}")
    with pytest.raises(DialogueError, match=rf"only train.jsonl would be read \(found: {aside}\)"):
        read_dialogues(tmp_path)
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n---\n")
    assert len(read_dialogues(tmp_path)) == 3, "as it says"
    (tmp_path / "README.md").unlink()
    (tmp_path / aside).unlink()
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert len(read_dialogues(tmp_path)) == 3


def test_a_faulty_row_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_list([*ROWS, ROWS[0] | {"messages": ROWS[0]["messages"][:1]}]).to_parquet(
        tmp_path / "d.parquet"
    )
    with pytest.raises(DialogueError, match=r"d.parquet row 4: .*assistant"):
        read_dialogues(tmp_path / "d.parquet")


@pytest.mark.parametrize("what", ["empty folder", "a script", "no parquet"])
def test_what_is_no_table_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    given, marker = tmp_path / "given", tmp_path / "it_ran"
    if what == "no parquet":
        given = tmp_path / "given.parquet"
        given.write_bytes(b"PAR1 and nothing else")
    else:
        given.mkdir()
    if what == "a script":
        (given / "given.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
    with pytest.raises(DialogueError, match="no table that can be read") as caught:
        read_dialogues(given)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_where_the_library_is_not_there_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parquet(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EnvironmentFault, match="pip install datasets"):
        read_dialogues(given)
