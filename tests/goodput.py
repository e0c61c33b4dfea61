"""What the recovery from loss is worth: `python -m tests.goodput [SEEDS]`.

For each windowsize, loss (each way) and round trip it simulates a few downloads of 4 MiB in blocks
of 1428 octets, and prints the median goodput in KiB/s with how often each block was sent, on
average. docs/explanation/recovery.md holds what it printed. Time is virtual: it takes seconds.
"""

import sys
from collections.abc import Iterator
from itertools import product
from random import Random
from statistics import median

from tests.wire import Path, Server, Wire, noise, reading
from tftp.options import Terms
from tftp.packets import Opcode

SIZE = 4 << 20
BLKSIZE = 1428
LOSSES = (0.0, 0.01, 0.05, 0.2)
WINDOWS = (1, 16, 64)
ROUND_TRIPS = (0.0002, 0.02, 0.1)


def download(
    windowsize: int, there: Path, back: Path, *, size: int = SIZE, seed: int = 0
) -> tuple[float, float]:
    """One download: KiB/s, and how often each block was sent."""
    file = Random(seed).randbytes(size)
    client = reading(Terms(blksize=BLKSIZE, windowsize=windowsize))
    server = Server(file)
    wire = Wire(client, server, there=there, back=back).run(most=10_000_000)
    if client.file != file:
        raise RuntimeError(f"seed {seed}: {client.outcome}, {len(client.file)} of {size} octets")
    data = wire.sent(server, Opcode.DATA)
    return size / 1024 / (data[-1].time + there.delay), len(data) / (size // BLKSIZE + 1)


def lossy(seeds: int) -> Iterator[str]:
    """A line for each loss and windowsize: random loss, the same both ways."""
    for loss, windowsize in product(LOSSES, WINDOWS):
        cells = []
        for round_trip in ROUND_TRIPS:
            found = []
            for seed in range(seeds):
                there, back = (
                    Path(delay=round_trip / 2, fate=noise(2 * seed + way, loss=loss))
                    for way in (0, 1)
                )
                found.append(download(windowsize, there, back, seed=seed))
            speed, sent = (median(column) for column in zip(*found, strict=True))
            cells.append(f"{speed:8.0f} x{sent:.2f}")
        yield f"{loss:5.0%} {windowsize:5} " + " ".join(cells)


def overrun() -> Iterator[str]:
    """A line for each service time: a receiver whose queue is shorter than the window."""
    for service, queue in product((0.0001, 0.0005, 0.002), (5, 20)):
        cells = []
        for windowsize, round_trip in product((16, 64), (0.0002, 0.02)):
            there = Path(delay=round_trip / 2)
            back = Path(delay=round_trip / 2, queue=queue, service=service)
            speed, sent = download(windowsize, there, back, size=1 << 20)
            cells.append(f"{speed:8.0f} x{sent:.2f}")
        yield f"{service * 1000:4.1f} ms {queue:3} " + " ".join(cells)


def main(seeds: int) -> None:
    """Print it all."""
    write = sys.stdout.write
    write(f"random loss, {seeds} seeds; round trip 0.2, 20, 100 ms\n loss window\n")
    for line in lossy(seeds):
        write(line + "\n")
    write("a short queue; window 16, round trip 0.2 and 20 ms, then window 64\nservice queue\n")
    for line in overrun():
        write(line + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
