"""Citations and links resolve, decisions are indexed, and code keeps the naming rules of docs/style.md."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DECISIONS = ROOT / "docs" / "decisions"
MAX_DECISION_WORDS = 600  # a page

# Folders whose code keeps the naming rules; later issues add pipeline, training, benchmarks and their tests.
PLAIN_FOLDERS = ("cli", "clients", "common", "proto", "server")
PLAIN_TESTS = ("tests/cli", "tests/clients", "tests/common", "tests/server")
VAGUE_NAMES = {"one", "told", "said", "alike", "lone", "lane", "held", "found"}

TEXT_SUFFIXES = {".md", ".py", ".proto", ".tmpl", ".toml", ".yaml", ".yml", ".ipynb", ".in", ".sh", ".cc", ".h", ".rs"}
# Notes that people worked with while the project was made. No reader of the repository has them.
OUTSIDE = re.compile(r"\b(FACTS|DESIGN|CONVENTIONS|REVIEW|BRIEF)\b|\b[Ii]ssue [0-9]|/shared/(?!data\b)")
PATH_OF_A_DOCUMENT = re.compile(r"(?<![\w/.-])(?:\.\./)?docs/[\w./-]*\w")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
REPOSITORY_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|md|yaml|toml))`")

PLACEHOLDER = re.compile(r"NAME|VERSION|NNNN")


@cache
def tracked() -> tuple[Path, ...]:
    """Files of the repository, without generated locks; new files count before they are committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    lines = dict.fromkeys(listed.stdout.splitlines())  # during a merge git lists a file once per version
    return tuple(path for line in lines if (path := ROOT / line).is_file())


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        scripts = path.suffix == "" and path.parent.name in {".ci", "deploy", "kafka", "native", ROOT.name}
        if (path.suffix in TEXT_SUFFIXES or scripts) and path != Path(__file__):
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def markdown() -> list[Path]:
    return [path.relative_to(ROOT) for path in tracked() if path.suffix == ".md"]


def line_of(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def test_no_document_outside_the_repository_is_cited() -> None:
    cited = [f"{path}:{line_of(text, match)}: {match[0]}" for path, text in texts() for match in OUTSIDE.finditer(text)]
    assert cited == []


@pytest.mark.process  # git lists the documents
def test_every_path_of_a_document_exists() -> None:
    """docs/decisions/0008 stands for the page that begins so."""
    missing = []
    for path, text in texts():
        if path.suffix == ".md" or path.name == "SOURCES.md":
            continue  # their links are checked below
        for match in PATH_OF_A_DOCUMENT.finditer(text):
            name = match[0].removeprefix("../")
            if not (ROOT / name).exists() and not list(ROOT.glob(name + "-*.md")):
                missing.append(f"{path}:{line_of(text, match)}: {name}")
    assert missing == []


def anchor(heading: str) -> str:
    """The fragment that GitHub makes of a heading."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda match: match[1] or "", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(file: Path) -> set[str]:
    text = CODE_BLOCK.sub("", file.read_text(encoding="utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", markdown(), ids=str)
def test_relative_links_of_a_page_resolve(page: Path) -> None:
    text = CODE_BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    broken = []
    for link, picture in LINK.findall(text):
        target, _, fragment = (link or picture).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        if not file.exists():
            broken.append(f"{target}: no such file")
        elif fragment and file.suffix == ".md" and fragment not in anchors(file):
            broken.append(f"{target}#{fragment}: no such heading")
    assert broken == []


CONTRIBUTOR_PAGES = ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md", "docs/style.md", "docs/testing.md")


@pytest.mark.parametrize("page", CONTRIBUTOR_PAGES)
def test_files_that_a_page_for_contributors_names_exist(page: str) -> None:
    text = CODE_BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    folders = {path.relative_to(ROOT).parts[0] for path in tracked()}
    paths = [name for name in REPOSITORY_PATH.findall(text) if not PLACEHOLDER.search(name)]
    named = {name for name in paths if name.split("/")[0] in folders}
    assert named
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def decision_pages() -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in DECISIONS.glob("[0-9]*.md"))


@pytest.mark.process  # git lists the documents
def test_the_index_lists_every_decision_with_its_title() -> None:
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\d+)\]\(([^)]*)\) \| (.*) \|$", index, re.MULTILINE)
    expected = []
    for page in decision_pages():
        title = re.fullmatch(r"# (\d+)\. (.*)", (ROOT / page).read_text(encoding="utf-8").splitlines()[0])
        assert title is not None, f"{page}: expected a first line such as '# 8. Title'"
        assert page.name.startswith(f"{int(title[1]):04}-"), page
        expected.append((title[1], page.name, title[2]))
    assert listed == expected
    assert [int(number) for number, _, _ in expected] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize("page", decision_pages(), ids=lambda page: page.stem)
def test_a_decision_has_its_sections_and_fits_on_a_page(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections[:3] == ["Context", "Decision", "Consequences"]
    assert len(text.split()) <= MAX_DECISION_WORDS


def test_every_decision_that_is_cited_by_number_exists() -> None:
    known = {int(page.name[:4]) for page in decision_pages()}
    cited = {
        f"{path}: decision {number}"
        for path, text in texts()
        for number in re.findall(r"[Dd]ecision ([0-9]+)\b", text)
        if int(number) not in known
    }
    assert cited == set()


def modules(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in tracked():
        relative = path.relative_to(ROOT)
        if path.suffix == ".py" and relative.is_relative_to(folder) and "_pb2" not in path.name:
            yield relative, ast.parse(path.read_text(encoding="utf-8"))


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that a module binds or reads: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name


def vague_names(folder: str) -> list[str]:
    """Names that say nothing, with their modules and lines."""
    return [
        f"{path}:{line}: {name}"
        for path, tree in modules(folder)
        for line, name in names(tree)
        if name.strip("_").lower() in VAGUE_NAMES
    ]


@pytest.mark.parametrize("folder", [*PLAIN_FOLDERS, *PLAIN_TESTS])
def test_a_name_says_which_thing_it_is(folder: str) -> None:
    assert vague_names(folder) == []


def test_no_two_public_classes_share_a_name() -> None:
    places = defaultdict(list)
    for folder in PLAIN_FOLDERS:
        for path, tree in modules(folder):
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
