"""What every door shares, without a stage: what is printed cannot act on a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.e2e.doors import REPOSITORY, command

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31mred\b\r\u202egnp.exe \ud800 é"


def in_a_terminal(arguments: list[str]) -> tuple[int, bytes]:
    """Exit status and every byte that reached a pseudo-terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        arguments, cwd=REPOSITORY, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            said += chunk
    os.close(ours)
    return process.returncode, said


def test_nothing_that_is_quoted_acts_on_a_terminal() -> None:
    code = f"from jobs.common.saying import say, tell; say({HOSTILE!r}); tell({HOSTILE!r})"
    status, said = in_a_terminal([sys.executable, "-c", code])
    assert status == 0
    assert not [byte for byte in said.replace(b"\r\n", b"\n") if byte < 32 and byte != 10]
    text = said.decode()
    assert text.count(r"\x1b[2J\x1b]0;owned\x07\x9b31mred\x08\r\u202egnp.exe \ud800 é") == 2


def test_a_hostile_file_is_named_harmlessly(tmp_path: Path) -> None:
    """A value of the user's, and a fault that nobody foresaw: the message and its traceback."""
    status, said = in_a_terminal(command("prepare", f"data.source={tmp_path}/\x1b]0;owned\x07.jsonl"))
    assert status == 2 and rb"\x1b]0;owned\x07.jsonl" in said and b"\x1b" not in said
    code = f"from jobs.common.stage import reported\nwith reported(): raise RuntimeError({HOSTILE!r})"
    status, said = in_a_terminal([sys.executable, "-c", code])
    assert status == 1 and b"failed unexpectedly" in said and b"Traceback" in said
    assert rb"\x1b]0;owned" in said and b"\x1b" not in said


def test_a_reader_that_leaves_ends_the_door_quietly() -> None:
    shell = (
        f"{sys.executable} -c 'from jobs.common.saying import tell\nfor i in range(100000): tell(\"line\")' | head -1; "
    )
    done = subprocess.run(
        ["bash", "-c", f"{shell} echo ${{PIPESTATUS[0]}}"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "line\n141\n" and done.stderr == ""
