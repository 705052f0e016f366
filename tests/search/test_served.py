"""What is served beside the original: with a chat template of its own, and looked at before anything takes long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import halfwatt as hw
from halfwatt.api import verbs
from halfwatt.core.errors import ModelError
from halfwatt.core.settings import Access, RunSettings, RuntimeChoice
from halfwatt.evaluate.energy_protocol import Arm
from halfwatt.formats.gguf import Gguf
from halfwatt.formats.registry import load_model
from halfwatt.models.tokenizer import ChatTokenizer
from halfwatt.search.served import judging, served
from tests.support import taught_students as taught
from tests.support import tiny_models as tiny
from tests.support.command_line import halfwatt
from tests.support.hasty_optimize import SETTINGS

PLAIN = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"  # the original's, which has none of its own


@pytest.fixture
def given(tmp_path: Path) -> RunSettings:
    (tmp_path / "plain.jinja").write_text(PLAIN)
    return replace(SETTINGS, access=Access(chat_template=tmp_path / "plain.jinja"))


@pytest.mark.parametrize(("own", "used"), [(tiny.CHATML, tiny.CHATML), (None, PLAIN)])
def test_a_judge_has_its_own_template_where_it_has_one(
    own: str | None, used: str, given: RunSettings, tmp_path: Path
) -> None:
    model = tiny.folder(tmp_path / "judge", template=own)
    spec = judging(str(model), given, tmp_path / "cache", taught.dialogues()[:2])
    assert ChatTokenizer.load(spec.artifact.path).template == used


def test_what_is_written_anew_of_a_file_is_proved_and_the_file_itself_need_not_be(tmp_path: Path) -> None:
    """The judge of a GGUF file is its 16-bit form: an export like any other."""
    folder = tiny.folder(tmp_path / "model")
    file = Gguf().write(load_model(str(folder), Access()), tmp_path / "f16").path / "model.gguf"
    given = file.rename(tmp_path / "given.gguf")
    runtimes: tuple[tuple[RuntimeChoice, bool], ...] = ("llamacpp", True), ("auto", False)
    for runtime, compared in runtimes:
        spec = served(str(given), SETTINGS, tmp_path / runtime, runtime, tiny.dialogues())
        assert spec.artifact.parity is not None
        assert (spec.artifact.parity.kl_max > 0) == compared


def test_a_template_that_does_not_fit_its_own_model_is_refused_though_another_is_given(
    given: RunSettings, tmp_path: Path
) -> None:
    """It would be asked by prompts that it never saw."""
    odd = tiny.folder(tmp_path / "odd", generation={"eos_token_id": tiny.TEXT_END})
    with pytest.raises(ModelError, match="no assistant turn of the template ends in one of the stop tokens"):
        judging(str(odd), given, tmp_path / "cache", taught.dialogues()[:2])


def test_what_is_compared_with_the_original_has_its_own_template_too(
    given: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates: list[str] = []

    def noted(arms: Sequence[Arm], *_: object) -> None:
        templates.extend(ChatTokenizer.load(arm.spec.artifact.path).template for arm in arms)
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "run_protocol", noted)
    base, chat = (tiny.folder(tmp_path / name, template=own) for name, own in (("a", None), ("b", tiny.CHATML)))
    with pytest.raises(KeyboardInterrupt):
        hw.compare(base, chat, taught.chats(tmp_path, taught.dialogues()[:8]), settings=given)
    assert templates == [PLAIN, tiny.CHATML]


def test_a_judge_that_is_none_is_refused_before_any_work(tmp_path: Path) -> None:
    model, chats = tiny.folder(tmp_path), taught.chats(tmp_path, taught.dialogues())
    done = halfwatt("optimize", model, "-d", chats, "--judge", tmp_path / "nobody", "-o", tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nobody" in done.stderr
    assert not list((tmp_path / "out").glob("artifacts/*")), "nothing was built"


def test_a_judge_without_a_template_is_refused_where_none_is_given(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--chat-template FILE"):
        judging(str(tiny.folder(tmp_path, template=None)), SETTINGS, tmp_path / "cache", ())
