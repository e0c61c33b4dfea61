"""The monitoring channel: what a server does over TCP or a Unix socket, as JSON lines; orders back.

`docs/reference/monitor.md` is its format. The channel has one thread, whose reactor serves all of
its readers. Transfers meet it in `_offer` only, where an event is put into a bounded queue and, at
most ten times a second, the thread is woken. What it does with them there is held to a share of
the time: where more happens than fits into it, readers lose events (and are told), but never a
transfer its time.

It acts on a server through `Controls`, and knows nothing else of it.
"""

import hmac
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, Protocol

from tftp.events import (
    Address,
    Event,
    RequestRefused,
    TransferEnded,
    TransferProgress,
    as_json,
    format_address,
    kind_of,
)
from tftp.monitor.board import Board
from tftp.monitor.door import Door, listen
from tftp.monitor.orders import KINDS, ORDERS, NonsenseError, Order, parse
from tftp.monitor.place import Place
from tftp.monitor.reader import Access, Priority, Reader, encode
from tftp.net.reactor import Reactor
from tftp.net.waiting import Sleeping

__all__ = ["PROTOCOL", "Channel", "Controls"]

logger = logging.getLogger("tftp")

#: The version of the format.
PROTOCOL = 1

# Events that wait for the thread: beyond the first number progress is dropped, beyond the second
# everything.
_PROGRESS_WAITING, _MOST_WAITING = 4096, 8192
# Seconds between two deliveries, unless more waits than fits into one; and how many events that
# are: a transfer's thread waits for the interpreter's lock meanwhile, and pays for it to change
# hands.
_PAUSE, _AT_ONCE = 0.1, 64
# Seconds of rest for each second of work: a fiftieth of the interpreter's time is the most that
# events cost here. What they cost elsewhere, and readers on the same machine, comes on top of it.
# One beat may have met a pass of the garbage collector: nobody waits longer than this for that.
_REST, _LONGEST_REST = 49.0, 0.5
# Seconds between two looks at the server's state, while somebody listens.
_LOOK = 0.5
# Readers at once, and snapshots that one of them may wait for.
_MOST_READERS, _MOST_WANTS = 64, 8
# Seconds that the last lines have to leave when the channel closes.
_LAST_LINES = 1.0

# Letters of an error message.
_MESSAGE = 1000

_AT_FIRST = frozenset(KINDS) - {"totals"}
# The kinds that are not events of transfers.
_OWN = frozenset({"state", "totals"})
# What may be said without a token.
_FREE = frozenset({"token", "help", "quit"})
# Any page of the web can make a browser send lines to a port of this host, but this one goes first.
_WEB = re.compile(rb"[A-Z]+ \S+ HTTP/\d")


class _Missed(NamedTuple):
    """How many events nobody has been told of, since there was no time for that."""

    progress: int
    others: int


class _Change(NamedTuple):
    """What the server's state and limits are from this time on."""

    time: float
    state: str
    limits: dict[str, int]


class Controls(Protocol):
    """What the channel asks of a server, and can do to it, from its own thread."""

    @property
    def engine_name(self) -> str:
        """How it runs transfers, in a word."""

    @property
    def state(self) -> str:
        """ "serving", "draining" or "stopping"."""

    @property
    def addresses(self) -> list[Address]:
        """Where it serves."""

    @property
    def limits(self) -> Mapping[str, int]:
        """The limits that `change_limits` can change, by their names."""

    def cancel(self, number: int) -> bool:
        """End a transfer; False if none of this number runs."""

    def pause(self) -> None:
        """Refuse new requests."""

    def resume(self) -> None:
        """Take requests again."""

    def change_limits(
        self,
        *,
        max_transfers: int | None = None,
        max_blksize: int | None = None,
        max_windowsize: int | None = None,
    ) -> None:
        """Change limits for requests to come. Raises `ValueError` for one that can not be."""


class Channel:
    """Tells of one server. It is open from `start` to `stop`."""

    def __init__(
        self,
        board: Board,
        controls: Controls,
        place: Place,
        *,
        token: str | None = None,
        version: str = "",
        log_level: Callable[[str], None] = logger.setLevel,
    ) -> None:
        """Bring the parts together; nothing is opened before `start`.

        Args:
            board: what is told of.
            controls: the server that orders are for; it must serve when `start` is called.
            place: where to listen; port 0 lets the system choose (see `places`).
            token: what readers have to show before they may act, and beyond this host also before
                they may look.
            version: of the program, for the greeting.
            log_level: sets it, given "DEBUG", "INFO", "WARNING" or "ERROR".

        Raises:
            ValueError: other hosts can reach the place, and there is no token.
        """
        if not place.local and not token:
            raise ValueError(
                f"whoever reaches {place} could watch this server and cancel its transfers: set a "
                "token, or listen on 127.0.0.1, [::1] or unix:PATH"
            )
        self._board = board
        self._controls = controls
        self._place = place
        self._token = token
        self._version = version
        self._log_level = log_level
        self._reactor = Reactor(dropped=self._forget, waiting=Sleeping)
        self._thread = Thread(target=self._run, name="tftp-monitor", daemon=True)
        self._doors: list[Door] = []
        self._readers: list[Reader] = []
        self._greeting: dict[str, Any] = {}
        self._state: tuple[str, dict[str, int]] = ("", {})
        self._pulse = _Pulse(self._beat)
        self._stopping = False
        # Shared with the threads of transfers.
        self._events: SimpleQueue[tuple[int, Event | _Change, _Missed]] = SimpleQueue()
        self._heard = False  # somebody wants events
        self._awake = False  # the thread is going to look at the queue
        self._missed = self._told = _Missed(0, 0)  # in all, and as far as readers know
        self._obey: dict[str, Callable[[Reader, Mapping[str, Any]], dict[str, Any]]] = {
            "subscribe": self._subscribe,
            "cancel": self._cancel,
            "drain": self._drain,
            "resume": self._resume,
            "limits": self._limits,
            "log-level": self._set_log_level,
            "help": self._help,
        }

    @property
    def places(self) -> list[Place]:
        """Where it listens, with the real ports."""
        return [door.place for door in self._doors]

    def start(self) -> None:
        """Listen, and serve readers in a thread.

        Raises:
            OSError: it can not listen there; `filename` is the place.
        """
        try:
            self._doors = listen(self._place, self._reactor, self._welcome)
        except OSError as error:
            self._reactor.close()
            raise OSError(error.errno, error.strerror, str(self._place)) from error
        self._greeting = {
            "version": self._version,
            "engine": self._controls.engine_name,
            "addresses": [format_address(address) for address in self._controls.addresses],
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": time.time(),
        }
        self._state = self._look()
        for door in self._doors:
            self._reactor.add(door)
        self._reactor.add(self._pulse)
        self._board.follow(self._offer)
        self._thread.start()

    def stop(self) -> None:
        """Tell readers the last events, say goodbye to them, and close."""
        self._reactor.call(self._say_goodbye)
        self._thread.join()

    # -- in the threads of transfers --------------------------------------------------------------

    def _offer(self, sequence: int, event: Event) -> None:
        """Take an event in; the board calls this one at a time."""
        if not self._heard:
            return
        waiting = self._events.qsize()
        if waiting < _PROGRESS_WAITING:
            self._events.put((sequence, event, self._missed))
        elif isinstance(event, TransferProgress):
            self._missed = _Missed(self._missed.progress + 1, self._missed.others)
        elif waiting < _MOST_WAITING:
            self._events.put((sequence, event, self._missed))
        else:
            self._missed = _Missed(self._missed.progress, self._missed.others + 1)
        if not self._awake:
            self._awake = True
            self._reactor.call(self._beat)

    # -- in the channel's thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._reactor.run(until=lambda: self._stopping and not self._readers)
        finally:
            self._heard = False
            self._reactor.close()

    def _beat(self) -> None:
        """Do what is due, and rest as long as the share of the time asks for."""
        self._awake = True
        now, began = time.monotonic(), time.thread_time()
        self._note_change(time.time())
        busy = self._answer_wants() | self._tell_events(_AT_ONCE)
        self._tell_totals(now)
        self._flush(now)
        if busy:
            rest = min(_REST * (time.thread_time() - began), _LONGEST_REST)
            more = self._events.qsize() >= _AT_ONCE
            self._pulse.deadline = now + (rest if more else max(_PAUSE, rest))
        else:
            self._awake = False
            # An event may have come before that was said.
            self._pulse.deadline = self._next_look(now) if self._events.empty() else now
        self._reactor.settle(self._pulse)

    def _next_look(self, now: float) -> float | None:
        if not self._readers:
            return None
        totals = [reader.next_totals for reader in self._readers if "totals" in reader.kinds]
        return min([now + _LOOK, *totals])

    def _wake(self) -> None:
        """Have the heart beat soon, if it does not rest."""
        if not self._awake:
            self._awake = True
            self._pulse.deadline = time.monotonic()
            self._reactor.settle(self._pulse)

    def _flush(self, now: float) -> None:
        for reader in list(self._readers):
            if not reader.blocked:  # Or the reactor waits until there is room.
                reader.flush(now)
            self._reactor.settle(reader)

    # -- what is told -----------------------------------------------------------------------------

    def _answer_wants(self) -> bool:
        """Answer those who wait for all that is true now, with one look at the board for all."""
        waiting = [reader for reader in self._readers if reader.wants and not reader.blocked]
        if not waiting:
            return False
        snapshot = self._board.snapshot()
        sequence = snapshot["sequence"]
        state, limits = self._look()
        whole = _in_pieces({"event": "snapshot", "state": state, "limits": limits, **snapshot})
        for reader in waiting:
            command, number = reader.wants.popleft()
            if command == "snapshot":
                line = whole if number is None else _with_id(whole, number)
            else:
                transfers = snapshot["transfers"]
                line = _in_pieces(_reply(command, number, {"transfers": transfers}))
            if reader.after is None:
                reader.after = sequence
                reader.put(line, Priority.ANSWER)
            else:
                # The events that it contains go first.
                reader.held.append((sequence, line))
        return True

    def _tell_events(self, most: int | None) -> bool:
        events, readers = self._events, self._readers
        count = events.qsize() if most is None else min(events.qsize(), most)
        # Hardly ever does a reader get something between two events, or one and not another: they
        # are looked through until that is so, and not for each event.
        settled = False
        for _ in range(count):
            sequence, event, missed = events.get_nowait()
            if missed is not self._told:
                self._tell_missed(missed)
            if isinstance(event, _Change):
                self._tell_change(event)
                continue
            if settled:
                self._tell(sequence, event, readers)
                continue
            takers = []
            for reader in readers:
                if reader.held:
                    reader.let_go(sequence)
                if reader.after is not None and sequence > reader.after:
                    takers.append(reader)
            settled = len(takers) == len(readers) and not any(reader.held for reader in readers)
            self._tell(sequence, event, takers)
        missed = self._missed  # In this order: an event that comes now is behind them.
        if events.empty():
            self._tell_missed(missed)
            for reader in readers:
                reader.let_go(None)
        return count > 0

    def _tell(self, sequence: int, event: Event, readers: list[Reader]) -> None:
        kind, transfer = kind_of(event), event.transfer
        takers = [reader for reader in readers if kind in reader.kinds]
        priority = Priority.EVENT
        match event:
            case TransferProgress():
                priority = Priority.PROGRESS
                takers = [one for one in takers if one.wants_progress(transfer, event.time)]
            case TransferEnded() | RequestRefused():
                for reader in readers:
                    reader.forget(transfer)
        if takers:
            record = _cut(as_json(event))
            record["sequence"] = sequence
            line = encode(record)
            for reader in takers:
                reader.put(line, priority)

    def _tell_missed(self, missed: "_Missed") -> None:
        """So many events did not come as far as here, before the one that is told next."""
        told, self._told = self._told, missed
        progress, others = missed.progress - told.progress, missed.others - told.others
        if not progress and not others:
            return
        for reader in self._readers:
            if reader.kinds - _OWN:
                reader.missed(progress, others)

    def _note_change(self, when: float) -> None:
        """See whether state or limits are others; it is told behind the events before it."""
        now = self._look()
        if now != self._state and self._events.qsize() < _MOST_WAITING:
            self._state = now
            self._events.put((0, _Change(when, *now), self._missed))

    def _tell_change(self, change: _Change) -> None:
        line = encode({"event": "state", **change._asdict()})
        for reader in self._readers:
            if "state" in reader.kinds and reader.after is not None:
                reader.put(line, Priority.EVENT)

    def _tell_totals(self, now: float) -> None:
        due = [
            reader
            for reader in self._readers
            if "totals" in reader.kinds and reader.after is not None and reader.next_totals <= now
        ]
        if not due:
            return
        line = encode({"event": "totals", "state": self._state[0], **self._board.totals()})
        for reader in due:
            reader.next_totals = now + reader.totals_every
            reader.put(line, Priority.EVENT)

    def _look(self) -> tuple[str, dict[str, int]]:
        return self._controls.state, dict(self._controls.limits)

    # -- readers come and go ----------------------------------------------------------------------

    def _welcome(self, sock: socket.socket) -> None:
        """A connection has been made."""
        access = Access.ACT if self._token is None else Access.LOOK
        if not self._place.local:
            access = Access.NONE
        now = time.monotonic()
        reader = Reader(sock, access, reactor=self._reactor, hear=self._hear, now=now)
        if len(self._readers) >= _MOST_READERS:
            reader.part(f"there are {_MOST_READERS} readers already")
            reader.flush(now)
            reader.close()
            return
        self._readers.append(reader)
        self._reactor.add(reader)
        if access is Access.NONE:
            greeting = {"event": "greeting", "protocol": PROTOCOL, "access": "none"}
            reader.put(encode(greeting), Priority.ANSWER)
            reader.flush(now)
        else:
            self._greet(reader)
        self._reactor.settle(reader)

    def _greet(self, reader: Reader) -> None:
        greeting = {
            "event": "greeting",
            "protocol": PROTOCOL,
            "access": reader.access.name.lower(),
            **self._greeting,
            "time": time.time(),
        }
        reader.put(encode(greeting), Priority.ANSWER)
        self._choose(reader, _AT_FIRST)
        reader.wants.append(("snapshot", None))
        self._wake()

    def _choose(self, reader: Reader, kinds: frozenset[str]) -> None:
        reader.kinds = kinds
        self._heard = any(one.kinds - _OWN for one in self._readers)

    def _forget(self, handler: object) -> None:
        if isinstance(handler, Reader):
            self._readers.remove(handler)
            self._heard = any(one.kinds - _OWN for one in self._readers)

    def _say_goodbye(self) -> None:
        self._stopping = True
        for door in self._doors:
            self._reactor.release(door)
            door.close()
        self._note_change(time.time())
        self._tell_events(None)
        for reader in self._readers:
            reader.part("the server stops", patience=_LAST_LINES)
        self._flush(time.monotonic())

    # -- what they say ----------------------------------------------------------------------------

    def _hear(self, reader: Reader, line: bytes) -> None:
        if _WEB.match(line):
            reader.part("this is no web server", final=True)
            return
        try:
            self._take(reader, parse(line))
        except NonsenseError as error:
            _say_error(reader, error.command, error.id, str(error))
            reader.nonsense()
        else:
            reader.sense()

    def _take(self, reader: Reader, order: Order) -> None:
        """Obey, or raise `NonsenseError`."""
        command, number, members = order.command, order.id, order.members
        if command == "token":
            self._show_token(reader, order)
            return
        self._require(reader, order)
        if command == "quit":
            reader.leave("goodbye")
        elif command in ("snapshot", "transfers"):
            if len(reader.wants) >= _MOST_WANTS:
                raise NonsenseError("wait for the answers that you have asked for", command, number)
            reader.wants.append((command, number))
            self._wake()
        else:
            when = time.time()
            try:
                result = self._obey[command](reader, members)
            except ValueError as error:
                raise NonsenseError(str(error), command, number) from None
            self._note_change(when)
            reader.put(encode(_reply(command, number, result)), Priority.ANSWER)
            self._wake()

    def _require(self, reader: Reader, order: Order) -> None:
        """Raise `NonsenseError` unless the reader may give this order."""
        access = reader.access
        if order.token is not None:
            if not self._is_token(order.token):
                raise NonsenseError("this is not the token", order.command, order.id)
            access = Access.ACT
        needed = Access.LOOK
        if order.command in _FREE:
            needed = Access.NONE
        elif ORDERS[order.command].acts and (order.members or order.command != "limits"):
            needed = Access.ACT
        if access < needed:
            raise NonsenseError("this needs the token: write token SECRET", order.command, order.id)

    def _is_token(self, shown: str) -> bool:
        return self._token is None or hmac.compare_digest(
            shown.encode("utf-8", "surrogatepass"), self._token.encode("utf-8", "surrogatepass")
        )

    def _show_token(self, reader: Reader, order: Order) -> None:
        if not self._is_token(order.members["token"]):
            _say_error(reader, order.command, order.id, "this is not the token")
            reader.part("this is not the token", final=True)
            return
        before = reader.access
        reader.let_in(Access.ACT)
        result = {"access": "act"}
        reader.put(encode(_reply(order.command, order.id, result)), Priority.ANSWER)
        if before is Access.NONE:
            self._greet(reader)

    def _subscribe(self, reader: Reader, members: Mapping[str, Any]) -> dict[str, Any]:
        if "rate" in members:
            reader.rate = members["rate"]
            reader.totals_every = 1 / reader.rate
        self._choose(reader, members.get("kinds", reader.kinds))
        return {"kinds": [kind for kind in KINDS if kind in reader.kinds], "rate": reader.rate}

    def _cancel(self, reader: Reader, members: Mapping[str, Any]) -> dict[str, Any]:
        number = members["transfer"]
        if not self._controls.cancel(number):
            raise ValueError(f"no transfer {number} is running: order transfers to see which are")
        logger.info("transfer %d was cancelled through the monitor", number)
        return {"transfer": number}

    def _drain(self, reader: Reader, members: Mapping[str, Any]) -> dict[str, Any]:
        self._controls.pause()
        return {"state": self._controls.state}

    def _resume(self, reader: Reader, members: Mapping[str, Any]) -> dict[str, Any]:
        self._controls.resume()
        return {"state": self._controls.state}

    def _limits(self, reader: Reader, members: Mapping[str, Any]) -> dict[str, Any]:
        if members:
            self._controls.change_limits(**members)
        return dict(self._controls.limits)

    def _set_log_level(self, reader: Reader, members: Mapping[str, Any]) -> dict[str, Any]:
        self._log_level(members["level"].upper())
        return {"level": members["level"]}

    def _help(self, reader: Reader, members: Mapping[str, Any]) -> dict[str, Any]:
        return {"commands": {form.usage: form.meaning for form in ORDERS.values()}}


class _Pulse:
    """When the channel does next what is due; a `Handler` for its reactor."""

    blocked = False
    finished = False

    def __init__(self, beat: Callable[[], None]) -> None:
        self.armed = 0.0
        self.deadline: float | None = None
        self._beat = beat

    def fileno(self) -> int:
        """It has no descriptor."""
        return -1

    def readable(self, now: float) -> None:
        """Never waited for."""

    def writable(self, now: float) -> None:
        """Never waited for."""

    def expire(self, now: float) -> None:
        """It is time."""
        self._beat()

    def failed(self, error: Exception) -> None:
        """A fault of the program: readers may miss something, transfers do not."""
        logger.error("the monitor has missed a beat", exc_info=error)
        self.deadline = time.monotonic() + _LOOK

    def close(self) -> None:
        """There is nothing to close."""


def _cut(record: dict[str, Any]) -> dict[str, Any]:
    """An event's JSON form, without the sixty kilobytes that a client may put into an ERROR."""
    error = record.get("error")
    if error and len(error["message"]) > _MESSAGE:
        record["error"] = error | {"message": error["message"][:_MESSAGE]}
    return record


def _reply(command: str, number: int | str | None, result: dict[str, Any]) -> dict[str, Any]:
    return {"event": "reply", "command": command, "id": number, "result": result}


def _say_error(reader: Reader, command: str | None, number: int | str | None, message: str) -> None:
    error = {"event": "error", "command": command, "id": number, "message": message}
    reader.put(encode(error), Priority.ANSWER)


def _in_pieces(message: dict[str, Any]) -> bytes:
    """A line that may be long: other threads can run between its pieces, which `json.dumps` does
    not let them.
    """
    pieces = [f"{json.dumps(name)}: {_piece(value)}" for name, value in message.items()]
    return f"{{{', '.join(pieces)}}}\n".encode("ascii")


def _piece(value: Any) -> str:
    match value:
        case dict():
            pieces = [f"{json.dumps(name)}: {_piece(it)}" for name, it in value.items()]
            return f"{{{', '.join(pieces)}}}"
        case [{}, *_]:
            return f"[{', '.join(map(json.dumps, value))}]"
        case _:
            return json.dumps(value)


def _with_id(line: bytes, number: int | str) -> bytes:
    return b'{"id": ' + json.dumps(number).encode("ascii") + b", " + line[1:]
