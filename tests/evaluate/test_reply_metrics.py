"""What is read off replies, against direct computations."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from halfwatt.evaluate import reply_metrics
from halfwatt.evaluate.records import ScoredReply


def reply(text: str, *, stopped: bool = True, leaked: int = 0) -> ScoredReply:
    return ScoredReply("d", 1, None, text, 9, stopped, 256, "human", leaked)


@pytest.mark.parametrize(
    ("bad", "flag"),
    [
        (reply("  \n"), "empty"),
        (reply("fine words", stopped=False), "runs to the cap"),
        (reply("go to the shop " * 6), "repeats itself"),
        (reply("I am here. What now? I am here! So it is. i am here."), "same sentence three times"),
        (reply("hello", leaked=1), "template tokens leaked"),
        (reply("hello <|im_start|>user"), "template tokens leaked"),
        (reply("caf\ufffd"), "broken characters"),
    ],
)
def test_plain_failures_are_flagged(bad: ScoredReply, flag: str) -> None:
    assert flag in reply_metrics.flags(bad, ("<|im_start|>",))


def test_a_plain_good_reply_has_no_flag() -> None:
    assert reply_metrics.flags(reply("Turning on the kitchen light now. Yes. Yes."), ("<|im_start|>",)) == ()


def test_chrf_of_the_same_text_is_full() -> None:
    assert reply_metrics.chrf("the light is on", "the light is on") == 100.0
    assert reply_metrics.chrf("zzz", "the light is on") < 5


def test_diversity_and_its_leave_one_out_values_by_brute_force() -> None:
    texts = [["a b c a b", "b c"], ["a b"], ["x y z", "x y"], ["c a b c"]]

    def direct(dialogues: list[list[str]]) -> tuple[float, float]:
        pairs = Counter(pair for d in dialogues for text in d for pair in pairwise(text.split()))
        heads: Counter[str] = Counter()
        for (first, _), count in pairs.items():
            heads[first] += count
        total = pairs.total()
        entropy = -sum(c / total * np.log(c / heads[first]) for (first, _), c in pairs.items())
        return len(pairs) / total, float(entropy)

    (distinct, distinct_without), (entropy, entropy_without) = reply_metrics.diversity(
        [[text.split() for text in d] for d in texts]
    )
    assert (distinct, entropy) == pytest.approx(direct(texts))
    for left_out in range(len(texts)):
        rest = direct(texts[:left_out] + texts[left_out + 1 :])
        assert (distinct_without[left_out], entropy_without[left_out]) == pytest.approx(rest)


def test_the_longer_text_is_cut_to_the_shorter_ones_words_somewhere_in_it() -> None:
    def cut(text: str, other: str, place: float) -> tuple[list[str], list[str]]:
        said, others = (reply_metrics.words(t.casefold()) for t in (text, other))
        return reply_metrics.equally_long(said, others, place)

    for place, said in ((0, "d e f"), (0.49, "d e f"), (0.5, "e f g"), (0.99, "e f g")):
        assert cut("A b c", "d e f g", place) == (["a", "b", "c"], said.split())
    assert cut("好的。", "Go on then", 0) == (["好", "的", "。"], ["go", "on", "then"])
    assert cut("d e f", "", 0.99) == (["e", "f"], []), "who says nothing takes nothing from the other"
    assert cut("yes", "yes sure", 0) == (["yes"], ["yes"]), "and who says more loses nothing by it"


UNSPACED = {"Chinese": "好的我已经打开了。", "Japanese": "はい、わかりました。", "Thai": "เปิดไฟแล้ว "}


@pytest.mark.parametrize("language", UNSPACED)
def test_a_loop_is_a_loop_in_every_language(language: str) -> None:
    once = UNSPACED[language]
    assert "repeats itself" not in reply_metrics.flags(reply(once), ())
    assert "repeats itself" in reply_metrics.flags(reply(once * 8), ())


def test_the_same_sentence_three_times_is_one_in_chinese_too() -> None:
    assert "same sentence three times" in reply_metrics.flags(reply("我不知道。" * 3), ())
    assert reply_metrics.flags(reply("我不知道。" * 2), ()) == ()


def test_words_are_what_spaces_part_and_characters_where_there_are_none() -> None:
    english = "Hi — it's 7:30 pm,\n naïve \u00a0 x_y!"
    assert reply_metrics.words(english) == english.split()
    assert reply_metrics.words("第3盏 LED灯") == ["第", "3", "盏", "LED", "灯"]
    said = [[reply_metrics.words(text)] for text in ("好的好的", "我不知道")]
    assert reply_metrics.diversity(said)[0][0] == pytest.approx(5 / 6)
