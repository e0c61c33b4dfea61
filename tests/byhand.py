"""A state machine and its driver, by hand: one call for what is said, heard and sent."""

from dataclasses import replace

import pytest

from tftp.options import Terms
from tftp.packets import Ack, Data, OptionAck, Packet, ReadRequest, WriteRequest, decode
from tftp.timers import Patience
from tftp.transfer import Receiver, Sender, Transfer

WINDOWS = (1, 2, 4, 16, 64)
PATIENCE = Patience()
PLAIN = Terms()

RRQ = ReadRequest(b"file")
WRQ = WriteRequest(b"file")

windowsizes = pytest.mark.parametrize("windowsize", WINDOWS)
roles = pytest.mark.parametrize("role", ["get", "put"])


def said(machine: Transfer) -> list[Packet]:
    """What the machine wants sent."""
    return [decode(datagram) for datagram in machine.replies()]


def hear(machine: Transfer, packet: Packet, now: float) -> list[Packet]:
    """Let the machine take in a packet, and store what has come; what it says to that."""
    machine.receive(packet.encode(), now)
    if isinstance(machine, Receiver):
        machine.payloads()
        machine.stored(now)
    return said(machine)


def send(sender: Sender, now: float, last: int | None = None) -> list[int]:
    """Report the whole window as sent; its blocks."""
    blocks = list(sender.window())
    sender.sent(len(blocks), now, last)
    return blocks


def send_all(sender: Sender, now: float) -> float:
    """Report the window as sent, pauses included; the time when that is done."""
    while sender.window():
        send(sender, now)
        if sender.deadline is not None and sender.deadline < now + PATIENCE.floor:
            now = sender.deadline
            sender.expire(now)
    return now


def serving(windowsize: int = 1, *, terms: Terms = PLAIN, patience: Patience = PATIENCE) -> Sender:
    """A server's sender whose OACK has been answered after 1 ms, at 0.001."""
    settled = replace(terms, windowsize=windowsize)
    sender = Sender.answer(settled, {"windowsize": str(windowsize)}, 0.0, patience)
    assert said(sender) == [OptionAck({"windowsize": str(windowsize)})]
    assert hear(sender, Ack(0), 0.001) == []
    return sender


def fetching(windowsize: int = 1) -> Receiver:
    """A server's receiver that waits for DATA 1."""
    settled = Terms(windowsize=windowsize)
    receiver = Receiver.answer(settled, {"windowsize": str(windowsize)}, 0.0, PATIENCE)
    assert said(receiver) == [OptionAck({"windowsize": str(windowsize)})]
    return receiver


def asking(windowsize: int, *, blksize: int = 512, patience: Patience = PATIENCE) -> Receiver:
    """A client's receiver whose request was answered by an OACK, at 0.001."""
    options = {"windowsize": str(windowsize), "blksize": str(blksize)}
    receiver = Receiver.request(ReadRequest(b"file", options=options), 0.0, patience)
    said(receiver)
    assert hear(receiver, OptionAck(options), 0.001) == [Ack(0)]
    return receiver


def full(block: int) -> Data:
    """A block of the default size."""
    return Data(block & 0xFFFF, bytes(512))
