"""A model as judge, through the door: faults of its endpoint, missing verdicts, what is kept, where its key is not."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import KEY, Head, Line
from tests.e2e.doors import made, only, refused, rows
from tests.e2e.running import finish, settings, start, submit, until
from tests.judge_server import Answer, JudgeServer, judge_server

pytestmark = pytest.mark.e2e

STAGES = ("prepare", "reference", "schedule", "train", "generate")


@pytest.fixture(scope="module")
def verdicts(line: Line) -> int:
    """Two a question, where the models' answers differ."""
    base, trained = (
        {row["question_id"]: row["response"] for row in rows(only(line.root, "generate", label))}
        for label in ("tiny-*", "gamma-dpo-*")
    )
    found = 2 * sum(base[question] != trained[question] for question in base)
    assert found >= 6
    return found


def judged(judge: JudgeServer, *more: str) -> tuple[str, ...]:
    asked = (f"resources.judge_endpoint.url={judge.url}", "judge.model=judge", "resources.judge_endpoint.key_env=KEY")
    return (*asked, "resources.judge_endpoint.timeout_seconds=5", "resources.judge_endpoint.retries=2", *more)


def games_of(root: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((only(root, "judge") / "manifest.json").read_text())["metrics"]
    games: dict[str, Any] = figures["benchmarks"]["verifiable"]["judged"]["matches"][0]["summary"]
    return games


def first_wins(question: str, before: int) -> Answer:
    return Answer("The first one. [[A>B]]")


def test_every_fault_once_changes_no_verdict(line: Line, verdicts: int, tmp_path: Path) -> None:
    """Each request fails in one of six ways before it is answered; the figures are those of a judge without faults."""
    faults = [
        *(Answer(status=429, raw=b"{}", headers={"Retry-After": "0.2"}), Answer(status=500, raw=b"oops")),
        *(Answer(drop=True), Answer(raw=b"{"), Answer(raw=b'{"choices": []}'), Answer(seconds=8.0)),
    ]
    places: dict[str, int] = {}

    def troubled(question: str, before: int) -> Answer:
        return first_wins(question, 0) if before else faults[places.setdefault(question, len(places)) % len(faults)]

    figures = {}
    for name, script in (("calm", first_wins), ("troubled", troubled)):
        with judge_server(script) as judge:
            given = (*settings(line, tmp_path / name, *STAGES), *judged(judge))
            made("run", *given, environment={"KEY": KEY})
            assert judge.keys == {f"Bearer {KEY}"}
            assert sorted(judge.asked.values()) == [1 if name == "calm" else 2] * verdicts
        figures[name] = games_of(tmp_path / name)
    assert figures["calm"] == figures["troubled"]
    games = pq.read_table(only(tmp_path / "troubled", "judge") / "games.parquet").to_pylist()
    assert {(game["outcome"], game["points"]) for game in games} - {("alike", 0.5)} == {("read", 1.0), ("read", 0.0)}
    # A judge that always prefers the first answer: half of the points, and a warning.
    assert figures["calm"]["rate"]["value"] == 50 and figures["calm"]["first_shown"] == 100
    page = (only(tmp_path / "troubled", "report") / "report.html").read_text()
    assert "The judge gave 100% of the points to the answer that it saw first." in page

    planted = [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    assert planted == []


def test_missing_verdicts_are_no_ties_and_alone_are_asked_for_again(line: Line, verdicts: int, tmp_path: Path) -> None:
    """Two of the requests are never answered: the stage says so; then the same command asks for those alone."""
    lost: set[str] = set()

    def failing(question: str, before: int) -> Answer:
        if question not in lost and len(lost) < 2 and before == 0:
            lost.add(question)
        return Answer(status=503, raw=b"{}") if question in lost else first_wins(question, before)

    given = settings(line, tmp_path, *STAGES)
    with judge_server(failing) as judge:
        told = refused("judge", *given, *judged(judge, "resources.judge_endpoint.retries=0"), environment={"KEY": KEY})
        assert (
            f"2 of {verdicts} verdicts on verifiable are missing" in told and "status 503" in told and KEY not in told
        )
    with judge_server(failing) as judge:
        asked = judged(judge, "resources.judge_endpoint.retries=0", "judge.max_missing=0.5")
        made("judge", *given, *asked, environment={"KEY": KEY})
        assert set(judge.asked) == lost
    figures = games_of(tmp_path)
    assert (figures["games"], figures["read"], figures["missing"]) == (12, verdicts - 2, 2)
    rows = pq.read_table(only(tmp_path, "judge") / "games.parquet").to_pylist()
    assert [row["points"] for row in rows if row["outcome"] == "missing"] == [None] * 2
    with judge_server(first_wins) as judge:
        made("judge", *given, *judged(judge), "--force", environment={"KEY": KEY})
        assert set(judge.asked) == lost
    figures = games_of(tmp_path)
    assert (figures["read"], figures["missing"]) == (verdicts, 0)
    # Forced without its key it is refused; verdicts and replies stay.
    told = refused("judge", *given, *judged(judge), "--force", environment={"KEY": ""})
    assert "there is no such environment variable" in told
    assert games_of(tmp_path) == figures and len(list(tmp_path.glob(".replies/*.json"))) == verdicts


def test_a_killed_judge_stage_asks_nothing_twice(line: Line, verdicts: int, head: Head, tmp_path: Path) -> None:
    given = settings(line, tmp_path, *STAGES)
    with judge_server(lambda *_: Answer("[[B>A]]", seconds=0.5)) as judge:
        asked = (*given, *judged(judge, "resources.judge_endpoint.concurrency=1"))
        os.environ["KEY"] = KEY
        try:
            driver = start(head, "judge", *asked)
            until(lambda: len(list(tmp_path.glob(".replies/*.json"))) >= 3, driver)
            os.kill(driver.pid, signal.SIGKILL)
            driver.communicate()
            kept = len(list(tmp_path.glob(".replies/*.json")))
            assert 3 <= kept < verdicts
            finish(start(head, "judge", *asked))
        finally:
            del os.environ["KEY"]
        # The one that was being answered when the stage was killed is asked for again.
        assert verdicts <= sum(judge.asked.values()) <= verdicts + 1


def test_the_key_is_in_no_job_metadata(line: Line, verdicts: int, head: Head, tmp_path: Path) -> None:
    """A submitted job finds the key where its node has it. Neither what Ray tells of jobs nor their logs hold it."""
    from ray.job_submission import JobSubmissionClient

    with judge_server(first_wins) as judge:
        asked = (*settings(line, tmp_path, *STAGES), *judged(judge), "resources.judge_endpoint.key_env=JUDGE_KEY")
        said = submit(head, "judge", *asked)
        assert judge.keys == {f"Bearer {KEY}"} and "judge: done in" in said
    client = JobSubmissionClient(head.dashboard, headers={"Authorization": f"Bearer {head.token['RAY_AUTH_TOKEN']}"})
    jobs = client.list_jobs()
    assert any("jobs.judge" in job.entrypoint for job in jobs)
    told = [said, *map(repr, jobs), *(client.get_job_logs(job.submission_id) for job in jobs if job.submission_id)]
    assert not any(KEY in each for each in told)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["judge.model=judge"], "resources.judge_endpoint.url"),
        (["judge.model=j", "resources.judge_endpoint.url=nowhere"], "is no URL"),
        (["judge.model=j", "resources.judge_endpoint.url=http://me:secret@host/v1"], "may hold a secret"),
        (["judge.model=j", "resources.judge_endpoint.url=http://h/v1", "resources.judge_endpoint.key_env=NOT"], "NOT"),
        (["judge.model=j", "resources.judge_endpoint.url=http://h/v1", "judge.wording=/nowhere.json"], "judge.wording"),
        (["resources.judge_endpoint.urll=x"], "did you mean resources.judge_endpoint.url"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_refused(
    line: Line, tmp_path: Path, overrides: list[str], says: str
) -> None:
    told = refused("judge", *settings(line, tmp_path, *STAGES), *overrides)
    assert says in told and "secret@" not in told
