"""The house itself: imports run one way, the light path stays light, only the command line prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "halfwatt"

# Lowest package first. One imports only from those before it (and from itself).
PACKAGES = (
    "core",
    "meters",
    "dialogues",
    "demo",
    "models",
    "compress",
    "formats",
    "runtimes",
    "evaluate",
    "search",
    "results",
    "api",
    "serve",
    "cli",
)


def package_of(module: str) -> str:
    """``halfwatt.meters.rapl`` lives in ``meters``."""
    return module.split(".")[1] if "." in module else "__init__"


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every ``halfwatt`` module that the file imports anywhere, type-checking blocks left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("halfwatt"):
            if node.module == "halfwatt":
                found |= {f"halfwatt.{alias.name}" for alias in node.names if not alias.name.startswith("__")}
            else:
                found.add(str(node.module))
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("halfwatt.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    own = package_of(name_of(path))
    if own == "__init__":
        pytest.skip("the front door names what others use")
    assert own in PACKAGES, f"{own} is not in the list of packages"
    later = {m for m in imports(path) if package_of(m) != own and PACKAGES.index(package_of(m)) > PACKAGES.index(own)}
    assert not later, f"{own} may not import {sorted(later)}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400, "a longer file wants to be two"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines"
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            assert len([n for n in names if n not in ("self", "cls")]) <= 6, f"{node.name} takes {names}"


def test_the_house_stays_small() -> None:
    assert sum(path.read_text().count("\n") for path in modules()) <= 24_500


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_names_name_something(path: Path) -> None:
    """Words that say that something happened, not what it is."""
    bound = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Attribute | ast.keyword):
            bound.add(str(node.attr if isinstance(node, ast.Attribute) else node.arg))
    assert not bound & {"found", "told", "climbed", "weighed", "revived", "made"}


def test_only_architectures_know_the_types_of_models() -> None:
    asking = {p.relative_to(SOURCE) for p in modules() if "model_type" in p.read_text()}
    assert {p.parts[:2] for p in asking} <= {("models", "architectures")}


def test_packages_are_empty_doors() -> None:
    doors = [p for p in modules() if p.name == "__init__.py" and p.parent not in (SOURCE, SOURCE / "demo")]
    assert len(doors) >= len(PACKAGES) - 1
    assert not [p for p in doors if p.read_text().strip()]


def test_remote_code_has_one_choke_point() -> None:
    mentions = [p.name for p in modules() if "trust_remote_code" in p.read_text()]
    assert len(mentions) == 1, mentions
    assert not [p for p in modules() if "trust_remote_code=True" in p.read_text()]


@pytest.mark.parametrize("what", ["import halfwatt", "import halfwatt.cli.main"])
def test_the_light_path_is_light(what: str) -> None:
    heavy = ("torch", "transformers", "llama_cpp", "scipy", "matplotlib", "pydantic")
    script = f"{what}; import sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reports_are_printed_without_torch() -> None:
    script = "import halfwatt.results.report.console, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
