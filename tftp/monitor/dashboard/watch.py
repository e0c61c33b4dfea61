"""What the page knows of its servers: their channels, read and folded by one thread.

While nobody looks, it asks each server for its totals once a second and for nothing else: enough
for the chart to have a past when a browser comes. With the first browser it subscribes to all
events, and asks for a snapshot now and then, which has the tallies, and what may have been lost. It
knows nothing of HTTP.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

from tftp.monitor.feed import Feeds, Message
from tftp.monitor.mirror import Mirror
from tftp.monitor.place import Place

__all__ = ["Sample", "Scene", "Watch"]

#: A time, and how many octets of files had been read and written in all by then.
Sample = tuple[float, int, int]

# Seconds of the chart that are remembered, and at the least between two of its points.
_SAMPLES, _SAMPLE_EVERY = 600, 0.9
# Seconds between two snapshots while somebody looks, and between two looks at whether one is due.
_SNAPSHOT_EVERY, _TICK = 5.0, 0.25
# What is asked for while nobody looks, and while somebody does. The rate is that of progress for
# each transfer, and of totals.
_IDLE: dict[str, Any] = {"kinds": ["state", "totals"], "rate": 1}
_BUSY: dict[str, Any] = {"kinds": ["all"], "rate": 2}


class Scene:
    """One server, as the page knows it.

    Attributes:
        mirror: what its channel has told.
        samples: points of the chart, oldest first.
        sampled: how many there have been, those that are forgotten included.
        current: whether the transfers in the mirror are those that run now.
    """

    def __init__(self, server: str) -> None:
        self.mirror = Mirror(server)
        self.samples: deque[Sample] = deque(maxlen=_SAMPLES)
        self.sampled = 0
        self.current = False
        self._asked: Future[Message] | None = None
        self._ask_at = 0.0

    def apply(self, message: Message) -> None:
        """Take a message of the channel in."""
        self.mirror.apply(message)
        if message["event"] == "totals":
            self._sample(message)

    def _sample(self, message: Message) -> None:
        totals, now = message["totals"], message["time"]
        if self.samples and 0 <= now - self.samples[-1][0] < _SAMPLE_EVERY:
            return
        octets = (totals[side]["counters"]["payload"] for side in ("read", "write"))
        self.samples.append((now, *octets))
        self.sampled += 1

    def answered(self) -> None:
        """The snapshot that was asked for has been applied."""
        self.current = True
        self._asked = None

    def start_over(self) -> None:
        """Another server process is there, or the same one after a while: nothing is current."""
        self.current = False
        self._asked = None

    def is_due(self, now: float) -> bool:
        """Whether to ask for a snapshot; never again before the last one has come."""
        if not self.mirror.connected or self._is_waiting():
            return False
        return not self.current or self.mirror.lost > 0 or now >= self._ask_at

    def _is_waiting(self) -> bool:
        # An answer that has come counts when it has been applied, but a refusal is none.
        asked = self._asked
        return asked is not None and not (asked.done() and asked.exception())

    def asked(self, answer: "Future[Message]", now: float) -> None:
        """A snapshot has been asked for."""
        self._asked = answer
        self._ask_at = now + _SNAPSHOT_EVERY


class Watch:
    """The servers of a page. It reads from `start` to `stop`."""

    def __init__(self, places: Sequence[str | Place], *, token: str | None = None) -> None:
        """`places` are the channels; `token` is shown to each of them.

        Raises:
            ValueError: one of them is no place, or there is none.
        """
        self._feeds = Feeds(places, token=token, **_IDLE)
        self._scenes = {server: Scene(server) for server in self._feeds.servers}
        self._lock = threading.Lock()
        self._lookers = 0
        self._busy = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tftp-dashboard", daemon=True)

    @property
    def servers(self) -> list[str]:
        """The channels' places."""
        return list(self._scenes)

    def start(self) -> None:
        """Begin to read."""
        self._feeds.start()
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stopped.set()
        self._feeds.close()
        self._thread.join()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """While somebody looks, more is asked of the servers."""
        with self._lock:
            self._lookers += 1
        try:
            yield
        finally:
            with self._lock:
                self._lookers -= 1

    @contextmanager
    def scenes(self) -> Iterator[dict[str, Scene]]:
        """The servers by their places; they do not change while the context lasts: be quick."""
        with self._lock:
            yield self._scenes

    def send(self, server: str, command: str, **members: Any) -> "Future[Message]":
        """Send an order to one of `servers`, as `Feed.send` does."""
        return self._feeds.send(server, command, **members)

    def _run(self) -> None:
        while not self._stopped.is_set():
            with suppress(queue.Empty):
                self._apply(self._feeds.queue.get(timeout=_TICK))
            self._ask()

    def _apply(self, message: Message) -> None:
        server = message["server"]
        with self._lock:
            scene = self._scenes[server]
            scene.apply(message)
            match message["event"]:
                case "greeting" | "disconnected":
                    scene.start_over()
                # The first one of a connection comes before anything has been subscribed to.
                case "snapshot" if self._busy and "id" in message:
                    scene.answered()
        if message["event"] == "greeting" and self._busy:
            self._feeds.send(server, "subscribe", **_BUSY)

    def _ask(self) -> None:
        """Ask the servers for what those who look need."""
        with self._lock:
            busy, changed = self._lookers > 0, (self._lookers > 0) != self._busy
            self._busy = busy
            if changed:
                for scene in self._scenes.values():
                    scene.start_over()
        if changed:
            for server in self._scenes:
                self._feeds.send(server, "subscribe", **(_BUSY if busy else _IDLE))
        if busy:
            now = time.monotonic()
            for server, scene in self._scenes.items():
                if scene.is_due(now):
                    scene.asked(self._feeds.send(server, "snapshot"), now)
