"""The one state machine of TFTP: `Sender` and `Receiver`, without I/O and without a clock.

Theory of operation
-------------------

A transfer is one direction of DATA and one of ACK; who asked for it makes no difference once it
flows. So there are two machines, not four: a server that is read from and a client that writes are
both a `Sender`. They differ only in the opening datagram (RRQ, WRQ, OACK or ACK 0), which is simply
the first reply, repeated by `expire` until something answers it.

The machine deals in numbers and bytes. Whoever drives it (`session`) passes in each datagram with
the time at which it came (`receive`), calls `expire` when `deadline` has passed, and afterwards
drains `replies` onto the wire. Work is handed out and reported back::

    Sender.window()      -> which blocks to send now     Sender.sent(...)     they are on the wire
    Receiver.payloads()  -> what to store now            Receiver.stored(...) it is stored

The sender hands out block *numbers*: block n lies at offset (n - 1) * blksize, so a repeat is just
another read, and a transfer costs the same memory whatever its size. The receiver acknowledges in
`stored`: an ACK leaves after the write, the last one after the file has its final name.

Loss is met in four ways; docs/explanation/recovery.md says what each of them is worth.

*   The receiver keeps what comes behind a hole. It reports the hole once, by repeating its ACK (RFC
    7440, section 4), when more has come than may merely have overtaken the missing block.
*   The sender goes back to the hole, once. An ACK that does not reach beyond what had been sent by
    then, and comes within a round trip, may be an echo of what was in flight: it moves the window
    on, and nothing is sent again. Without that bound receivers that repeat their ACK for each later
    block (EDK2), or whose windows are not the sender's (U-Boot), would get the file many times.
*   Where nobody says anything the timer fires.
*   Where holes keep coming the sender pauses inside its window, and between two pauses sends about
    as much as got through lately: the receiver's queue is shorter than the window.

What both share (the states, the opening, the waits, the end) is in `machine`; `sender` and
`receiver` have the rest. Import all of it from here.
"""

from tftp.machine import State, Transfer
from tftp.receiver import Receiver
from tftp.sender import Sender

__all__ = ["Receiver", "Sender", "State", "Transfer"]
