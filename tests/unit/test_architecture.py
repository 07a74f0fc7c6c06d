"""docs/architecture.md is true: it names every module, and imports run in its direction only."""

import ast
import re
from collections.abc import Container
from functools import cache
from pathlib import Path

import pytest

from conftest import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
LIBRARY = "src/unlabeledasd/"
PACKAGES = (LIBRARY, "src/settings/", "src/reporting/")
FOLDERS = [".github", "benchmarks", "docs", "ensemble", "jobs", "preprocess", "pseudoattr"]
FOLDERS += ["src", "tests"]


@cache
def files(*suffixes: str) -> list[str]:
    """The repository's files with one of these suffixes: all folders' and the root's."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    found += [*ROOT.iterdir(), ROOT / "results/README.md"]
    found = [path for path in found if path.suffix in suffixes and path.is_file()]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def text(name: str) -> str:
    return (ROOT / name).read_text()


@cache
def modules() -> list[str]:
    """Python files except tests, and except an __init__.py without imports and definitions."""
    code = re.compile(r"^(import|from|def|class) ", re.MULTILINE)
    return [
        name
        for name in files(".py")
        if not name.startswith("tests/")
        if not name.endswith("__init__.py") or code.search(text(name))
    ]


@cache
def named() -> list[str]:
    """The files that the page's tables name, in its order; a package's own name ends with /."""
    found, folder = [], None
    for line in PAGE.splitlines():
        if line.startswith("#"):
            title = re.fullmatch(r"### .*`([\w/]+/)`", line)
            folder = title and title[1]
        elif folder and line.startswith("| `"):
            found += [folder + name for name in re.findall(r"`([\w/]+)`", line.split("|")[1])]
    return [name + "__init__.py" if name.endswith("/") else name + ".py" for name in found]


def dotted(name: str) -> str:
    """The name by which a file is imported; that of a script has no folder."""
    path = Path(name).with_suffix("")
    if not name.startswith(PACKAGES):
        return path.name
    path = path.relative_to("src")
    return ".".join(path.parent.parts if path.name == "__init__" else path.parts)


def imports(name: str, known: Container[str] = ()) -> set[str]:
    """The modules that a file imports, also inside functions; a name of a package if `known`."""
    found = set()
    for node in ast.walk(ast.parse(text(name))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {module if module in known else node.module for module in full}
    return found


def is_script(name: str) -> bool:
    return not name.startswith(PACKAGES) and '__name__ == "__main__"' in text(name)


def test_the_page_names_every_module_once():
    assert sorted(named()) == modules()


def test_imports_point_upwards_in_the_page():
    """So there are no circles, and nothing imports what stands on it."""
    place = {dotted(name): i for i, name in enumerate(named())}
    assert len(place) == len(named()), "two modules of one name"
    for i, name in enumerate(named()):
        below = {other for other in imports(name, place) if place.get(other, -1) >= i}
        assert not below, f"docs/architecture.md does not name {below} above {name}"


def test_the_library_knows_no_command_line():
    for name in files(".py"):
        if name.startswith(LIBRARY):
            tops = {imported.partition(".")[0] for imported in imports(name)}
            assert not tops & {"hydra", "omegaconf", "argparse", "settings", "reporting"}, name


def test_no_script_imports_a_script():
    """Benchmarks may, as tests do."""
    scripts = {dotted(name) for name in modules() if is_script(name)}
    assert {"train", "score", "download", "embed", "cluster", "ensemble"} <= scripts
    for name in modules():
        if not name.startswith("benchmarks/"):
            assert not imports(name) & scripts, name


def test_src_contains_commands_alone():
    commands = [name for name in modules() if re.fullmatch(r"src/\w+\.py", name)]
    assert "src/train.py" in commands
    assert [name for name in commands if not is_script(name)] == []


def test_no_line_over_100_columns():
    names = files(".py", ".sh", ".yaml", ".toml")
    assert {"jobs/exp/exp1.sh", "src/config/train.yaml", "pyproject.toml"} <= set(names)
    lines = [(name, i, line) for name in names for i, line in enumerate(text(name).splitlines(), 1)]
    assert [f"{name}:{i}" for name, i, line in lines if len(line) > 100] == []


WORDS = re.compile(r"\b(told|tells|anew|mend(ed)?|goes on)\b", re.IGNORECASE)


def test_the_terms_of_the_field():
    """CONTRIBUTING.md lists the words that are not used, and those that are."""
    names = set(files(".py", ".sh", ".yaml", ".md", ".html", ".js"))
    quoting = {"CONTRIBUTING.md", "tests/unit/test_architecture.py"}
    assert {"README.md", "docs/cluster.md", "src/reporting/html/page.js"} | quoting <= names
    names = sorted(names - quoting)
    lines = [(name, i, line) for name in names for i, line in enumerate(text(name).splitlines(), 1)]
    assert [f"{name}:{i}: {line}" for name, i, line in lines if WORDS.search(line)] == []


@pytest.mark.parametrize("line", ["It goes on.", "what is told", "Anew", "tells", "mended"])
def test_words_are_found(line):
    assert WORDS.search(line)
