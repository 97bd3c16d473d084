"""What doors say: a line at once, none too late, none afterwards."""

import contextlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.common.saying import Progress, doing, heard, say
from pipeline.line.steps import STAGES
from tests.e2e.doors import REPOSITORY, command
from tests.test_architecture import HEAVY


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [re.sub(r"^\[[\d:]+\] ", "", line) for line in capsys.readouterr().out.splitlines()]


def test_no_silence_is_longer_than_it_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    with heard("train", every=0.2):
        doing("starting 2 workers")
        time.sleep(0.5)
        say("train: something of its own")
        doing("loading the model")
        time.sleep(0.3)
    assert said(capsys) == [
        *["train: starting 2 workers, 0 s so far"] * 2,
        "train: something of its own",
        "train: loading the model, 0 s so far",
    ]


def test_nothing_is_said_after_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (None, RuntimeError(), KeyboardInterrupt()):
        with contextlib.suppress(RuntimeError, KeyboardInterrupt), heard("judge", every=0.05):
            time.sleep(0.06)
            if error:
                raise error
        before = said(capsys)
        time.sleep(0.2)
        assert before and said(capsys) == []


def test_what_is_said_often_enough_needs_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    with heard("train", every=1.5):
        progress = Progress("train", 20, "steps", every=1.5)
        for _ in range(20):
            time.sleep(0.1)
            progress.add(1)
    lines = said(capsys)
    assert lines and all(re.match(r"train: \d+/20 steps, ", line) for line in lines)
    assert lines[-1].startswith("train: 20/20 steps") and "0 s left" in lines[-1]


def test_parts_that_end_together_are_not_waited_for_twice() -> None:
    """Two actors, four parts of 40 s each: when the third is done, the fourth is all but done, too."""
    alone, two = Progress("reference", 4, "parts", 10.0), Progress("reference", 4, "parts", 10.0, lanes=2)
    alone.done = two.done = 3
    assert alone.left(80.0) == pytest.approx(80 / 3)
    assert two.left(80.0) == pytest.approx(0.5 * 80 / 3.5)
    assert two.left(0.0) == 0.0 and Progress("reference", 4, "parts", 10.0).left(1.0) == float("inf")


@pytest.mark.parametrize("stage", ["run", "prepare", "train", "judge", "export", "fetch"])
def test_the_first_line_comes_at_once(stage: str, tmp_path: Path) -> None:
    """Before a plan is made, for which model and data are opened: here a model that is not there."""
    more = {"export": ("--to", str(tmp_path)), "fetch": ("--to", str(tmp_path))}.get(stage, ())
    given = ("model.source=/nowhere/at-all", "resources.judge_endpoint.url=http://name:key@host")
    done = subprocess.run(
        command(stage, *given, *more), cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert re.sub(r"^\[[\d:]+\] ", "", done.stdout) == f"{stage}: planning configs/smoke.yaml {given[0]}\n"


def test_a_first_line_within_a_second_and_before_what_is_heavy() -> None:
    """Every door that makes something. A second of processor time: what else the machine is at takes none of it."""
    doors = ["run", *STAGES, "study", "rounds", "sweep", "export", "fetch"]
    code = f"""
import io, runpy, sys, time
class First(io.TextIOWrapper):
    def write(self, text):
        spent = time.process_time() - began
        heavy = [name for name in {HEAVY!r} if name in sys.modules]
        print(door, text.strip() or "nothing", spent < 1.0 or spent, heavy, file=sys.__stdout__, sep="|")
        raise SystemExit
for door in {doors!r}:
    files = {{"study": "study-noise", "rounds": "rounds", "sweep": "bench/noise"}}
    recipe = files.get(door, "smoke")
    sys.argv = [door, "--config", f"configs/{{recipe}}.yaml"]
    sys.argv += ["--to", "/nowhere"] if door in ("export", "fetch") else []
    sys.argv += ["model.source=/nowhere"]
    began = 0.0 if door == "run" else time.process_time()  # of the first one, since the process began
    sys.stdout = First(io.BytesIO(), "utf-8")
    try:
        runpy.run_module("jobs." + door, run_name="__main__", alter_sys=True)
    except SystemExit:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    said = [line.split("|") for line in done.stdout.splitlines()]
    assert [door for door, *_ in said] == doors, done.stderr
    for door, line, *rest in said:
        assert re.fullmatch(rf"\[[\d:]+\] {door}: planning configs/.*", line) and rest == ["True", "[]"], (
            door,
            line,
            rest,
        )
