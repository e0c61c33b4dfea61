"""Where files live: a directory of the disk, memory, and what makes a source or a sink of the rest.

`base` says what a transfer asks of them; anything with those methods is a storage.
"""

from tftp.storage.adapters import (
    BytesSource,
    NetasciiSink,
    NetasciiSource,
    Seekable,
    Sequential,
    from_file,
)
from tftp.storage.base import Sink, Source, Storage
from tftp.storage.local import Directory
from tftp.storage.memory import Memory

__all__ = [
    "BytesSource",
    "Directory",
    "Memory",
    "NetasciiSink",
    "NetasciiSource",
    "Seekable",
    "Sequential",
    "Sink",
    "Source",
    "Storage",
    "from_file",
]
