"""The command `tftp`: a group of verbs, each in a file of its own, imported when it is asked for.

Here is only its entry. Nothing in `tftp/cli` is imported by the library.
"""

import gc
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    # Imports make thousands of objects and no garbage: to look for it among them, time and again,
    # would cost a small file a tenth of its time. The group looks again, once a verb is there.
    gc.disable()
    try:
        from tftp.cli.group import run

        return run(arguments)
    finally:
        gc.enable()
