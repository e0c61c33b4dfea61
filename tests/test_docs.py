"""docs/rfc.md, the compliance table, kept true: what it names is there."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = (ROOT / "docs" / "rfc.md").read_text()
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and "---" not in line]
CLAUSES = [row for row in ROWS if not row.endswith("| Shown by |")]
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", TABLE)))
NAMES = sorted(set(re.findall(r"`(tftp(?:\.\w+)+)`", TABLE)))


@cache
def functions(file: Path) -> set[str]:
    """The functions of a Python file; none where there is no file."""
    if not file.exists():
        return set()
    tree = ast.parse(file.read_bytes())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def exists(name: str) -> bool:
    """Whether a dotted name is that of a module, or of something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            thing = getattr(thing, part, None)
        return thing is not None
    return False


def test_the_tests_that_the_table_names_exist() -> None:
    assert len(TESTS) > 100
    missing = []
    for test in TESTS:
        file, _, name = test.partition("::")
        if not name.startswith("test_") or name not in functions(ROOT / file):
            missing.append(test)
    assert missing == []


def test_the_modules_and_names_that_the_table_names_exist() -> None:
    assert len(NAMES) > 30
    assert [name for name in NAMES if not exists(name)] == []


def test_every_clause_has_a_test_that_shows_it() -> None:
    bare = []
    for row in CLAUSES:
        *_, shown_by, _ = row.split("|")
        named = re.findall(r"`(.+?)`", shown_by)
        if not named or not set(named) <= set(TESTS):
            bare.append(row)
    assert bare == []


def test_every_document_that_the_project_names_has_its_table() -> None:
    for number in (1350, 1123, 2347, 2348, 2349, 7440, 3617):
        _, _, section = TABLE.partition(f"\n## RFC {number}")
        table, _, _ = section.partition("\n## ")
        assert table.count("\n| ") > 3, f"RFC {number}"
    for option in ("utimeout", "rollover", "blksize2"):
        assert re.search(rf"^\| `{option}`", TABLE, re.MULTILINE)


def test_links_inside_the_page_lead_somewhere() -> None:
    heads = re.findall(r"^## (.+)$", TABLE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
    assert set(re.findall(r"\]\(#(.+?)\)", TABLE)) == anchors
