"""Finding and ending the processes of a server."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tools.installer import processes
from tools.installer.processes import Process


def process(pid: int, parent: int, group: int = 1) -> Process:
    return Process(pid, parent, group, "S", 0)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_this_process_can_be_read() -> None:
    me = processes.read(os.getpid())
    assert me is not None
    assert me.parent == os.getppid()
    assert me.group == os.getpgid(0)
    assert processes.is_alive(me)


def test_the_family_is_what_is_below_and_what_shares_the_group() -> None:
    everyone = [
        process(10, 1),
        process(11, 10),
        process(12, 11),
        process(13, 1, group=10),
        process(14, 13, group=14),
    ]
    others = [process(20, 1), process(21, 20)]
    found = processes.family(10, {one.pid: one for one in everyone + others})
    assert {one.pid for one in found} == {11, 12, 13, 14}


def test_the_family_is_known_after_the_root_is_gone() -> None:
    left = [process(13, 1, group=10), process(14, 13, group=14)]
    assert {one.pid for one in processes.family(10, {one.pid: one for one in left})} == {13, 14}


def test_an_id_that_was_given_to_another_process_is_not_alive() -> None:
    me = processes.read(os.getpid())
    assert me is not None
    assert not processes.is_alive(Process(me.pid, me.parent, me.group, me.state, me.start - 1))


def test_one_that_does_not_listen_is_ended_by_force() -> None:
    child = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()
    found = processes.read(child.pid)
    assert found is not None
    assert processes.end([found], grace_seconds=0.3) == [child.pid]
    assert not processes.is_alive(found)
    child.wait()


def test_one_that_ends_by_itself_is_not_asked() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    found = processes.read(child.pid)
    assert found is not None
    assert child.stdin is not None
    threading.Timer(0.2, child.stdin.close).start()
    assert processes.end([found], grace_seconds=5.0, wait_seconds=60.0) == []
    child.wait()


def test_a_name_with_brackets_and_spaces_is_read(tmp_path: Path) -> None:
    script = tmp_path / "a) b (c"
    script.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(script), "30"])
    try:
        assert eventually(lambda: (found := processes.read(child.pid)) is not None and found.parent == os.getpid())
    finally:
        child.kill()
        child.wait()


def test_a_child_ends_with_its_parent_even_when_that_is_killed() -> None:
    code = (
        "import subprocess, time; from tools.installer import processes\n"
        "child = subprocess.Popen(['sleep', '60'], preexec_fn=processes.end_with_parent())\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = processes.read(int(parent.stdout.readline()))
    assert child is not None
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert eventually(lambda: not processes.is_alive(child))


def test_orphans_come_to_the_process_that_adopts_them() -> None:
    code = (
        "import os, subprocess; from tools.installer import processes\n"
        "processes.adopt_orphans()\n"
        "out = subprocess.run(['sh', '-c', 'setsid sleep 60 >/dev/null & echo $!'], stdout=subprocess.PIPE).stdout\n"
        "found = processes.family(os.getpid(), processes.snapshot())\n"
        "assert int(out) in {one.pid for one in found}, (out, found)\n"
        "print(processes.end(found, 5.0) == [int(out)])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout == "True\n"


def test_an_orphan_that_ended_by_itself_does_not_stay_as_a_zombie() -> None:
    code = (
        "import os, subprocess, time; from tools.installer import processes\n"
        "processes.adopt_orphans()\n"
        "out = subprocess.run(['sh', '-c', 'sleep 0.2 >/dev/null & echo $!'], stdout=subprocess.PIPE).stdout\n"
        "while processes.read(int(out)).state != 'Z': time.sleep(0.02)\n"
        "assert processes.end(processes.family(os.getpid(), processes.snapshot()), 1.0) == []\n"
        "print(processes.read(int(out)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout == "None\n"
