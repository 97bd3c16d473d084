"""All doors under one name, and the words that a shell completes: the doors' own, their parsers' and the settings'."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from jobs.__main__ import doors, overview
from jobs.common.completion import complete, script
from jobs.common.provenance import git_commit
from tests.e2e.doors import REPOSITORY
from tests.jobs.test_doors import in_a_terminal


def called(*words: str, within: Path = REPOSITORY, script: Sequence[str] = ("-m", "jobs")) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, *script, *words], cwd=within, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_same_doors(tmp_path: Path) -> None:
    """The console script of the package, from another directory: a door's own help, errors, status and output."""
    name = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]["widemargin"]
    module, _, function = name.partition(":")
    assert callable(getattr(import_module(module), function))
    entry = (
        "-c",
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from {module} import {function}; {function}()",
    )
    status, told, _ = called("fit", "--help", within=tmp_path, script=entry)
    assert status == 0 and told.startswith("usage: widemargin fit ") and "--gpus" in told
    status, _, wrong = called("status", "--config", "none.yaml", within=tmp_path, script=entry)
    assert status == 2 and "none.yaml: there is no such file" in wrong and "Traceback" not in wrong
    assert called("help", "fit", script=entry)[1] == called("fit", "--help", script=entry)[1]
    assert called("--version", script=entry)[1].startswith("widemargin ")
    status, _, wrong = called("trian", script=entry)
    assert status == 2 and "did you mean train?" in wrong
    config = ("--config", "smoke", "model.source=verifiable")
    alone, together = called(*config, script=("-m", "jobs.run")), called("run", *config, script=entry)
    assert alone[0] == together[0] == 2 and alone[2] == together[2] != ""


def test_every_door_has_a_line() -> None:
    lines = [line.split() for line in overview().splitlines() if line.startswith("  ")]
    assert sorted(line[0] for line in lines) == doors() and all(len(line) > 3 for line in lines)
    assert called()[:2] == (0, overview() + "\n")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("widemargin pr", ["prepare ", "prune "]),
        ("widemargin run --unt", ["--until "]),
        ("widemargin run --until tr", ["train "]),
        ("widemargin fit --config papers/tulu3-7", ["papers/tulu3-70b "]),
        ("widemargin fit --config configs/quickstart-o", ["configs/quickstart-onpolicy.yaml "]),
        ("widemargin run --config x --from train tra", ["train."]),
        ("widemargin run train.lora.r", ["train.lora.rank="]),
        ("widemargin run model.dtype=bf", ["model.dtype=bfloat16 "]),
        ("widemargin run train.lora.merge=", ["train.lora.merge=false ", "train.lora.merge=true "]),
        ("widemargin run schedule.order=h", ["schedule.order=hard-to-easy "]),
        ("widemargin run objective.name=selective", ["objective.name=selective-dpo "]),
        ("widemargin run objective.gamma", ["objective.gamma0="]),
        ("widemargin run resources.judge_endpoint.key", ["resources.judge_endpoint.key_env="]),
        ("widemargin prune --config a --conf", ["--config "]),
        ("widemargin run --config a --conf", []),
        ("widemargin score --benchmark mt", ["mt_bench "]),
        ("widemargin export --to ", []),  # a folder, which the shell completes
        ("widemargin publish --what p", ["pairs "]),
        ("widemargin publish --what=p", ["--what=pairs "]),
        ("widemargin fit --config=papers/tulu3-7", ["--config=papers/tulu3-70b "]),
        ("widemargin init --gpu h2", ["h200 "]),
        ("widemargin run resources.trackers=ten", ["resources.trackers=tensorboard "]),
        ("widemargin nothing --x", []),
        ("widemargin run 'train.", []),
        ("widemargin run nosuch.section.", []),
    ],
)
def test_what_is_completed(line: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert complete("zsh", line, doors()) == found


def test_bash_completes_a_word_from_where_it_was_broken() -> None:
    """In a real shell: what is typed up to the cursor, and what stands in COMPREPLY, which bash puts after the `=`."""
    assert complete("bash", "widemargin run objective.name=mixd", doors()) == ["mixdpo "]
    shell = f"""
widemargin() {{ {sys.executable} -m jobs "$@"; }}
{script("bash")}
COMP_LINE="widemargin run train.lr_schedule=c" COMP_POINT=${{#COMP_LINE}}
COMP_LINE="widemargin run train.lr_schedule=c"; COMP_POINT=${{#COMP_LINE}}
_widemargin
printf '[%s]\\n' "${{COMPREPLY[@]}}"
complete -p widemargin
"""
    done = subprocess.run(["bash", "-c", shell], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:2] == ["[constant ]", "[cosine ]"]
    assert "-o default -o nospace -F _widemargin widemargin" in done.stdout


def test_a_door_by_its_name_outlives_ray_as_ever(tmp_path: Path) -> None:
    """It goes on in a child process, which knows a parent that would begin anew."""
    code = (
        "import runpy, sys\nfrom actors import survival\n"
        "say = survival.outlive\n"
        "def told(line): say(line); print('watched', survival.is_watched(), flush=True)\n"
        "survival.outlive = told\n"
        "sys.argv = ['widemargin', 'status', '--config', 'none']\n"
        "import jobs.__main__ as all\n"
        "sys.argv[1] = 'run'\nall.main()\n"
    )
    status, told, wrong = called(script=("-c", code))
    assert status == 2 and "watched True" in told and "no such file" in wrong


def test_nothing_of_a_words_acts_on_a_terminal() -> None:
    status, said = in_a_terminal([sys.executable, "-m", "jobs", "\x1b]0;owned\x07"])
    assert status == 2 and rb"\x1b]0;owned\x07" in said and b"\x1b" not in said


def test_the_commit_is_the_code_s_wherever_a_door_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project of one's own, under git, is no part of what made a result."""
    ours = git_commit()
    (tmp_path / "mine").write_text("x")
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "-q"], ["add", "mine"], [*who, "commit", "-qm", "mine"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    assert git_commit() == ours

    shutil.copytree(REPOSITORY / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("__pycache__"))  # untracked
    ask = "import jobs.common.provenance as made; print(made.__file__, made.git_commit())"
    path = f"{tmp_path}:{REPOSITORY}"
    told = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert told.stdout.split() == [str(tmp_path / "jobs" / "common" / "provenance.py"), "None"]
