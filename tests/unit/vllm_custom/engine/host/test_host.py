"""Fronts and the host of their engine: who starts it, who may use it, and what is left when any of them is killed."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.processes import is_gone, wait_until
from vllm_custom.engine.host import (
    Connection,
    HostLostError,
    Offer,
    Share,
    config_of,
    end_others,
    folders,
    join,
    join_as_guest,
    offer,
    offers,
)
from vllm_custom.engine.host.board import SEQUENCES, Board, Row
from vllm_custom.engine.host.folders import EngineName, runtime_folder
from vllm_custom.engine.host.messages import FrontLost, Fronts, Numbered
from vllm_custom.engine.statistics import Turn
from vllm_custom.errors import ConfigError

pytestmark = pytest.mark.slow

PROGRAM = "tests.support.fake_core_host"
# A front in a process of its own: it attaches, says so, and lives until it is told to leave, or is killed.
FRONT = """
import os, sys, time
from vllm_custom.engine.host import join
from vllm_custom.engine.host.folders import EngineName
server, name = int(sys.argv[1]), sys.argv[2]
connection = join(EngineName("model", "1", "MODEL 0", server, ""), name, {program!r}, 1)
slot = connection.attach(b"0", log_stats=True, fronts=2, environment={{}})
print(slot.index, flush=True)
sys.stdin.readline()
connection.leave()
"""


class Setting:
    """A server's process id, and what hosts have noted."""

    def __init__(self, log: Path, server: int) -> None:
        self.log = log
        self.server = server
        self.joined: list[Connection] = []

    def name(self, **changes: str) -> EngineName:
        values = {"model": "model", "version": "1", "devices": "MODEL 0", "files": ""} | changes
        return EngineName(server=self.server, **values)

    def join(self, front: str = "model_0_0", grace: int = 1, generation: int = 0, **changes: str) -> Connection:
        connection = join(self.name(**changes), front, PROGRAM, grace, generation)
        self.joined.append(connection)
        return connection

    def attach(self, front: str = "model_0_0", config: bytes = b"0", grace: int = 1) -> Connection:
        connection = self.join(front, grace)
        attach(connection, config)
        return connection

    def noted(self, word: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.split()[0] == word]

    def engine(self) -> int:
        return int(self.noted("pid")[-1].split()[1])


def attach(connection: Connection, config: bytes = b"0") -> int:
    return connection.attach(config, log_stats=True, fronts=2, environment={"FAKE_DEVICES": "3"}).index


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    folder = Path(f"/dev/shm/t{time.monotonic_ns() % 10**9}")
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("FAKE_CORE_LOG", str(tmp_path / "log"))
    with subprocess.Popen(["sleep", "1000"]) as server:
        made = Setting(tmp_path / "log", server.pid)
        yield made
        for connection in made.joined:
            connection.leave()
        # The host ends its engine. Where the server is killed first its guard does, three seconds later.
        wait_until(lambda: not list(folder.iterdir()))
        server.kill()
    folder.rmdir()
    for process in (int(line.split()[1]) for line in made.noted("pid")):
        wait_until(lambda process=process: is_gone(process))


def front(setting: Setting, name: str = "model_0_1") -> subprocess.Popen[str]:
    """One in a process of its own, attached."""
    command = [sys.executable, "-c", FRONT.format(program=PROGRAM), str(setting.server), name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline().strip()
    return process


def test_fronts_that_start_at_once_share_one_engine(setting: Setting) -> None:
    with ThreadPoolExecutor(3) as pool:
        fronts = list(pool.map(lambda number: setting.attach(f"model_0_{number}", b"0.3"), range(3)))
    assert sorted(front.client for front in fronts) == [1, 2, 3]
    assert setting.noted("start") == ["start 0.3 True 2 3"]
    for front in fronts:
        assert oct(front.folder.stat().st_mode)[-3:] == "700"


@pytest.mark.parametrize("change", ["model", "version", "devices", "files"])
def test_another_model_has_another_engine(setting: Setting, change: str) -> None:
    setting.attach()
    attach(setting.join(**{change: "2"}))
    assert len(setting.noted("start")) == 2


@pytest.mark.parametrize(("config", "reason"), [(b"bad", "no weights"), (b"worse", "no such module")])
def test_an_engine_that_does_not_start_is_told_to_all_who_wait(setting: Setting, config: bytes, reason: str) -> None:
    first, second = setting.join(), setting.join("model_0_1")
    for connection in (first, second):
        with pytest.raises(ConfigError, match=f"{reason}|ended while it was started"):
            attach(connection, config)


def test_a_front_that_leaves_frees_no_place_and_the_last_one_ends_the_engine(setting: Setting) -> None:
    first, second = setting.attach(), setting.attach("model_0_1")
    first.leave()
    third = setting.attach("model_0_2")
    assert third.client == 3
    with pytest.raises(ConfigError, match="as many fronts as it can"):
        attach(setting.join("model_0_3"))
    second.leave()
    assert not is_gone(setting.engine())
    for connection in setting.joined:
        connection.leave()
    wait_until(lambda: is_gone(setting.engine()))
    assert setting.noted("stop") == ["stop"]


def test_a_front_that_comes_within_the_grace_finds_the_engine(setting: Setting) -> None:
    setting.attach(grace=5).leave()
    again = setting.join(grace=5)  # joined, which holds it before it is attached
    assert attach(again) == 2
    assert len(setting.noted("start")) == 1
    os.kill(setting.server, signal.SIGKILL)


def test_a_killed_front_is_noticed_its_requests_end_and_its_share_is_back(setting: Setting) -> None:
    lost: list[object] = []
    connection = setting.attach()
    connection.when_front_lost(lambda news: lost.append(news))
    other = front(setting)
    board = Board(connection.folder / "board")
    assert Row(board, 2, SEQUENCES).take(5, 0)
    began = time.monotonic()
    other.kill()
    other.communicate()
    wait_until(lambda: lost == [FrontLost("model_0_1", True)])
    assert time.monotonic() - began < 2
    wait_until(lambda: setting.noted("abort")[:1] == ["abort 2"])
    assert board.total(SEQUENCES) == 0
    assert not is_gone(setting.engine())
    board.close()


def test_fronts_are_told_how_many_there_are_and_the_first_what_was_lost(setting: Setting) -> None:
    first = setting.attach("first")
    told: list[Fronts] = []
    first.when_fronts_change(told.append)  # also what was said before
    process = front(setting, "second")
    wait_until(lambda: told == [Fronts(1, 0, 0), Fronts(2, 0, 0)])
    process.kill()
    process.communicate()
    wait_until(lambda: told[2:] == [Fronts(1, 1, 0)])
    second = setting.attach("second")
    wait_until(lambda: told[3:] == [Fronts(2, 0, 1)])
    of_second: list[Fronts] = []
    second.when_fronts_change(of_second.append)
    first.leave()
    wait_until(lambda: of_second[-1:] == [Fronts(1, 0, 0)])
    assert {(news.lost, news.replaced) for news in of_second} == {(0, 0)}


def test_fronts_that_others_have_replaced_are_told_once_these_serve(setting: Setting) -> None:
    old, new, as_new = setting.join("m_0_0"), setting.join("m_0_0", generation=1), setting.join("m_0_1", generation=1)
    later = setting.join("m_0_0", generation=2)
    told: list[str] = []
    for name, connection in {"old": old, "new": new, "as_new": as_new, "later": later}.items():
        connection.when_retired(functools.partial(told.append, name))
    as_new.serving()
    wait_until(lambda: told == ["old"])
    for connection in (new, later):
        assert isinstance(connection.number("wait for what was said before", 1).result(10), Numbered)
    assert told == ["old"]


def test_an_engine_of_other_files_ends_once_its_requests_have(setting: Setting) -> None:
    before, other_version = setting.attach(), setting.join(version="2")
    told: list[str] = []
    before.when_replaced(functools.partial(told.append, "before"))
    other_version.when_replaced(functools.partial(told.append, "other version"))
    board = Board(before.folder / "board")
    request = Row(board, before.client, SEQUENCES)
    assert request.take(1, 0)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(end_others, setting.name(files="changed"))
        wait_until(lambda: told == ["before"])
        assert not is_gone(setting.engine())
        assert not ended.done()
        request.give_back(1)
        ended.result(20)
    assert is_gone(setting.engine())
    assert not before.folder.exists()
    assert isinstance(other_version.number("it is still there", 1).result(10), Numbered)
    board.close()


def test_an_engine_of_the_same_files_stays(setting: Setting) -> None:
    connection = setting.attach()
    end_others(setting.name())
    assert not is_gone(setting.engine())
    assert isinstance(connection.number("it is still there", 1).result(10), Numbered)


def test_a_folder_that_was_left_behind_does_not_hold_up_the_engine_of_other_files(setting: Setting) -> None:
    """Its host was killed together with what looks after it."""
    name = setting.name(files="of an engine that was killed")
    with folders.locked() as parent:
        (parent / name.folder).mkdir()
        folders.note(parent / name.folder, name)
    end_others(setting.name())
    assert not (parent / name.folder).exists()
    parent.rmdir()


def test_an_engine_whose_requests_do_not_end_ends_all_the_same(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LAST_REQUESTS_SECONDS", "0.5")
    connection = setting.attach()
    board = Board(connection.folder / "board")
    assert Row(board, connection.client, SEQUENCES).take(1, 0)
    end_others(setting.name(files="changed"))
    assert is_gone(setting.engine())
    board.close()


def test_a_front_that_leaves_is_not_lost(setting: Setting) -> None:
    lost: list[object] = []
    connection = setting.attach()
    connection.when_front_lost(lambda news: lost.append(news))
    front(setting).communicate("leave\n")
    assert isinstance(connection.number("wait for what was said before", 1).result(10), Numbered)
    assert lost == []


def test_one_of_those_that_are_left_is_to_act(setting: Setting) -> None:
    told: list[object] = []
    first, second = setting.attach("first"), setting.attach("second")
    process = front(setting, "third")
    process.kill()
    process.communicate()
    for connection in (first, second):
        assert isinstance(connection.number("wait for what was said before", 1).result(10), Numbered)
    wait_until(lambda: len(setting.noted("abort")) > 0)
    for connection in (first, second):
        connection.when_front_lost(told.append)  # also what was said before
    wait_until(lambda: told == [FrontLost("third", True), FrontLost("third", False)])


def test_numbers_are_the_same_for_all_fronts_and_differ_for_each_key(setting: Setting) -> None:
    fronts = [setting.attach(), setting.attach("model_0_1")]
    asked = [front.number(key, 3).result(10) for key in ("caps", "zh", "caps") for front in fronts]
    assert [(answer.key, answer.number) for answer in asked if isinstance(answer, Numbered)] == [
        ("caps", 3),
        ("caps", 3),
        ("zh", 4),
        ("zh", 4),
        ("caps", 3),
        ("caps", 3),
    ]


@pytest.mark.parametrize("who", ["engine", "host", "guard", "server"])
def test_whoever_is_killed_fronts_know_that_the_engine_is_gone(setting: Setting, who: str) -> None:
    connection = setting.attach()
    gone = threading.Event()
    connection.when_lost(gone.set)
    host = psutil.Process(setting.engine()).parent()
    assert host is not None
    victims = {"engine": setting.engine(), "host": host.pid, "guard": host.ppid(), "server": setting.server}
    os.kill(victims[who], signal.SIGKILL)
    assert gone.wait(20)
    with pytest.raises(HostLostError):
        connection.number("caps", 1).result(10)
    wait_until(lambda: is_gone(setting.engine()))
    if who != "server":  # and the next front starts another
        setting.attach()
        assert len(setting.noted("start")) == 2


def test_what_a_killed_engine_left_is_removed_by_the_next_that_starts(setting: Setting) -> None:
    """A living engine's folder stays, whatever its name."""
    living = setting.attach()
    deserted = living.folder.parent / "other-1-0123456789"
    deserted.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(deserted / "control"))
    (living.folder.parent / "empty-1-0123456789").mkdir()
    second = setting.join(model="second")
    assert sorted(living.folder.parent.iterdir()) == sorted([living.folder, second.folder])
    attach(second)


def test_a_host_that_takes_no_connections_holds_up_nobody_else(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is stopped, with as many waiting as the kernel keeps."""
    monkeypatch.setattr("vllm_custom.engine.host.finding._PATIENCE_SECONDS", 0.5)
    stopped = setting.attach()
    host = psutil.Process(setting.engine()).parent()
    assert host is not None
    host.suspend()
    waiting: list[socket.socket] = []
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(str(stopped.folder / "control"))
        with pytest.raises(ConfigError, match="the host of the engine takes no connections"):
            setting.join("model_0_1")
        attach(setting.join(model="second"))
        assert stopped.folder.is_dir()
    finally:
        host.resume()
        for each in waiting:
            each.close()


def test_a_folder_that_others_may_enter_is_not_used(setting: Setting) -> None:
    folder = runtime_folder()
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="mode 0700"):
        setting.join()
    folder.rmdir()


def test_a_temporary_folder_that_cannot_be_written_is_named(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    with pytest.raises(ConfigError, match="TMPDIR"):
        setting.join()


def offered(connection: Connection, server: int) -> Offer:
    """An offer of the model, made in the name of an instance."""
    made = Offer("model", "1", server, 2, "{}", "/models/model/1", "/backends/vllm_custom", None)
    offer(connection.folder, made)
    return made


def guest(setting: Setting, connection: Connection) -> Connection:
    """One in this process, attached."""
    found = join_as_guest(connection.folder, "a guest")
    setting.joined.append(found)
    attach(found, config_of(connection.folder))
    return found


def test_a_guest_finds_what_is_offered_and_uses_the_engine(setting: Setting) -> None:
    instance = setting.attach(config=b"0.0")
    assert list(offers(setting.server)) == []
    made = offered(instance, setting.server)
    assert list(offers(setting.server)) == list(offers()) == [(instance.folder, made)]
    assert list(offers(os.getpid())) == list(offers(os.getppid())) == list(offers()), "above the server"
    assert list(offers(setting.server + 1)) == []
    assert guest(setting, instance).client == 2
    assert setting.noted("start") == ["start 0.0 True 2 3"]


def test_a_guest_does_not_keep_the_engine_and_is_not_asked_for_any_more(setting: Setting) -> None:
    instance = setting.attach(grace=1)
    offered(instance, setting.server)
    lost = threading.Event()
    guest(setting, instance).when_lost(lost.set)
    instance.leave()
    wait_until(lambda: list(offers()) == [])
    assert not is_gone(setting.engine())
    assert lost.wait(10)
    wait_until(lambda: is_gone(setting.engine()))
    with pytest.raises(OSError, match=instance.folder.name):
        join_as_guest(instance.folder, "late")


def test_an_instance_that_comes_again_keeps_the_engine_for_its_guests(setting: Setting) -> None:
    instance = setting.attach(grace=1)
    offered(instance, setting.server)
    other = guest(setting, instance)
    instance.leave()
    wait_until(lambda: list(offers()) == [])
    again = setting.attach("model_0_1", grace=1)
    made = offered(again, setting.server)
    time.sleep(1.2)
    assert not is_gone(setting.engine())
    assert isinstance(other.number("still there", 1).result(10), Numbered)
    assert list(offers()) == [(again.folder, made)]


def test_a_guest_that_is_killed_is_no_lost_instance(setting: Setting) -> None:
    lost: list[object] = []
    instance = setting.attach()
    instance.when_front_lost(lost.append)
    board = Board(instance.folder / "board")
    other = guest(setting, instance)
    assert Row(board, other.client, SEQUENCES).take(5, 0)
    other._socket.shutdown(socket.SHUT_RDWR)  # as the kernel does for one that was killed
    wait_until(lambda: setting.noted("abort")[:1] == ["abort 2"])
    assert isinstance(instance.number("wait for what was said before", 1).result(10), Numbered)
    assert lost == []
    assert board.total(SEQUENCES) == 0
    board.close()


def test_a_guest_is_not_the_one_to_act_for_a_lost_instance(setting: Setting) -> None:
    told: list[tuple[str, object]] = []
    first = setting.attach("first")
    visitor = guest(setting, first)
    process = front(setting, "other")
    process.kill()
    process.communicate()
    visitor.when_front_lost(lambda news: told.append(("guest", news)))
    first.when_front_lost(lambda news: told.append(("instance", news)))
    wait_until(lambda: told == [("instance", FrontLost("other", True))])


def test_an_engine_that_stands_still_is_ended(setting: Setting) -> None:
    connection = join(setting.name(), "model_0_0", PROGRAM, 1, stall_seconds=1)
    setting.joined.append(connection)
    attach(connection)
    gone = threading.Event()
    connection.when_lost(gone.set)
    os.kill(setting.engine(), signal.SIGSTOP)
    assert gone.wait(20)
    wait_until(lambda: is_gone(setting.engine()))


def test_one_that_steps_is_not(setting: Setting) -> None:
    connection = join(setting.name(), "model_0_0", PROGRAM, 1, stall_seconds=1)
    setting.joined.append(connection)
    attach(connection)
    time.sleep(2.5)  # two looks
    assert isinstance(connection.number("still there", 1).result(10), Numbered)


def test_fronts_whose_engine_has_died_share_the_next_one_and_keep_their_counts(setting: Setting) -> None:
    """One of them starts the host; what each had counted is counted there, and one notes the death for all."""
    fronts = [setting.attach(f"model_0_{number}") for number in range(2)]
    shares = [Share(front, 2) for front in fronts]
    assert shares[0].sequences.take(3, 0)
    assert shares[1].sequences.take(1, 0)
    gone = [threading.Event() for _ in fronts]
    for front, event in zip(fronts, gone, strict=True):
        front.when_lost(event.set)
    os.kill(setting.engine(), signal.SIGKILL)
    assert all(event.wait(20) for event in gone)
    assert sorted(share.is_first_to_note_the_end() for share in shares) == [False, True]
    with ThreadPoolExecutor(2) as pool:
        again = list(pool.map(lambda number: setting.attach(f"model_0_{number}"), range(2)))
    assert len(setting.noted("start")) == 2
    assert sorted(front.started for front in again) == [False, True]
    for share, front in zip(shares, again, strict=True):
        share.move(front)
    assert shares[1].sequences.total == 4
    shares[0].sequences.give_back(3)
    assert not shares[1].sequences.take(2, 2)
    assert shares[1].sequences.take(1, 2)
    assert [share.is_first_to_note_the_end() for share in shares] == [True, False], "of the new engine"
    assert [share.newest.turn(told) for share, told in zip(shares, (2, 1), strict=True)] == [Turn.MINE, Turn.NOT_MINE]
    for share in shares:
        share.close()
