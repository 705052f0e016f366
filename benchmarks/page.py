"""The server's page in headless Chromium: typed into, read back, looked at.

    pip install playwright; apt-get install chromium fonts-noto-cjk
    .venv/bin/python -m benchmarks.page ARTIFACT --beside ORIGINAL --out OUT

Asks by keyboard alone, waits for both replies, checks what is shown against what the server says, switches languages,
saves the talk and reads it back as dialogues; asks that nothing was fetched from elsewhere. Writes pictures,
OUT/LANGUAGE-WIDTH-SCHEME.png. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.ladder import say
from benchmarks.serve import running
from halfwatt.dialogues.readers import read_dialogues

QUESTIONS = {"en": ("Turn on the light in the kitchen", "Is the garage door open?"), "zh": ("Turn off the TV",)}
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")


def main() -> None:
    """Look, and say what was seen."""
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found,unused-ignore]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--beside", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "halfwatt.cli.main", "serve", arguments.artifact, "--beside", arguments.beside]
    seen = []
    with (
        running("halfwatt", [*command, "--port", 18082], 18082, arguments.out / "server.log"),
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for language, width, scheme in product(QUESTIONS, WIDTHS, SCHEMES):
            say(f"{language}, {width} px, {scheme}")
            seen.append(look(chromium, language, width, scheme, arguments.out))
        chromium.close()
    print(json.dumps(seen, ensure_ascii=False))


def look(chromium: Any, language: str, width: int, scheme: str, out: Path) -> dict[str, Any]:
    """One visit. Raises AssertionError where the page is not as it should be."""
    height = 800 if width > 700 else 844
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale={"zh": "zh-CN"}.get(language, "en-GB")
    )
    page, fetched, faults = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: fetched.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    page.goto("http://127.0.0.1:18082/")
    page.wait_for_selector("[role=log]")
    for number, question in enumerate(QUESTIONS[language], start=1):
        page.keyboard.type(question)  # the field has the focus
        page.keyboard.press("Enter")
        page.locator("li[data-cost]").nth(2 * number - 1).wait_for()
        page.wait_for_selector("#send[aria-disabled=false]")
    costs = [json.loads(item.get_attribute("data-cost")) for item in page.query_selector_all("li[data-cost]")]
    saved, grade = page.inner_text("#saved"), page.inner_text("#grade")
    replies = len(QUESTIONS[language])
    own, other = (sum(cost["energy"]["joules"] for cost in part) for part in (costs[:replies], costs[replies:]))
    share = f"{100 * (1 - own / other):.1f}".removesuffix(".0")
    assert share in saved, (saved, own, other)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
    assert page.evaluate("document.documentElement.lang").startswith(language)
    page.screenshot(path=out / f"{language}-{width}-{scheme}.png")
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(out / "talk.jsonl")
    talks = read_dialogues(out / "talk.jsonl", split="train").dialogues
    assert [len(talk.messages) for talk in talks] == [2 * replies] * 2
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, textarea')].filter(e => !(e.innerText || e.labels?.length)).length"
    )
    assert not unnamed, "what a screen reader cannot name"
    assert not faults, faults
    assert all(url.startswith(("http://127.0.0.1:18082/", "data:", "blob:")) for url in fetched), fetched
    context.close()
    return {"language": language, "width": width, "scheme": scheme, "saved": saved, "grade": grade}


if __name__ == "__main__":
    main()
