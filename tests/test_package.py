"""The package from outside: what `import tftp` brings, and what it does not."""

import importlib.metadata
import inspect
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import tftp

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python without its site-packages, where nothing but this package can be found."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); " + arguments[0]
    return subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", script, *arguments[1:]],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_standard_library_is_enough_to_import_it() -> None:
    done = run("import tftp; print(*sys.modules)")
    assert (done.returncode, done.stderr) == (0, "")
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert "tftp" in roots
    assert roots - set(sys.stdlib_module_names) <= {"tftp", "__main__"}


def test_a_client_costs_no_import_of_a_server_a_command_or_a_monitor() -> None:
    done = run(
        "import threading, tftp\n"
        "assert threading.active_count() == 1\n"
        "assert 'tftp.client' not in sys.modules\n"
        "tftp.Client\n"
        "print(*(name for name in sys.modules if name.startswith('tftp.')))"
    )
    assert (done.returncode, done.stderr) == (0, "")
    folders = {name.split(".")[1] for name in done.stdout.split()}
    assert "client" in folders
    assert not folders & {"server", "cli", "monitor", "__main__"}


def test_a_client_that_has_nothing_to_say_needs_no_log() -> None:
    done = run("import sys, tftp; tftp.Client; print('logging' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_it_works_with_the_standard_library_alone() -> None:
    done = run(
        "import tftp\n"
        "with tftp.Server(tftp.Memory({'file': b'content'})) as server:\n"
        "    with tftp.Client(*server.address) as client:\n"
        "        into = bytearray()\n"
        "        client.get('file', into)\n"
        "print(bytes(into))"
    )
    assert (done.stdout, done.stderr) == ("b'content'\n", "")


def test_its_public_names_are_these() -> None:
    assert tftp.__all__ == sorted(tftp.__all__)
    assert set(tftp.__all__) == {
        *("Client", "get", "put"),
        *(
            "Server",
            "ServerConfig",
            "ThreadEngine",
            "ProcessEngine",
            "Supervisor",
            "Directory",
            "Memory",
        ),
        *("Terms", "Limits", "Patience"),
        *("Request", "TransferEnded", "Outcome", "ErrorCode"),
        *("TFTPError", "PeerError", "ProtocolError", "Refused", "TransferTimeout"),
        *("Unreachable", "Aborted"),
    }


@pytest.mark.parametrize("name", tftp.__all__)
def test_every_public_name_is_there_and_says_what_it_is_for(name: str) -> None:
    thing = getattr(tftp, name)
    text = inspect.getdoc(thing)
    assert text
    assert text != inspect.getdoc(Exception)
    assert thing.__module__.startswith("tftp.")


@pytest.mark.parametrize("name", tftp.__all__)
def test_every_method_of_a_public_class_says_what_it_is_for(name: str) -> None:
    thing = getattr(tftp, name)
    for attribute, member in vars(thing).items() if isinstance(thing, type) else ():
        if not attribute.startswith("_") and inspect.isfunction(member):
            assert inspect.getdoc(member), f"{name}.{attribute}"


def test_all_names_are_listed_before_they_are_used() -> None:
    done = run("import tftp; print(*dir(tftp))")
    assert set(tftp.__all__) <= set(done.stdout.split())


def test_a_name_that_it_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sever'"):
        _ = tftp.Sever


def test_nothing_else_is_public() -> None:
    others = {name: thing for name, thing in vars(tftp).items() if name not in tftp.__all__}
    assert [
        name
        for name, thing in others.items()
        if not name.startswith("_") and not inspect.ismodule(thing)
    ] == []


def test_its_version_is_the_project_s() -> None:
    assert tftp.__version__ == PROJECT["version"]


def test_the_installed_version_is_the_same() -> None:
    try:
        installed = importlib.metadata.version("tftpkit")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("run from the source tree, without an installation")
    assert installed == tftp.__version__


def test_type_checkers_may_use_its_annotations() -> None:
    assert (ROOT / "tftp" / "py.typed").exists()


def test_the_example_in_its_docstring_is_python() -> None:
    text = inspect.getdoc(tftp)
    assert text
    lines = [line for line in text.partition("::\n")[2].splitlines() if line[:1] in ("", " ")]
    compile(textwrap.dedent("\n".join(lines)), "example", "exec")
    assert any("tftp.Server" in line for line in lines)
