"""What of a configuration is there, a line a result: python -m jobs.status --config FILE [section.key=value ...]"""

from collections.abc import Sequence

from jobs.common.stage import door, reported, shown, tell
from pipeline.line.plan import make_plan
from pipeline.settings.config import load


def main(arguments: Sequence[str] | None = None) -> None:
    options = door(
        "python -m jobs.status", "Say of every result whether it is committed, partial, stale or missing."
    ).parse_intermixed_args(arguments)
    with reported():
        plan = make_plan(load(options.config, options.overrides))
        tell(f"{'result':17s} {'status':10s} {'rows':>9s} {'seconds':>9s}  address")
        for step in plan.steps.values():
            artifact = step.address.find()
            path = artifact.path if artifact else step.address.path
            rows, seconds = (
                (f"{artifact.manifest['rows']:,}", f"{artifact.manifest['seconds']:.1f}") if artifact else ("-", "-")
            )
            tell(f"{step.name:17s} {step.address.status():10s} {rows:>9s} {seconds:>9s}  {shown(path)}")
        if (prepared := plan.steps["prepare"].address.find()) and (
            end := prepared.manifest["metrics"].get("end_of_turn")
        ):
            tell(f"a turn ends with {end['text']} (token {end['token']}), in training and in answers")


if __name__ == "__main__":
    main()
