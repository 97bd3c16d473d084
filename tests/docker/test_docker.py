"""The files under docker/, without a container engine, Kubernetes or Slurm: what they name is there, and is understood.

Neither the image nor a manifest is run here. What the image installs is looked at as metadata: the packages of the lock
ask for none that it lacks. image.py lays its files and packages out in a folder, and tests/e2e/test_demo_model.py runs
the whole line there. make sets its environment up by the script that the image is made by.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from actors.metrics import METRICS
from pipeline.settings.config import load
from tests.docker.image import DOCKER, ROOT, copied, instructions, locked

SCHEMA = yaml.safe_load((Path(__file__).parent / "kuberay.yaml").read_text())
Pod = dict[str, Any]


def ray_start(options: list[str]) -> dict[str, Any]:
    """The options of `ray start` that these mean. Raises where it knows one of them not."""
    from ray.scripts.scripts import start

    parsed: dict[str, Any] = start.make_context("ray start", options).params
    return parsed


# --- KubeRay


def manifest(name: str) -> dict[str, Any]:
    made = yaml.safe_load((DOCKER / name).read_text())
    jsonschema.validate(made, SCHEMA)
    return dict(made)


def cluster(name: str) -> dict[str, Any]:
    spec = manifest(name)["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def groups(name: str) -> Iterator[dict[str, Any]]:
    spec = cluster(name)
    yield from (spec["headGroupSpec"], *spec["workerGroupSpecs"])


def test_the_schema_itself_is_one_and_finds_a_fault() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for spoil in ({"entrypont": "x"}, {"backoffLimit": "2"}, {"submissionMode": "Fast"}):
        made = manifest("rayjob.yaml")
        made["spec"] |= spoil
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(made, SCHEMA)


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_a_manifest_is_of_our_ray_and_wants_a_token(name: str) -> None:
    spec = cluster(name)
    assert spec["rayVersion"] == locked("gpu")["ray"] == locked("cpu")["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    for group in groups(name):
        assert ray_start([f"--{key}={value}" for key, value in group["rayStartParams"].items()])
        pod = group["template"]["spec"]
        mounted = [mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]]
        assert sorted(mounted) == sorted(volume["name"] for volume in pod["volumes"])
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for worker in spec["workerGroupSpecs"]:
        (container,) = worker["template"]["spec"]["containers"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]  # NCCL's


def test_both_manifests_have_the_same_nodes() -> None:
    one, other = ([group["template"] for group in groups(name)] for name in ("rayjob.yaml", "raycluster.yaml"))
    assert one == other


def test_the_job_s_command_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = manifest("rayjob.yaml")["spec"]
    python, m, door, config, file, *overrides = shlex.split(spec["entrypoint"])
    assert (python, m, door, config) == ("python", "-m", "jobs.run", "--config")
    monkeypatch.chdir(ROOT)
    resources = load(file, overrides).resources
    (worker,) = cluster("rayjob.yaml")["workerGroupSpecs"]
    gpus = int(worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert resources.train_workers == resources.scorers == gpus * worker["replicas"] and resources.gpus_per_actor == 1
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"env_vars"}  # code and packages come with the image


# --- The image


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: of its rules, as far as they are used there, the last that fits."""
    out = False
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = rule.lstrip("!").strip("/")
        if rule and not rule.startswith("#") and (pattern == "*" or path == pattern or path.startswith(f"{pattern}/")):
            out = not rule.startswith("!")
    return out


def test_the_image_has_all_packages_and_what_it_copies_is_there() -> None:
    assert all((ROOT / source).exists() and not ignored(source) for source in copied())
    listed = re.findall(
        r'"([a-z_.]+)",', (ROOT / "pyproject.toml").read_text().partition("packages = [")[2].partition("]")[0]
    )
    assert {name.split(".")[0] for name in listed} <= set(copied())
    assert ignored("runs") and ignored("tests/conftest.py") and ignored("docker/compose.yaml")


def test_the_image_is_pinned_and_no_root_s() -> None:
    bases = [words[1] for words in instructions() if words[0] == "FROM"]
    assert len(bases) == 3 and bases[-1] == "base-${LOCK}"
    assert all(re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+\S+", base) for base in bases[:-1])
    assert [words[-1] for words in instructions() if words[0] == "FROM"][:2] == ["base-cpu", "base-gpu"]
    assert ["USER", "widemargin"] in instructions() and instructions()[-1][0] == "CMD"


def test_its_steps_are_a_script_that_a_shell_reads() -> None:
    for name in ("install.sh", "slurm.sh"):
        assert os.access(DOCKER / name, os.X_OK)
        subprocess.run(["bash", "-n", DOCKER / name], check=True)
    steps = (DOCKER / "install.sh").read_text()
    for word in ("wget", "procps", "g++", "git", "libnuma1"):
        assert re.search(rf"\s{re.escape(word)}\s", steps)
    assert f'torch="torch=={locked("gpu")["torch"]}"' in steps
    assert "docker/install.sh python cpu .venv" in (ROOT / "Makefile").read_text()


def test_the_lock_lacks_no_package() -> None:
    """Of each package in it, what it asks for on this machine is in it, too, or left out by name."""
    left_out = {
        canonicalize_name(Requirement(line).name)
        for line in (ROOT / "requirements" / "not-locked.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    there = {*locked("cpu"), "torch"}
    lacking = []
    for name in there:
        for asked in map(Requirement, metadata.requires(name) or ()):
            needed = canonicalize_name(asked.name)
            if (asked.marker is None or asked.marker.evaluate({"extra": ""})) and needed not in there | left_out:
                lacking.append(f"{name} asks for {needed}")
    assert not [each for each in lacking if "setuptools" not in each], lacking


# --- Compose, Slurm, Grafana


def test_compose_is_a_head_and_two_workers() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert services["worker"]["deploy"]["replicas"] == 2
    for service in services.values():
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        assert service["environment"]["RAY_AUTH_MODE"] == "token" and "shm_size" in service
        ray, start, *options = shlex.split(service["command"])
        assert (ray, start) == ("ray", "start") and ray_start(options)["block"]
    head, worker = (ray_start(shlex.split(services[name]["command"])[2:]) for name in ("head", "worker"))
    assert head["head"] and head["num_cpus"] == 0 and worker["address"] == "head:6379" and worker["num_cpus"] == 2


RAY = r"""#!/usr/bin/env bash
# As `ray symmetric-run` does on the head's node: the command's own status; 0 where Ray did not start.
[ -z "$RAY_FAILS" ] || { echo "Failed to start Ray" >&2; exit 0; }
while [ "$1" != -- ]; do echo "$1" >> "$SEEN"; shift; done; shift
"$@"
"""


@pytest.mark.parametrize(
    ("fails", "arguments", "status"), [("", ["--help"], 0), ("", ["--config", "no.yaml"], 2), ("1", ["--help"], 1)]
)
def test_a_slurm_job_ends_as_its_run_does(tmp_path: Path, fails: str, arguments: list[str], status: int) -> None:
    """With stand-ins for scontrol, srun and ray: the real `ray symmetric-run` stops every Ray of this machine."""
    stand_ins = {
        "scontrol": "#!/bin/sh\necho 127.0.0.1\n",
        "srun": '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
        "ray": RAY,
        "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in stand_ins.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "1012", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    more = {"VENV": str(tmp_path), "RAY_FAILS": fails, "SEEN": str(tmp_path / "seen")}
    assert shutil.which("openssl")
    done = subprocess.run(
        [DOCKER / "slurm.sh", *arguments], cwd=ROOT, env=os.environ | slurm | more, capture_output=True, text=True
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("Ray did not start" in done.stderr) == bool(fails)
    assert not list(ROOT.glob(".slurm-*"))
    if not fails:
        seen = (tmp_path / "seen").read_text().split()
        assert seen == ["symmetric-run", "--address", "127.0.0.1:6391", "--min-nodes", "2"]


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    board = json.loads((DOCKER / "grafana.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for expr in asked for name in re.findall(r"\bray_(widemargin_[a-z_]+)", expr)}
    endings = {"Counter": "_total", "Histogram": "_bucket", "Gauge": ""}
    assert named == {name + endings[kind] for name, (kind, _, _) in METRICS.items()}
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(places) == len(set(places))
