"""Send a finished run to a tracker, as if it had watched: python -m jobs.track --config FILE --to wandb"""

from collections.abc import Sequence
from typing import get_args

from jobs.common.saying import doing, heard, say
from jobs.common.stage import door, planned, reported
from pipeline.settings.resources import TrackerName


def main(arguments: Sequence[str] | None = None) -> None:
    parser = door("python -m jobs.track", "Send a tracker the steps it has not got, the run's figures and its page.")
    parser.add_argument(
        "--to", choices=get_args(TrackerName), action="append", required=True, help="a tracker (may be repeated)"
    )
    options = parser.parse_intermixed_args(arguments)
    with reported():
        from jobs.common.tracked import replay

        plan = planned("track", options.config, options.overrides)
        for name in dict.fromkeys(options.to):
            with heard("track", plan.config.resources.log_seconds):
                doing(f"sending to {name}")
                told, where = replay(plan, name)
            say(f"track: {name} was sent {told} steps, the figures and what there is of a report: {where}")


if __name__ == "__main__":
    main()
