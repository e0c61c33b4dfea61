"""What a thread's transfers share: room for blocks of each size, and what leaves together."""

import errno
import select
import socket

import pytest

from tftp.net.endpoint import Emit, Endpoint
from tftp.net.workspace import Outbox, Workspace

# -- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("blksize", [8, 512, 1428, 1468, 9000, 32768, 65464])
def test_a_batch_has_room_for_some_blocks_and_not_for_ever_more(blksize: int) -> None:
    batch = Workspace().batch(blksize, 1000)
    assert batch.size == blksize + 4
    assert 1 <= len(batch.slots) <= 64
    assert len(batch.slots) * batch.size <= 1 << 18
    assert all(len(slot) == blksize for slot in batch.slots)


def test_a_workspace_serves_any_number_of_block_sizes_in_turn() -> None:
    workspace = Workspace()
    for blksize in [*range(8, 100), *range(8, 100)]:
        batch = workspace.batch(blksize, 1)
        assert (batch.size, len(batch.slots[0])) == (blksize + 4, blksize)
        # The slots are where the packets are.
        batch.slots[0][:] = bytes([blksize]) * blksize
        assert bytes(batch.octets[4 : batch.size]) == bytes([blksize]) * blksize


def test_a_batch_is_as_large_as_the_largest_window_so_far() -> None:
    workspace = Workspace()
    counts = [len(workspace.batch(1428, count).slots) for count in (1, 1, 16, 4, 64, 65, 1)]
    assert counts == [1, 1, 16, 16, 64, 64, 64]


# -- datagrams that leave together ----------------------------------------------------------------


class Owner:
    """Who has put a datagram into an outbox, and what it was told."""

    def __init__(self) -> None:
        self.told: list[OSError] = []

    def unsent(self, error: OSError) -> None:
        self.told.append(error)


def laid(
    endpoint: Endpoint, far: socket.socket, datagrams: bytes, size: int = 0, count: int = 1
) -> tuple[Emit, bytes, object]:
    """What an outbox is given, but for the owner."""
    emit, to = endpoint.route(far.getsockname(), size, count)
    return emit, datagrams, to


@pytest.fixture
def outbox() -> Outbox:
    box = Outbox()
    box.corked = True
    return box


def test_what_waits_in_an_outbox_leaves_in_order_when_it_is_uncorked(
    outbox: Outbox, endpoint: Endpoint, far: socket.socket
) -> None:
    for datagrams, size in ((b"a", 1), (b"bbccd", 2), (b"e", 9)):
        count = -(-len(datagrams) // size)
        outbox.put(*laid(endpoint, far, datagrams, size, count), Owner())
    assert not select.select([far], [], [], 0)[0]
    assert outbox.uncork() == []
    assert not outbox.corked
    assert [far.recv(9) for _ in range(5)] == [b"a", b"bb", b"cc", b"d", b"e"]
    assert outbox.uncork() == []
    assert not select.select([far], [], [], 0)[0]


def test_an_outbox_holds_back_so_many_and_no_more(
    outbox: Outbox, endpoint: Endpoint, far: socket.socket
) -> None:
    for _ in range(100):
        outbox.put(*laid(endpoint, far, b""), Owner())
    far.setblocking(False)
    for _ in range(96):
        far.recv(9)
    with pytest.raises(BlockingIOError):
        far.recv(9)


def test_one_that_can_not_be_sent_does_not_stop_the_others_and_its_owner_is_told(
    outbox: Outbox, endpoint: Endpoint, far: socket.socket
) -> None:
    owner, other = Owner(), Owner()
    outbox.put(*laid(endpoint, far, bytes(70_000)), owner)
    outbox.put(*laid(endpoint, far, b"last"), other)
    assert outbox.uncork() == [owner]
    assert [error.errno for error in owner.told] == [errno.EMSGSIZE]
    assert other.told == []
    assert far.recv(9) == b"last"
    assert outbox.uncork() == [], "it was told once"
