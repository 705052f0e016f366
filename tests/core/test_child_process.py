"""Two ends of a pipe: what is sent arrives, errors keep their class, and what dies says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from halfwatt.core.child_process import ChildDied, ChildProcess, error_of_record, error_record, module_command
from halfwatt.core.errors import BadInput, EnvironmentFault, ModelError
from halfwatt.core.settings import Access

CHILD = """
import json, sys, time
from halfwatt.core.child_process import error_record, protocol_stream
from halfwatt.core.errors import ModelError
out = protocol_stream()
print("chatter of a library")
for line in sys.stdin:
    order = json.loads(line)
    if order["device"] == "broken":
        print(json.dumps(error_record(ModelError("no template", hint="give one"))), file=out)
    elif order["device"] == "slow":
        time.sleep(60)
    else:
        print(json.dumps({"heard": order["device"]}), file=out)
"""


@pytest.fixture
def child() -> Iterator[ChildProcess]:
    with ChildProcess((sys.executable, "-c", CHILD), "echo") as process:
        yield process


def test_records_go_there_and_answers_come_back(child: ChildProcess) -> None:
    for device in ("cpu", "äöü\n"):
        child.send(Access(device=device))
        assert child.receive(timeout_s=30) == {"heard": device}


def test_an_error_is_again_what_it_was(child: ChildProcess) -> None:
    child.send(Access(device="broken"))
    with pytest.raises(ModelError, match=r"^no template; give one$"):
        child.receive()


def test_one_that_does_not_answer_or_ended_is_named(child: ChildProcess) -> None:
    child.send(Access(device="slow"))
    with pytest.raises(ChildDied, match="the echo process did not answer within 0 s"):
        child.receive(timeout_s=0.2)
    os.kill(child.process.pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match=r"the echo process ended with code -9 \(found: chatter.*out of memory"):
        child.receive()
    with pytest.raises(ChildDied, match="code -9"):
        child.send(Access())
    child.close(patience_s=0.1)
    child.close()


def test_one_that_does_not_leave_is_killed() -> None:
    stubborn = ChildProcess((sys.executable, "-c", "import time; time.sleep(60)"), "stubborn")
    stubborn.close(patience_s=0.1)
    assert stubborn.process.returncode == -signal.SIGKILL


def test_an_unknown_kind_of_error_is_a_fault_of_the_environment() -> None:
    assert type(error_of_record(error_record(BadInput("x")))) is BadInput
    assert type(error_of_record(error_record(RuntimeError("x")))) is EnvironmentFault
    assert str(error_of_record(error_record(RuntimeError()))) == "RuntimeError()"


def test_modules_in_the_working_folder_are_not_imported(tmp_path: Path) -> None:
    """A user's own random.py beside the dialogues would be imported by torch."""
    (tmp_path / "random.py").write_text("raise SystemExit('a stranger ran')")
    module = "halfwatt.runtimes.serving_process"
    done = subprocess.run(module_command(module), cwd=tmp_path, input="", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    plain = [part for part in module_command(module) if part != "-P"]
    done = subprocess.run(plain, cwd=tmp_path, input="", capture_output=True, text=True, check=False)
    assert "a stranger ran" in done.stderr, "without -P it is"


BUSY = """
import sys
from halfwatt.core.child_process import orders
next(orders(sys.stdin))
print('{"ok": 1}', flush=True)
while True:
    pass
"""
PARENT = f"""
import sys, time
from halfwatt.core.child_process import ChildProcess
child = ChildProcess((sys.executable, "-c", {BUSY!r}), "busy")
child.send(1)
child.receive()
print(child.process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_at_work_ends_soon_after_a_parent_that_was_ended(signal_: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.send_signal(signal_)
    parent.wait()
    parent.stdout.close()
    ended, _ = psutil.wait_procs([child], timeout=30)
    assert ended or child.status() == psutil.STATUS_ZOMBIE
