"""The standard streams of a command whose caller has closed some of them.

`/dev/null` takes their places. It knows nothing of what is read from them or written to them.
"""

import os
import sys

__all__ = ["fill_in"]


def fill_in() -> None:
    """Put /dev/null in the place of each standard stream that is closed.

    Else the first file or socket that is opened gets its number, and what the interpreter has to
    say goes into that. Call it before anything is opened.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest number that is free, which is the missing one.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
