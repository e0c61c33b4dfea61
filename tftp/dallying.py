"""What a client does after its last ACK: it stays a while, in case that ACK was lost.

RFC 1350, section 6, encourages it: a server that has not heard the last ACK sends its last block
again, and takes the transfer for failed when nobody answers. Where packets have been lost, that ACK
is also repeated unasked (`tftp.transfer`). The caller of `get` should not have to wait for either,
so one thread stays in its place, and ends when there is nothing to stay for.
"""

import functools
import threading

from tftp.errors import Aborted
from tftp.net.reactor import Reactor
from tftp.session import Session

__all__ = ["Dallying"]

# So many transfers are remembered; beyond that the oldest is given up.
_AT_MOST = 64


class Dallying:
    """A thread for the sessions that have ended and stay; where there is no session, none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming = 0
        self._sessions: list[Session] = []
        self._reactor: Reactor | None = None
        self._thread: threading.Thread | None = None

    def take(self, session: Session) -> None:
        """Stay with this session until it is finished."""
        with self._lock:
            if self._reactor is None:
                self._reactor = Reactor(dropped=self._forget)
                self._thread = threading.Thread(
                    target=self._reactor.run,
                    args=(self._has_ended,),
                    name="tftp-dallying",
                    daemon=True,
                )
                self._thread.start()
            self._coming += 1
            self._reactor.call(functools.partial(self._add, session, self._reactor))

    def stop(self) -> None:
        """Give all of it up now."""
        with self._lock:
            if self._reactor is not None:
                self._reactor.call(functools.partial(self._give_up, self._reactor, 0))
        self.wait()

    def wait(self, timeout: float | None = None) -> None:
        """Return when there is nothing to stay for, or after `timeout` seconds."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _has_ended(self) -> bool:
        with self._lock:
            if self._reactor is None or self._coming or self._sessions:
                return False
            # Under the lock, so that who comes after sees either all of it or nothing.
            self._reactor.close()
            self._reactor = None
            return True

    def _add(self, session: Session, reactor: Reactor) -> None:
        with self._lock:
            self._coming -= 1
            self._sessions.append(session)
        reactor.add(session)
        self._give_up(reactor, _AT_MOST)

    def _give_up(self, reactor: Reactor, keep: int) -> None:
        while len(self._sessions) > keep:
            session = self._sessions[0]
            session.abort(Aborted("not waited for"), tell=False)
            reactor.settle(session)

    def _forget(self, handler: object) -> None:
        with self._lock:
            self._sessions.remove(handler)  # type: ignore[arg-type]  # it serves sessions only
