"""What an operator can do to a running server: cancel, pause, resume, other limits."""

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.arrangements import Arrangement, everywhere
from tests.server.conftest import Serve
from tests.server.storages import Gate, Scripted
from tests.watching import Witness, eventually
from tests.wirepeer import PATIENCE, WirePeer, error_code
from tftp.errors import ErrorCode
from tftp.events import Event, Outcome, RequestRefused, TransferEnded, TransferStarted
from tftp.packets import Ack, Data, Error, OptionAck
from tftp.server import Server, ServerConfig
from tftp.server.processes import ProcessEngine
from tftp.server.supervisor import Supervisor
from tftp.storage import Directory

CONTENT = bytes(5000)
CANCELLED = Error(0, "cancelled by the operator")
DRAINING = Error(0, "server is draining, try later")


@pytest.fixture
def files(tmp_path: Path) -> Directory:
    """A directory with one file."""
    (tmp_path / "file").write_bytes(CONTENT)
    return Directory(tmp_path)


@everywhere
def test_a_cancelled_transfer_is_aborted(files: Directory, serve: Serve, witness: Witness) -> None:
    server = serve(files)
    with WirePeer(server.address) as peer:
        peer.rrq("file")
        assert isinstance(peer.receive(), Data)
        number = witness.wait(TransferStarted).transfer
        assert server.cancel(number)
        assert peer.receive() == CANCELLED
        ended = witness.wait(TransferEnded)
        assert (ended.transfer, ended.outcome) == (number, Outcome.ABORTED)
        assert ended.error is not None
        assert ended.error.message == "cancelled by the operator"
        assert not server.cancel(number)


@everywhere
def test_what_does_not_run_can_not_be_cancelled(files: Directory, serve: Serve) -> None:
    assert not serve(files).cancel(1)


@everywhere
def test_a_server_that_has_not_started_has_nothing_to_cancel(
    files: Directory, arrangement: Arrangement
) -> None:
    assert not arrangement.make(files).cancel(1)


def test_an_upload_that_only_repeats_its_last_ack_can_not_be_cancelled(
    serve: Serve, witness: Witness
) -> None:
    server = serve(Scripted())
    with WirePeer(server.address) as peer:
        peer.write(b"all", "file")
        number = witness.wait(TransferEnded).transfer
        assert not server.cancel(number)

        def acknowledged() -> bool:
            peer.send(Data(1, b"all"))
            return not peer.silent(0.05)

        assert eventually(acknowledged)
        assert peer.receive() == Ack(1)


def test_a_request_that_waits_for_a_child_can_be_cancelled(
    files: Directory, serve: Serve, witness: Witness
) -> None:
    server = serve(files, engine=ProcessEngine(children=1, warm=1))
    with WirePeer(server.address) as first, WirePeer(server.address) as second:
        first.rrq("file")
        assert isinstance(first.receive(), Data)
        second.rrq("file")
        assert eventually(lambda: server.running == 2)
        assert server.cancel(2)
        assert second.receive() == CANCELLED
        assert witness.wait(RequestRefused).transfer == 2
        first.send(Error(0, ""))


def test_a_cancel_that_comes_too_late_changes_nothing(serve: Serve, witness: Witness) -> None:
    """The transfer ends by itself while the order is on its way to its thread."""
    gate = Gate()
    storage = Scripted(b"x" * 600, close=gate)
    server = serve(storage)
    with WirePeer(server.address) as peer:
        peer.rrq("file")
        peer.receive()
        number = witness.wait(TransferStarted).transfer
        peer.send(Ack(1))
        assert isinstance(peer.receive(), Data)
        peer.send(Ack(2))
        gate.wait()  # Its thread is at the end of the transfer, and has not said so yet.
        assert server.cancel(number)
        gate.open()
        assert witness.outcome() is Outcome.DONE
    assert storage.count("close") == 1


@everywhere
def test_a_paused_server_refuses_requests_until_it_resumes(
    files: Directory, serve: Serve, witness: Witness
) -> None:
    server = serve(files)
    assert server.state == "serving"
    server.pause()
    assert server.state == "draining"
    with WirePeer(server.address) as peer:
        assert not _takes_requests(peer)
        assert eventually(lambda: 0 in refusals(witness))
        server.resume()
        assert server.state == "serving"
        assert _takes_requests(peer)
        assert peer.read("file") == CONTENT


@everywhere
def test_a_server_may_be_paused_before_it_starts(
    files: Directory, arrangement: Arrangement
) -> None:
    server = arrangement.make(files)
    server.pause()
    with arrangement.conditions(), server, WirePeer(server.address) as peer:
        peer.rrq("file")
        assert error_code(peer.receive()) == 0


def test_a_stopped_server_is_stopping_until_it_starts_again(files: Directory) -> None:
    server = Server(files)
    with server:
        assert server.state == "serving"
    assert server.state == "stopping"
    with server:
        assert server.state == "serving"


@everywhere
def test_limits_are_changed_for_requests_to_come(
    files: Directory, serve: Serve, witness: Witness
) -> None:
    server = serve(files)
    server.change_limits(max_blksize=700)
    assert server.limits == ServerConfig().adjustable | {"max_blksize": 700}
    with WirePeer(server.address) as peer:

        def granted() -> dict[str, str]:
            peer.rrq("file", blksize=1024, windowsize=4)
            answer = peer.receive()
            assert isinstance(answer, OptionAck)
            peer.send(Error(0, ""))
            return dict(answer.options)

        assert granted() == {"blksize": "700", "windowsize": "4"}


def test_a_child_that_is_born_later_knows_the_new_limits(
    files: Directory, serve: Serve, witness: Witness
) -> None:
    server = serve(files, engine=ProcessEngine(warm=1, recycle=1))
    server.change_limits(max_blksize=700)
    for _ in range(4):
        with WirePeer(server.address) as peer:
            assert peer.read("file", blksize=1024) == CONTENT
    last = witness.wait(TransferStarted, 4)
    assert last.granted == {"blksize": "700"}


def test_fewer_transfers_may_run_in_processes(files: Directory, serve: Serve) -> None:
    server = serve(files, engine=ProcessEngine(children=4, warm=4))
    server.change_limits(max_transfers=1)
    with WirePeer(server.address) as first, WirePeer(server.address) as second:
        first.rrq("file")
        assert isinstance(first.receive(), Data)
        second.rrq("file")
        assert second.silent(0.2)
        first.send(Error(0, ""))
        assert isinstance(second.receive(), Data)
        second.send(Error(0, ""))


@everywhere
@pytest.mark.parametrize(
    "limits", [{"max_transfers": 0}, {"max_blksize": 7}, {"max_windowsize": 65536}]
)
def test_a_limit_out_of_range_changes_nothing(
    files: Directory, serve: Serve, limits: dict[str, int]
) -> None:
    server = serve(files)
    before = server.limits
    with pytest.raises(ValueError, match="max_"):
        server.change_limits(**limits)
    assert server.limits == before


def test_limits_stay_over_a_restart(files: Directory) -> None:
    server = Server(files)
    server.change_limits(max_blksize=700)
    with server, WirePeer(server.address) as peer:
        peer.rrq("file", blksize=1024)
        assert peer.receive() == OptionAck({"blksize": "700"})
        peer.send(Error(0, ""))


def test_an_engine_has_a_name(files: Directory) -> None:
    assert Server(files).engine_name == "threads"
    assert Server(files, engine=ProcessEngine()).engine_name == "processes"
    assert Supervisor(files).engine_name == "workers"


def test_a_worker_that_is_replaced_knows_what_the_others_know(
    files: Directory, witness: Witness
) -> None:
    """A pause and new limits outlive the workers that were told of them."""
    with Supervisor(files, workers=1, observers=[witness]) as server:
        assert server.state == "serving"
        server.pause()
        server.change_limits(max_blksize=700)
        assert server.state == "draining"
        [before] = server.processes
        for worker in list(server._workers):
            worker.process.kill()
        assert eventually(lambda: server.processes not in ([], [before]))
        assert eventually(lambda: _is_paused(server))
        with WirePeer(server.address) as peer:
            server.resume()
            assert _takes_requests(peer)
            peer.rrq("file", blksize=1024)
            assert peer.receive() == OptionAck({"blksize": "700"})
            peer.send(Error(0, ""))
    assert server.state == "stopping"


def test_workers_have_obeyed_when_the_order_returns(files: Directory) -> None:
    with Supervisor(files, workers=2) as server:
        peers = [WirePeer(server.address) for _ in range(8)]
        for order, taken in [(server.pause, False), (server.resume, True)] * 25:
            order()
            assert [_takes_requests(peer) for peer in peers] == [taken] * len(peers)
        for peer in peers:
            peer.close()


def test_a_worker_that_is_stuck_or_dead_is_not_waited_for_for_ever(
    files: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    with Supervisor(files, workers=2) as server:
        stuck, _ = server.processes
        os.kill(stuck, signal.SIGSTOP)
        server.pause()
        assert "not all workers have obeyed 'pause' yet" in caplog.text
        caplog.clear()
        threading.Timer(0.1, os.kill, (stuck, signal.SIGKILL)).start()
        server.resume()
        assert "obeyed" not in caplog.text


def test_an_observer_gives_orders_without_waiting_for_itself(files: Directory) -> None:
    paused = threading.Event()

    def pause(event: Event) -> None:
        server.pause()
        paused.set()

    server = Supervisor(files, workers=1, observers=[pause])
    with server, WirePeer(server.address) as peer:
        assert peer.read("file") == CONTENT
        assert paused.wait(PATIENCE)
        assert eventually(lambda: not _takes_requests(peer))


def refusals(witness: Witness) -> list[int]:
    """The codes that refused requests were answered with."""
    return [event.error.code for event in witness.all(RequestRefused)]


def _takes_requests(peer: WirePeer) -> bool:
    """Whether a request is looked at; the answer of a server that is paused says that it is."""
    peer.rrq("missing")
    answer = peer.receive()
    if error_code(answer) == ErrorCode.FILE_NOT_FOUND:
        return True
    assert answer == DRAINING
    return False


def _is_paused(server: Supervisor) -> bool:
    """Whether somebody listens, and takes no requests."""
    with WirePeer(server.address) as peer:
        peer.rrq("missing")
        return not peer.silent(0.1) and peer.receive() == DRAINING
