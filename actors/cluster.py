"""Joining a Ray cluster, and claiming from it what can be placed."""

import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.autoscaler.sdk
import ray.data

from actors import metrics
from actors.failures import no_start, user_error
from actors.survival import ENDED, OnRay, is_watched, lost, uses_ray
from pipeline.errors import UserError

LINGER = 1.0  # seconds after an error in which what caused it may yet show: a raylet that ends takes its actors first


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS (a submitted job has it set), or start one here and stop it afterwards.

    Inside an outer `connected()` it does nothing, so that a whole line shares one cluster. What an actor raised comes
    out as the UserError it was, or with a note that says where Ray's logs are. Where Ray itself died, this process ends
    and its parent tells (survival.py).
    """
    if ray.is_initialized():
        yield
        return
    ray_here, shutdown = _join(), True
    uses_ray(ray_here)
    metrics.report()
    ended = threading.Event()
    threading.Thread(target=_end_with_ray, args=(ended,), daemon=True).start()
    try:
        yield
    except Exception as error:
        if _died(0.0 if isinstance(error, UserError) else LINGER):
            shutdown = False
            _end(ray_here)
        if found := user_error(error, ray_here.logs):
            raise found from None
        error.add_note(f"Ray's logs are in {ray_here.logs}")
        raise
    except KeyboardInterrupt:
        # A thread may be inside Ray's core, which a shutdown would take away under it. The door ends the process, and
        # Ray's processes end with it.
        shutdown = False
        raise
    finally:
        ended.set()
        uses_ray(None)
        if shutdown:
            ray.shutdown()


def _end_with_ray(ended: threading.Event) -> None:
    """End this process where Ray is gone: where a control store is lost, too, Ray's core does that after a minute."""
    while is_watched() and not ended.wait(1.0):
        if _died(0.0):
            os._exit(ENDED)


def _end(ray_here: OnRay) -> None:
    """Leave it to the parent to tell that Ray died, or tell it here where there is none."""
    if is_watched():
        sys.stdout.flush()
        os._exit(ENDED)
    raise lost(ray_here, died=1) from None


def _died(linger: float) -> bool:
    """Whether Ray itself is gone, or goes within `linger` seconds: of a cluster that was joined, this node's raylet."""
    deadline = time.monotonic() + linger
    while not (gone := _is_gone()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return gone


def _is_gone() -> bool:
    node: Any = ray._private.worker._global_node
    if starts_its_own():
        return any(kind in ("raylet", "gcs_server") for kind, _ in node.dead_processes())
    with socket.socket(socket.AF_UNIX) as raylet:
        return raylet.connect_ex(node.raylet_socket_name) in (errno.ECONNREFUSED, errno.ENOENT)


def address() -> str:
    """Where another process joins the cluster that this one is connected to: a value for RAY_ADDRESS."""
    return str(ray.get_runtime_context().gcs_address)


def starts_its_own() -> bool:
    """Whether `connected()` starts a cluster, instead of joining one."""
    return os.environ.get("RAY_ADDRESS", "") in ("", "local")


def _join() -> OnRay:
    """Join or start, with only our own lines on the terminal."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ side complains of what Ray Data itself does
    own = starts_its_own()
    address: dict[str, Any] = {"address": "local", "include_dashboard": False} if own else {}
    if own:  # each is one process less to start beside ours; whoever wants them sets them
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nor is anything reported to Ray's makers
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away with notice
    terminate = signal.getsignal(signal.SIGTERM)
    if found := _host_and_port():
        _require_a_listener(*found)
    try:
        with _hushed():
            context: Any = ray.init(logging_level=logging.ERROR, log_to_driver=False, **address)
    except Exception as error:
        raise no_start(error) or error from None
    setattr(ray._private.worker, "print_to_stdstream", lambda *_, **__: None)  # noqa: B010 - what it says of lost nodes
    signal.signal(signal.SIGTERM, terminate)  # Ray has put its own in its place
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    settings.print_on_execution_start = False
    settings.issue_detectors_config.detectors = []
    settings.execution_no_progress_timeout_s = -1  # a shard of long answers takes as long as it takes
    settings.raise_original_map_exception = True  # what it wraps is lost on the way here
    for handler in logging.getLogger("ray.data").handlers:  # its log file keeps everything
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL)
    there = os.environ.get("RAY_ADDRESS") or context.address_info["gcs_address"]
    return OnRay(own, there, f"{context.address_info['session_dir']}/logs")


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing on standard error: Ray's C++ side announces its log level there before that level holds."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def claim(setting: str, actors: int, gpus: float, least: int | None = None) -> dict[str, float]:
    """What each of a pool of actors asks of Ray, so that all can be placed and tasks beside them too.

    A pool that claims every CPU leaves none for Ray Data's own tasks, and the stage would wait for ever without an
    error: half a CPU, or a tenth of the cluster, stays free. Raises UserError where the cluster is too small, of
    `least` actors where fewer than `actors` will do.
    """
    nodes = nodes_here()
    require_places(setting, least or actors, gpus, nodes)
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    free = max(0.5, 0.1 * cpus)
    return {"num_cpus": min(1.0, int(100 * (cpus - free) / min(actors, int(cpus))) / 100), "num_gpus": gpus}


def want(actors: int, gpus: float) -> None:
    """Tell an autoscaler, where the cluster has one, to bring nodes for so many actors; 0: for none any more."""
    bundle = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
    ray.autoscaler.sdk.request_resources(bundles=[bundle] * actors)


def free_places(asked: Mapping[str, float]) -> int:
    """How many more actors that each ask so much, as `claim` has it, the cluster has room for now."""
    return places(asked, list(ray._private.state.available_resources_per_node().values()))


def places(asked: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """How many actors that each ask so much nodes of these resources have room for."""
    wanted = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"]}
    rooms = [[node.get(name, 0.0) / amount for name, amount in wanted.items() if amount] for node in nodes]
    return sum(int(min(room) + 1e-6) for room in rooms)


def is_at_work(name: str) -> bool:
    """Whether any actor of a pool of this class lives, of those that this process started."""
    job = ray.JobID(bytes.fromhex(ray.get_runtime_context().get_job_id()))
    alive = ray._private.state.actors(job_id=job, actor_state_name="ALIVE")
    return any(name in actor["ActorClassName"] for actor in alive.values())


def in_words(asked: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    """What an actor asks for, and what nodes have, such as `1 CPUs each; the cluster has 2 nodes with 4 CPUs, ...`."""
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    each = f"{asked['num_cpus']:g} CPUs" + (f" and {asked['num_gpus']:g} GPUs" if asked["num_gpus"] else "")
    there = f"{len(nodes)} node{'s' * (len(nodes) != 1)} with {cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
    return f"{each} each; the cluster has {there}, not enough of them free"


def idle_gpus(gpus: float, nodes: Sequence[Mapping[str, float]]) -> str:
    """What to say where actors of no GPU run on a cluster that has some; otherwise nothing."""
    there = sum(node.get("GPU", 0.0) for node in nodes)
    if gpus or not there:
        return ""
    return f"on CPUs, though the cluster has GPUs ({there:g}): resources.gpus_per_actor=0; 1 gives each actor one"


def require_places(setting: str, actors: int, gpus: float, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise UserError where `actors` of `gpus` GPUs each have no room on nodes of these resources."""
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    if actors > cpus:
        raise UserError(
            f"{setting}={actors} actors, but the cluster has {cpus:g} CPUs",
            f"set {setting}={int(cpus)} or less, or add nodes" if cpus >= 1 else "add nodes",
        )
    room = sum(int(node.get("GPU", 0.0) / gpus) for node in nodes) if gpus else actors  # an actor is on one node
    if actors > room:
        raise UserError(
            f"{setting}={actors} actors of {gpus:g} GPUs each, but the cluster has room for {room}",
            f"lower {setting} or resources.gpus_per_actor",
        )


def nodes_here() -> list[dict[str, float]]:
    """The resources of each node of the cluster that this process is connected to."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def nodes_ahead() -> list[dict[str, float]] | None:
    """The resources of each node of the cluster that `connected()` would join or start, without doing either.

    None where that cannot be said, the address not being HOST:PORT. Raises UserError where nobody listens there.
    """
    if ray.is_initialized():
        return nodes_here()
    if starts_its_own():
        return [_this_machine()]
    address = os.environ["RAY_ADDRESS"]
    if (found := _host_and_port()) is None:
        return None
    _require_a_listener(*found)
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

    try:
        with _hushed():
            nodes = GcsClient(address=address).get_all_node_info(timeout=10)
    except ray.exceptions.RayError:  # such as a token that is not the cluster's: joining it will say so
        return None
    return [dict(node.resources_total) for node in nodes.values() if node.state == GcsNodeInfo.ALIVE]


def _host_and_port() -> tuple[str, int] | None:
    """Those of RAY_ADDRESS, where it is of that kind."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and "/" not in host and port.isdecimal() else None


def _require_a_listener(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        problem = f"RAY_ADDRESS={host}:{port}: no cluster answers there ({error.strerror or error})"
        raise UserError(problem, "start the cluster, or unset RAY_ADDRESS to start one on this machine") from None


def _this_machine() -> dict[str, float]:
    """What Ray would find here if it were started."""
    from ray._private.accelerators import get_accelerator_manager_for_resource
    from ray._private.utils import get_num_cpus

    manager: Any = get_accelerator_manager_for_resource("GPU")
    gpus, visible = manager.get_current_node_num_accelerators(), manager.get_current_process_visible_accelerator_ids()
    return {
        "CPU": float(get_num_cpus(override_docker_cpu_warning=True)),
        "GPU": float(gpus if visible is None else min(gpus, len(visible))),
    }


def threads(actors: int) -> int:
    """Compute threads for each of `actors` on this cluster: their share of a node's cores."""
    nodes = max(1, sum(node.get("CPU", 0.0) > 0 for node in nodes_here()))
    return max(1, int(ray.cluster_resources().get("CPU", 1.0)) // max(nodes, actors))
