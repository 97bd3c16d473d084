"""Say which results there are, and who needs them: python -m jobs.list [--config FILE ...] [resources.root=ROOT]"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.common.house import House, age, house, origin, parser, total
from jobs.common.saying import tell
from jobs.common.stage import reported
from pipeline.fit.fit import gb
from pipeline.results.inventory import Result


def main(arguments: Sequence[str] | None = None) -> None:
    description = "Say of every result its size, its age, what it was made from, and which configuration needs it."
    door = parser("python -m jobs.list", description, required=False)
    door.add_argument("--json", action="store_true", help="as JSON; sizes in bytes, times in seconds since 1970")
    options = door.parse_intermixed_args(arguments)
    with reported():
        found = house(options.config, options.overrides)
        if options.json:
            tell(json.dumps([facts(found, each) for each in found.results], indent=2, ensure_ascii=False))
        else:
            for line in table(found):
                tell(line)


def table(found: House) -> Iterator[str]:
    known = {each.fingerprint: each for each in found.results if each.kind == "committed"}
    wide = max([len(each.address) for each in found.results], default=6)
    heads = f"{'result':{wide}s} {'size':>9s} {'age':>7s}  "
    yield heads + (f"{'needed by':24s}  " if found.needs else "") + "made from"
    for each in found.results:
        users = f"{', '.join(found.users(each)) or 'nothing':24s}  " if found.needs else ""
        yield f"{each.address:{wide}s} {gb(each.size):>9s} {age(each):>7s}  {users}{origin(each, known)}"
    yield f"{total(found.results)} in {found.place}"
    if found.needs:
        idle = [each for each in found.results if not found.users(each)]
        more = ": python -m jobs.prune with the same removes them" if idle else ""
        yield f"{total(idle)} that nothing needs{more}"


def facts(found: House, each: Result) -> dict[str, Any]:
    return {
        "result": each.address,
        "fingerprint": each.manifest.get("fingerprint", each.fingerprint),
        "kind": each.kind,
        "bytes": each.size,
        "written": round(each.written),
        "made_from": each.manifest.get("inputs", {}),
        "needed_by": found.users(each),
        "here": str(each.here) if each.here else None,
        "stored": each.stored,
    }


if __name__ == "__main__":
    main()
