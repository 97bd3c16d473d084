"""Sample, rate, pair and train in rounds, each from the model of the one before: python -m jobs.rounds --config FILE

Every round is a line of jobs.run: skipped where it is committed, resumed where it was interrupted. The next can be
planned once a round is trained. All run in this process, one after the other, on one cluster.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict

from actors.survival import may_restart, outlive
from jobs.common.check import check_all, recheck
from jobs.common.saying import doing, heard, say, shown, tell
from jobs.common.stage import Outcome, Work, door, make, places, reported, say_first, write_config
from jobs.run import walk
from pipeline.line.rounds import MODEL, Series, plan_rounds, require_prompts
from pipeline.line.steps import Step
from pipeline.results.files import write_aside

OPENED: dict[str, tuple[str, ...]] = dict.fromkeys(("sample", "prepare", "train", "judge", "report"), ())
OPENED |= {"rate": ("part-*",), "pair": ("part-*",)}


def main(arguments: Sequence[str] | None = None) -> None:
    description = "Make every round that is not there yet, and the page over all of them."
    parser = door("python -m jobs.rounds", description, such_as="configs/rounds.yaml")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and make nothing")
    options = parser.parse_intermixed_args(arguments)
    with reported():
        outlive(say)
        started = time.perf_counter()
        if not options.dry_run:
            say_first("rounds", options.config, options.overrides)
        series = plan_rounds(options.config, options.overrides)
        may_restart(series.config.resources.max_failures)
        check_all([(plan, series.pending(plan)) for plan in series.planned], options.overrides)
        require_prompts(series)
        if options.dry_run:
            look_ahead(series)
            return
        series = run_rounds(series)
        page = series.page()
        assert page is not None
        make(series, page)
        say(f"rounds: {shown(page.address.path / 'rounds.html')}, {time.perf_counter() - started:.1f} s")


def look_ahead(series: Series) -> None:
    """Say what would be made, as far as it can be known."""
    from jobs.fit import brief

    for number, plan in enumerate(series.planned, 1):
        missing = series.pending(plan)
        tell(f"round {number}")
        for step in series.steps_of(plan):
            tell(f"{'make' if step in missing else 'keep'}  {step.name:17s} {shown(step.address.path)}")
        for line in brief(plan, missing):
            tell(line)
    for told in series.not_known:
        tell(told)


def run_rounds(series: Series) -> Series:
    """Make the results of every round; returns the series with all of them planned."""
    with contextlib.ExitStack() as stack:
        for number in range(1, series.rounds.count + 1):
            with heard("rounds", series.config.resources.log_seconds):
                series = known(series, number)
                plan = series.planned[number - 1]
                if missing := series.pending(plan):
                    from actors.cluster import connected

                    doing("starting or joining Ray")
                    stack.enter_context(connected())  # once for all rounds from here on
            run_round(series, number, missing)
    return series


def known(series: Series, number: int) -> Series:
    """The series with a round planned, from a model that is here and as it was committed."""
    planned = series.planned
    if number > 1 and (number > len(planned) or series.pending(planned[number - 1])):
        doing(f"reading the model of round {number - 1}")
        if artifact := planned[number - 2].steps["train"].address.find():
            artifact.verify(opened=(f"{MODEL}/*",))
    return series.further()


def run_round(series: Series, number: int, missing: Sequence[Step]) -> None:
    """Make what is missing of a round. Its configuration stays, to run it alone, beside those of others of its name."""
    plan, count = series.planned[number - 1], series.rounds.count
    report = plan.steps["report"].address
    file = report.root / "rounds" / "runs" / f"{report.path.name}.yaml"
    write_config(plan.config, file)
    say(f"rounds: round {number} of {count}, {len(missing)} results to make; alone: jobs.run --config {shown(file)}")
    recheck([(plan, missing)])
    for result in walk(plan, series.steps_of(plan), missing, ()):
        for line in places(result):
            say(line)


def run(work: Work) -> Outcome:
    """The page over all rounds and its figures, from their manifests and tables."""
    from jobs.common.rounds_page import rounds_data
    from pipeline.report.rounds import render_rounds

    assert isinstance(work.plan, Series)
    page = rounds_data(work.plan, work)
    write_aside(work.folder / "rounds.html", render_rounds(page))
    return Outcome({}, metrics={"rounds": [asdict(each) for each in page.rounds]})


if __name__ == "__main__":
    main()
