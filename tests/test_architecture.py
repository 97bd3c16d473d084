"""The arrows, jobs -> actors -> pipeline and down its floors, and what each layer keeps out; doors answer at once."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "actors", "jobs")
ALL = "__main__"  # in jobs/: all doors under one name
HAS_MAIN = sorted(file.stem for file in (ROOT / "jobs").glob("*.py") if '__name__ == "__main__"' in file.read_text())
DOORS = [name for name in HAS_MAIN if name != ALL]
FORBIDDEN = {
    "pipeline": ("actors", "jobs", "ray", "vllm"),
    "actors": ("jobs",),
    "jobs": (),
}
# The floors of pipeline/, from the ground. A room imports from floors below its own, and from no other room beside it.
FLOORS = (
    ("errors", "statistics", "randomness"),
    ("preferences", "objectives", "results", "packages"),
    ("settings",),
    ("compute", "evaluation"),
    ("onpolicy",),
    ("prepare", "training", "line", "report"),
    ("fit",),
)
# The same within evaluation/.
EVALUATION = (("profile", "breakdown", "ranking", "harness"), ("benchmarks",), ("judging",), ("exports",))
HEAVY = ("torch", "ray", "vllm", "transformers", "datasets")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, wherever it stands, also by importlib with a plain name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from ((node.lineno, str(arg.value)) for arg in node.args if isinstance(arg, ast.Constant))


def breaches(package: str, file: str, text: str) -> list[str]:
    """The imports of a file that its package must not have, as `file:line: package -> module`."""
    return [
        f"{file}:{line}: {package} -> {module}"
        for line, module in sorted(imports(ast.parse(text)))
        if module.split(".")[0] in FORBIDDEN[package] or module.startswith(".")
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_points_back_up(package: str) -> None:
    files = sources(package)
    assert files
    found = [each for file in files for each in breaches(package, str(file.relative_to(ROOT)), file.read_text())]
    assert not found, "\n".join(found)


def test_a_planted_breach_is_named() -> None:
    text = "import math\n\ndef run():\n    from ray.data import Dataset\n    import jobs.train as train\n"
    assert breaches("pipeline", "pipeline/x.py", text) == [
        "pipeline/x.py:4: pipeline -> ray.data",
        "pipeline/x.py:5: pipeline -> jobs.train",
    ]
    assert breaches("actors", "actors/x.py", text) == ["actors/x.py:5: actors -> jobs.train"]
    hidden = "import importlib\nimportlib.import_module('vllm')\nfrom . import y\n"
    assert breaches("pipeline", "x.py", hidden) == ["x.py:2: pipeline -> vllm", "x.py:3: pipeline -> ."]


def modules(text: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; a name that is imported from a package stands as a module of it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def climbs(floors: tuple[tuple[str, ...], ...], house: str, room: str, file: str, text: str) -> list[str]:
    """The imports of a file in `room` of package `house` that do not go down, as `file:line: room -> other room`."""
    level = {name: number for number, floor in enumerate(floors) for name in floor}
    inside = [
        (line, name.removeprefix(f"{house}.").split(".")[0])
        for line, name in modules(text)
        if name.startswith(f"{house}.")
    ]
    return [
        f"{file}:{line}: {room} -> {other}" for line, other in inside if other != room and level[other] >= level[room]
    ]


@pytest.mark.parametrize(("house", "floors"), [("pipeline", FLOORS), ("pipeline.evaluation", EVALUATION)])
def test_arrows_run_down_the_floors(house: str, floors: tuple[tuple[str, ...], ...]) -> None:
    folder = ROOT / house.replace(".", "/")
    files = [file for file in sorted(folder.rglob("*.py")) if file != folder / "__init__.py"]
    rooms = {file: file.relative_to(folder).with_suffix("").parts[0] for file in files}
    assert set(rooms.values()) == {name for floor in floors for name in floor}
    found = [
        each
        for file, room in rooms.items()
        for each in climbs(floors, house, room, str(file.relative_to(ROOT)), file.read_text())
    ]
    assert not found, "\n".join(found)


def test_a_planted_climb_is_named() -> None:
    text = "import torch\nfrom pipeline.errors import UserError\ndef f():\n    from pipeline.line import plan\n"
    assert climbs(FLOORS, "pipeline", "compute", "x.py", text) == ["x.py:4: compute -> line"]
    assert climbs(FLOORS, "pipeline", "training", "x.py", text) == ["x.py:4: training -> line"]  # beside it


def test_jobs_shows_doors() -> None:
    assert sorted(file.stem for file in (ROOT / "jobs").glob("*.py")) == sorted([*DOORS, ALL, "__init__"])
    assert [file.name for file in (ROOT / "jobs").iterdir() if file.is_dir() and file.name != "__pycache__"] == [
        "common"
    ]


def test_pipeline_reads_no_environment_and_prints_nothing() -> None:
    found = []
    for file in sources("pipeline"):
        for node in ast.walk(ast.parse(file.read_text())):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            environment = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb", "putenv")
            if called or environment:
                found.append(f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert not found, "\n".join(found)


def test_packages_are_plain() -> None:
    for package in PACKAGES:
        folders = {file.parent for file in sources(package)}
        full = [folder.relative_to(ROOT) for folder in folders if (folder / "__init__.py").read_bytes()]
        assert full in ([], [Path("pipeline/objectives")])  # the one that is imported from outside, by its public names
    assert not [file for package in PACKAGES for file in sources(package) if file.stem in ("utils", "helpers", "misc")]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_pipeline_imports_without_ray_and_vllm() -> None:
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sources("pipeline")]
    code = (
        "import importlib, sys\n"
        "sys.modules['ray'] = sys.modules['vllm'] = None\n"  # importing either raises ImportError
        "for name in sys.argv[1:]: importlib.import_module(name)"
    )
    done = python(code, *modules)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A config that loads, its model a folder that no plan need open, and one with a misspelt key."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "model" / "chat_template.jinja").write_text("{{ messages }}")
    good = f"model:\n  source: {folder / 'model'}\nresources:\n  root: {folder / 'runs'}\n"
    (folder / "good.yaml").write_text(good)
    (folder / "bad.yaml").write_text(good + "trian: {}\n")
    (folder / "bad-study.yaml").write_text(good + "trian: {}\nstudy: {methods: {a: {}}}\n")
    (folder / "bad-rounds.yaml").write_text(good + "trian: {}\nrounds: {count: 2}\n")
    (folder / "bad-sweep.yaml").write_text(good + "trian: {}\nsweep: {methods: {a: {}}}\n")
    return str(folder / "good.yaml"), str(folder / "bad.yaml")


def test_doors_are_light(configs: tuple[str, str]) -> None:
    """Every door's --help and a bad config, and what only looks, in one process: none imports a heavy package."""
    good, bad = configs
    bad_for = {name: bad.replace("bad.yaml", f"bad-{name}.yaml") for name in ("study", "rounds", "sweep")}
    calls = [(door, ["--help"], 0) for door in DOORS]
    configured = [door for door in DOORS if door not in ("score", "init")]  # which read verdicts, and write one
    more = {door: ["--to", bad] for door in ("export", "fetch")} | {"track": ["--to", "tensorboard"]}
    more |= {"rank": ["--data", bad], "publish": ["--to", "owner/name", "--licence", "mit"]}
    calls += [(door, ["--config", bad_for.get(door, bad), *more.get(door, [])], 2) for door in configured]
    calls += [("run", ["--config", good, "--dry-run"], 0), ("status", ["--config", good], 0)]
    calls += [("list", ["--config", good], 0), ("prune", ["--config", good], 0)]
    code = f"""
import runpy, sys
for door, arguments, expected in {calls!r}:
    sys.argv = [door, *arguments]
    code = 0
    try:
        runpy.run_module("jobs." + door, run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    assert code == expected, (door, arguments, code)
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    assert not heavy, (door, arguments, heavy)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("trian is not a key of the configuration") == len(configured)
    assert done.stderr.count("did you mean train?") == len(configured) and "Traceback" not in done.stderr
    assert "make  prepare" in done.stdout and "missing" in done.stdout


def test_every_stage_has_a_door() -> None:
    from pipeline.line.steps import STAGES

    assert set(DOORS) == {
        *STAGES,
        *("run", "study", "rounds", "sweep", "status", "fit", "init", "list", "prune"),
        *("score", "export", "fetch", "rank", "publish", "track"),
    }
