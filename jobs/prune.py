"""Remove what no configuration needs: python -m jobs.prune --config FILE [--config FILE ...] [--keep RESULT] [--yes]

What is needed: every result that one of the configurations means, finished or not, its rankings, and the results that
--keep names with all that they were made from. A result that is being made, or that a running door reads, stays.
"""

from collections.abc import Sequence

from jobs.common.house import House, age, house, parser, total
from jobs.common.saying import say, tell
from jobs.common.stage import reported
from pipeline.fit.fit import gb
from pipeline.results.inventory import Result, remove


def main(arguments: Sequence[str] | None = None) -> None:
    description = "Remove the results that none of the configurations needs. Without --yes it only says which."
    door = parser("python -m jobs.prune", description, required=True)
    help = "a result that stays, with all that it was made from: its folder, or the first digits of its fingerprint"
    door.add_argument("--keep", metavar="RESULT", action="append", default=[], help=f"{help} (may be repeated)")
    door.add_argument("--yes", action="store_true", help="remove them; without it nothing is removed")
    options = door.parse_intermixed_args(arguments)
    with reported():
        found = house(options.config, options.overrides, options.keep)
        idle = [each for each in found.results if not found.users(each)]
        announce(found, idle)
        if options.yes:
            prune(found, idle)
        elif idle:
            tell("nothing is removed yet: the same command with --yes removes them")


def announce(found: House, idle: Sequence[Result]) -> None:
    """What will go, and what stays and for whom."""
    for each in idle:
        kind = "" if each.kind == "committed" else f", {each.kind}"
        tell(f"remove  {each.address}  {gb(each.size)}, {age(each)} old{kind}")
    tell(
        f"remove: {total(idle)}; keep: {total([each for each in found.results if each not in idle])}, in {found.place}"
    )
    for name, wanted in found.needs.items():
        there = [each for each in found.results if each.fingerprint in wanted]
        lacking = len(wanted - {each.fingerprint for each in there})
        more = f", and {lacking} that are not there" if lacking else ""
        tell(f"{name} needs {total(there)}{more}{': is this what was run, with the same overrides?' if more else ''}")
    if found.store:
        tell("runs on other machines are not seen from here: be sure that none uses what is removed")


def prune(found: House, idle: Sequence[Result]) -> None:
    removed = []
    for each in idle:
        if remove(each, found.root, found.store):
            removed.append(each)
        else:
            say(f"prune: {each.address} stays: it is being made, or in use")
    say(f"prune: {total(removed)} removed")


if __name__ == "__main__":
    main()
