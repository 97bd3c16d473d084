"""Running the pending parts of a stage through a Ray Data pool of actors, which write the parts they finish."""

import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.pooled import Pooled
from jobs.common.keeping import Keeping
from jobs.common.saying import Progress, doing, say
from jobs.common.stage import Outcome
from pipeline.errors import UserError
from pipeline.results.address import Address
from pipeline.settings.resources import Resources, Workers

LOOK_SECONDS = 5.0  # of silence after which it is looked whether a pool can work at all


def run_parts(
    work: Sequence[dict[str, Any]],
    actor: type[Pooled],
    spec: Any,
    *,
    what: str,
    setting: str,
    actors: int,
    resources: Resources,
    address: Address,
    environment: dict[str, str] | None = None,
) -> Outcome:
    """`work` is a row a part, with its file name in column `part`; those in the unfinished folder are not made again.

    An actor answers a row a part; a `note` in it, such as how it runs its model, is said once and kept in the metrics.
    So are the tokens, seconds and packs of the parts made here, added up: those of the actors alone, without their
    start.

    An actor that dies is begun anew, and its part made again, `resources.max_failures` times. After that the pool is,
    as long as each finishes some part: it gives up where nothing can be made, not where much went wrong in long hours.

    Ray Data promises no order and none is needed: a part is found by its name. Call inside `connected()`.
    """
    import ray

    from actors.cluster import idle_gpus, nodes_here
    from jobs.common.waiting import Waiting, claimed

    folder = address.partial
    pending = unfinished(work, folder)
    if kept := len(work) - len(pending):
        say(f"{what}: {kept} of {len(work)} parts are finished already and kept")
    heard = Heard(what)
    if pending and (idle := idle_gpus(resources.gpus_per_actor, nodes_here())):
        say(f"{what}: {idle}")
    progress = Progress(what, len(work), "parts", resources.log_seconds, kept, lanes=max(1, min(actors, len(pending))))
    lost = False
    with Keeping(address, what) as keeping:
        keeping.missing({row["part"] for row in work} - {row["part"] for row in pending})
        while pending:
            asked = claimed(what, setting, Workers(actors, actors), resources.gpus_per_actor, resources, lost)
            waiting = Waiting(what, setting, asked, resources)
            doing(f"{actors} {actor.__name__.lower()}{'s' * (actors > 1)} starting, or at a first part")
            options: dict[str, Any] = dict(asked)
            options |= {"max_restarts": resources.max_failures, "max_task_retries": resources.max_failures}
            if environment:
                options["runtime_env"] = {"env_vars": environment}
            try:
                rows = answers(pending, actor, (spec, address.stage), min(actors, len(pending)), options)
                for row in in_a_thread(rows, partial(waiting.look, actor.__name__)):
                    waiting.over()
                    keeping.parts(row["part"])
                    heard.of(row)
                    progress.add(1, f", {row['tokens'] / row['seconds']:,.0f} tokens/s an actor")
                break
            except ray.exceptions.RayActorError:
                before, pending, lost = len(pending), unfinished(work, folder), True
                if len(pending) == before:
                    raise
                often = "an actor died too often (resources.max_failures)"
                say(f"{what}: {often}; a new pool makes {len(pending)} parts more")
                progress.done = len(work) - len(pending)
    return Outcome(rows=part_rows(folder, [row["part"] for row in work]), metrics=heard.metrics)


class Heard:
    """What actors said of the parts that they made: notes, each said once, and their figures, added up."""

    def __init__(self, what: str):
        self.what = what
        self.notes = set[str]()
        self.figures: dict[str, float] = {"actor_tokens": 0, "actor_seconds": 0.0}

    def of(self, row: Mapping[str, Any]) -> None:
        if (note := row.get("note")) and note not in self.notes:
            self.notes.add(note)
            say(f"{self.what}: {note}")
        for name in row.keys() & {"tokens", "seconds", "packs"}:
            self.figures[f"actor_{name}"] = self.figures.get(f"actor_{name}", 0) + row[name]

    @property
    def metrics(self) -> dict[str, Any]:
        return {"notes": sorted(self.notes), **self.figures}


def unfinished(work: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    return [row for row in work if not (folder / row["part"]).exists()]


def answers(
    work: list[dict[str, Any]], actor: type[Pooled], given: tuple[Any, str], size: int, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """What a pool of `size` actors answers, each `given` spec and stage. Raises RayActorError if one died too often."""
    import ray
    from ray.util.annotations import RayDeprecationWarning

    with warnings.catch_warnings(action="ignore", category=RayDeprecationWarning):  # Ray names no other way to restarts
        data = ray.data.from_items(work, override_num_blocks=len(work)).map_batches(
            actor,
            fn_constructor_args=given,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size),
            **options,
        )
    # Its rows would be one behind, as it fetches the next before it hands out one.
    batches: Any = data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for batch in batches:
        yield from batch.to_pylist()


def in_a_thread(rows: Iterable[dict[str, Any]], silent: Callable[[], None] | None = None) -> Iterator[dict[str, Any]]:
    """The same rows, taken by another thread, so that Ctrl-C meets our own wait: inside Ray's calls it can be lost.

    `silent` is called whenever none came for LOOK_SECONDS.
    """
    taken: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def take() -> None:
        try:
            for row in rows:
                taken.put(row)
            taken.put(None)
        except BaseException as error:
            taken.put(error)

    threading.Thread(target=take, daemon=True).start()
    while True:
        try:
            row = taken.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            if silent:
                silent()
            continue
        if row is None:
            return
        if isinstance(row, BaseException):
            raise row
        yield row


def part_rows(folder: Path, parts: Iterable[str]) -> dict[str, int]:
    """Rows of each Parquet part, from its footer. Raises UserError where one is no Parquet file."""
    rows = {}
    for name in parts:
        try:
            rows[name] = pq.read_metadata(folder / name).num_rows
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{folder / name}, a finished part, can no longer be read ({error})",
                "remove it; the same command makes it again",
            ) from error
    return rows
