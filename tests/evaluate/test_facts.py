"""Values that a reply has to carry: what counts as one, in which form, and which replies carry it."""

from __future__ import annotations

import pytest

from halfwatt.dialogues.dialogue import Dialogue, Message
from halfwatt.evaluate.facts import carried, facts_of, numbers


def talk(*contents: str, name: str = "d") -> Dialogue:
    roles = ("user", "assistant")
    return Dialogue(name, tuple(Message(roles[n % 2], text) for n, text in enumerate(contents)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000 of 1000", {"1000"}),
        ("5.50, or 5.5, or 5.0", {"5.5", "5"}),
        ("7 pm, 7:00 PM, 7pm and 7 p.m.", {"7pm"}),
        ("at 19:30 on the 3rd", {"19:30", "3"}),
        ("$1,500.00 is 20%", {"1500", "20"}),
        ("order AB12-3, #00108", {"ab12-3", "00108"}),
        ("1. First\n2) then 30 minutes", {"30"}),
        ("下午3点,电话１２３-4567", {"3", "123-4567"}),
        ("no number", set()),
    ],
)
def test_numbers_have_one_form(text: str, expected: set[str]) -> None:
    assert numbers(text) == expected


def test_what_people_repeat_has_to_be_carried() -> None:
    dialogues = [
        talk("two rooms in seattle at 7 pm for order 4711", "Booked: Seattle, 7:00 PM."),
        talk("x", "We fly to Seattle today. Hotel rooms are in the Hotel Sol.", name="e"),
        talk("is the hotel there", "The hotel is there.", name="f"),
        talk("mail to Ann.B@example.org for {{Order Number}}", "See {{Order Number}}, ann.b@example.org.", name="g"),
        talk("明天3点到北京", "好的,3点。", name="h"),
    ]
    first, second, third, fourth, fifth = facts_of(dialogues)
    assert first.values == ("7pm", "seattle")
    assert first.numbers == ("4711", "7pm")
    assert second.values == third.values == (), "nothing stood before; a common word is no name"
    assert fourth.values == ("ann.b@example.org", "{{order number}}")
    assert fifth.values == ("3",)
    assert carried(first, "in SEATTLE, at 7pm") == 2
    assert carried(first, "in Seattle, at 8 pm") == 1
    assert carried(first, "In Seattleite terms, 17 pm.") == 0
    assert carried(fourth, "For {{ORDER NUMBER}}") == 1


def test_facts_follow_the_turns_that_are_asked() -> None:
    dialogue = talk("room 12", "Room 12?", "yes, and 13", "12 and 13.")
    assert [(f.turn, f.values) for f in facts_of([dialogue])] == [(1, ("12",)), (3, ("12", "13"))]
