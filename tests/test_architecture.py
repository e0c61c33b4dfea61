"""The two rules that make the tree explain itself, kept by reading every import in it.

Arrows point down only: a module imports from ranks below its own, and siblings of one rank do not
know one another. The protocol's core does no I/O, and the standard library is enough for all but
the command, the monitor and the remote storage. A new module is added to `RANKS`, and that is all.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tftp"

#: What imports what, lowest rank first. A folder stands for its modules, but for those that have a
#: place of their own; inside a folder any import goes that closes no circle.
RANKS = (
    "errors blocks log",
    "packets netascii timers url",
    "options",
    "events",
    "machine storage.base net",
    "sender receiver storage",
    "transfer",
    "session",
    "sending receiving",
    "net.reactor",
    "dallying errand",
    "client aio server monitor",
    "cli",
)

#: Values and machines: no I/O, no clock, no chance.
CORE = {
    *("errors", "blocks", "packets", "netascii", "timers", "options", "events"),
    *("machine", "sender", "receiver", "transfer"),
}
WORLD = {
    *("asyncio", "concurrent", "multiprocessing", "signal", "subprocess", "threading"),
    *("io", "logging", "os", "pathlib", "select", "selectors", "socket", "tempfile"),
    *("datetime", "random", "secrets", "time"),
}

#: Who may import what from outside of the standard library.
LIBRARIES = {
    "cli": {"click", "rich"},
    "monitor": {"prometheus_client", "rich", "starlette", "uvicorn"},
    "storage.remote": {"fsspec"},
}

RANK_OF = {place: rank for rank, places in enumerate(RANKS) for place in places.split()}


def module_name(path: Path) -> str:
    """ "storage.local" for tftp/storage/local.py, "storage" for its __init__, "" for tftp's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = sorted(SOURCES.keys() - {"", "__main__"})
TREES = {name: ast.parse(path.read_bytes()) for name, path in SOURCES.items()}


def imports(module: str) -> Iterator[str]:
    """The full names of all that a module imports, inside its functions too."""
    for node in ast.walk(TREES[module]):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(source), level=0):
                for alias in node.names:
                    inner = f"{source}.{alias.name}"
                    yield inner if inner.removeprefix("tftp.") in SOURCES else source
            case ast.ImportFrom():
                pytest.fail(f"{module}, line {node.lineno}: a relative import; name it in full")


def siblings(module: str) -> set[str]:
    """The modules of this package that a module imports; "" is the package itself."""
    found = (name.removeprefix("tftp").removeprefix(".") for name in imports(module) if ours(name))
    return set(found)


def ours(name: str) -> bool:
    return name.partition(".")[0] == "tftp"


def place(module: str) -> str:
    """The longest entry of `RANKS` that covers a module."""
    while module not in RANK_OF:
        module, dot, _ = module.rpartition(".")
        if not dot:
            return ""
    return module


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_rank(module: str) -> None:
    assert place(module), f"give {module} a place in RANKS"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_ranks(module: str) -> None:
    here = place(module)
    upward = {
        other
        for other in siblings(module) - {""}
        if place(other) != here and RANK_OF[place(other)] >= RANK_OF[here]
    }
    assert not upward, f"{module} (rank {RANK_OF[here]}) imports upward or sideways"


def test_no_imports_go_in_a_circle() -> None:
    TopologicalSorter({module: siblings(module) for module in SOURCES}).prepare()


@pytest.mark.parametrize("module", SOURCES)
def test_nobody_inside_imports_the_package_s_public_names(module: str) -> None:
    assert "" not in siblings(module), "import from the module that has it, not from `tftp`"


@pytest.mark.parametrize("module", sorted(CORE & SOURCES.keys()))
def test_the_core_has_no_io_and_no_clock(module: str) -> None:
    assert not {name.partition(".")[0] for name in imports(module)} & WORLD


@pytest.mark.parametrize("module", SOURCES)
def test_the_standard_library_is_enough(module: str) -> None:
    allowed = set(sys.stdlib_module_names)
    for owner, libraries in LIBRARIES.items():
        if f"{module}.".startswith(f"{owner}."):
            allowed |= libraries
    assert {name.partition(".")[0] for name in imports(module) if not ours(name)} <= allowed


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(TREES[module])
