"""The configuration: what is shipped loads, and every mistake is one error that says what to write instead."""

from pathlib import Path

import pytest
import yaml

from pipeline.errors import UserError
from pipeline.objectives.presets import PRESETS
from pipeline.settings.config import RunConfig, load, validate
from pipeline.settings.faults import ALIASES, paths
from pipeline.settings.file import read
from pipeline.settings.resources import Resources
from pipeline.settings.unused import rules, unused

CONFIGS = Path(__file__).parents[3] / "configs"
QUICKSTART = str(CONFIGS / "quickstart.yaml")


# See test_study.py, test_rounds.py and test_sweep.py.
OTHERS = {*CONFIGS.rglob("study-*.yaml"), *CONFIGS.rglob("rounds*.yaml"), *CONFIGS.rglob("bench/*.yaml")}
SHIPPED = sorted(set(CONFIGS.rglob("*.yaml")) - OTHERS)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_shipped_config_loads(path: Path) -> None:
    config = load(str(path))
    for section, settings in yaml.safe_load(path.read_text()).items():
        for key in settings if isinstance(settings, dict) else []:
            read = getattr(config, section)
            assert key in read if isinstance(read, dict) else hasattr(read, key), f"{section}.{key}"


def test_overrides_are_typed_like_the_file() -> None:
    overrides = """
        train.learning_rate=1e-5 train.adam_betas=[0.8,0.9] schedule.sft_percentile=null schedule.sft_below=0.25
        objective.beta=5e-2 generate.split=dev name=other data=null
    """
    config = load(QUICKSTART, overrides.split())
    assert config.train.learning_rate == 1e-5 and config.train.adam_betas == (0.8, 0.9)
    assert config.schedule.sft_percentile is None and config.schedule.sft_below == 0.25
    assert config.objective.parameters["beta"] == 0.05
    assert config.generate.split == "dev" and config.name == "other"
    assert config.data.pairs == 256  # `data:` with nothing under it means the defaults


def test_a_template_is_where_the_door_is_whoever_renders_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = str(CONFIGS / "bvpo.yaml")
    monkeypatch.chdir(tmp_path)
    for given, whole in (("turns.jinja", tmp_path / "turns.jinja"), ("~/turns.jinja", tmp_path / "home/turns.jinja")):
        assert load(file, [f"model.chat_template={given}"]).model.chat_template == str(whole)
    rater = load(file, ["rate.raters=[{model: x, chat_template: turns.jinja}]"]).rate.raters[0].as_model
    assert rater and rater.chat_template == str(tmp_path / "turns.jinja")


def test_numbers_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    """In the file as on the command line: by YAML 1.1 these are 8, 90, text, 3, 1000 and text."""
    given = {"010": 10, "1:30": "1:30", "0o17": 15, "0b11": "0b11", "1_000": "1_000", "1e3": 1000.0}
    given |= {"0x1F": 31, "+7": 7, "-.5": -0.5, "1.": 1.0, "5E-2": 0.05, "08": 8, "1e": "1e", "'1e3'": "1e3"}
    file = tmp_path / "numbers.yaml"
    file.write_text("study:\n" + "".join(f"  k{i}: {text}\n" for i, text in enumerate(given)))
    raw = read(str(file), [f"study.o{i}={text}" for i, text in enumerate(given)])["study"]
    for i, (text, value) in enumerate(given.items()):
        assert (type(raw[f"k{i}"]), raw[f"k{i}"]) == (type(value), value) == (type(raw[f"o{i}"]), raw[f"o{i}"]), text


def test_the_schedule_holds_what_the_objective_asks() -> None:
    def schedule(**objective: object) -> tuple[str | None, float | None]:
        made = RunConfig.model_validate({"model": {"source": "m"}, "objective": objective}).schedule
        return made.order, made.sft_percentile

    assert schedule(name="gamma-dpo") == schedule() == ("shuffle", None)
    assert schedule(name="mixdpo") == ("easy-to-hard", 10.0)


@pytest.mark.parametrize(
    ("override", "problem", "remedy"),
    [
        ("trian.batch_size=8", "trian is not a key", "did you mean train?"),
        ("train.lerning_rate=1", "train.lerning_rate is not a key", "did you mean train.learning_rate?"),
        ("train.x=1", "train.x is not a key", "known: learning_rate, lr_schedule"),
        ("train.lr=1e-5", "train.lr is not a key", "did you mean train.learning_rate?"),
        ("train.lora.r=16", "train.lora.r is not a key", "did you mean train.lora.rank?"),
        ("train.lora.rnk=16", "train.lora.rnk is not a key", "did you mean train.lora.rank?"),
        ("train.lora=sixteen", "train.lora='sixteen' is a section", "set its keys: rank, alpha"),
        ("train.lora.layers=3", "train.lora.layers=3: Input should be", "give text"),
        ("train.lora.layers=[]", "train.lora.layers=[] holds nothing", "give some, such as [q_proj, v_proj]"),
        ("train.adam_betas=[]", "train.adam_betas=[] holds nothing", "give some, such as [0.9, 0.999]"),
        ("train.adam_betas=[0.9]", "train.adam_betas=[0.9] holds too few values", "give more, such as [0.9, 0.999]"),
        ("train.adam_betas=[0.9, 0.9, 0.9]", "holds too many values", "give fewer, such as [0.9, 0.999]"),
        (
            "generate.benchmarks={}",
            "generate.benchmarks={} holds nothing",
            "give some, such as {mine: questions.jsonl, verifiable: null}",
        ),
        (
            "generate.benchmarks=[]",
            "generate.benchmarks={} holds nothing",
            "give some, such as {mine: questions.jsonl, verifiable: null}",
        ),
        ("generate.stop={}", "generate.stop={}: Input should be", "give a list, such as ['###', 'User:']"),
        ("judge.methods=[]", "judge.methods=[]: Input should be", "a value each, such as {alpaca_eval: games}"),
        ("judge.local={}", "judge.local.source is missing", "judge.local.source=VALUE"),
        ("train.lora.layers=''", "train.lora.layers='' names no layer", "names such as"),
        ("train.lora.layers=[q_proj, '']", "('q_proj', '') names no layer", "names such as"),
        ("generate.stop=['']", "generate.stop.0=''", "give a value"),
        ("train.lora.layers='('", "train.lora.layers='(' is no regular expression", "names such as"),
        ("seed=3", "seed is not a key", "did you mean data.seed or schedule.seed or train.seed or"),
        ("train.epochs=3", "train.epochs is not a key", "did you mean schedule.epochs?"),
        ("data.max_length=3", "data.max_length is not", "did you mean data.max_prompt_tokens and data.max_completion"),
        ("judge.local.sorce=m", "judge.local.sorce is not a key", "did you mean judge.local.source?"),
        ("generate.benchmarks=3", "generate.benchmarks=3: Input should be", "give names with a value each"),
        ("generate.benchmarks=[{mine: a}, {mine: b}]", "names mine twice", "another name"),
        ("objective.preference=simpo", "objective.preference=simpo takes no tau", "leave objective.tau out, or"),
        ("objective.tau=", "objective.tau has no value", "give a value like 1.0"),
        ("objective.beta=1" + "0" * 400, "objective.beta=1000", "give a smaller number"),
        ("train.lora={rank: 4, rank: 8}", "rank stands twice", "leave one of them out"),
        ("train.batch_size=0", "train.batch_size=0", "give 1 or more"),
        ("sample.n=0", "sample.n=0", "give 1 or more"),
        ("sample.n=yes", "sample.n=True: a number is wanted", "give a number"),
        ("sample.temperature=0", "are all the same answer", "set sample.n=1"),
        ("sample.preset=simp", "sample.preset='simp'", "did you mean simpo?"),
        ("sample.prompts.columns={prompt: x}", "are made, not read", "leave it out"),
        ("sample.brunch={}", "sample.brunch is not a key", "did you mean sample.branch?"),
        ("rate.raters=[]", "rate.raters names nobody", "rate.raters=[rules]"),
        ("rate.raters=[rules, rules]", "rate.raters names rater 2 twice", "name each rater once"),
        ("rate.raters=[{judge: a, model: b}]", "is model and judge", "one of them a rater"),
        ("rate.raters=[{}]", "is none of rules, model, judge and local", "one of them a rater"),
        ("rate.raters={model: m, kind: armo}", "scores by code of its own", "trust_remote_code: true"),
        ("rate.raters=[{modl: m}]", "rate.raters.0.modl is not a key", "did you mean"),
        ("pair.rule=best", "pair.rule='best'", "choose one of best-worst"),
        ("pair.contrast.high=1", "add up to 1.5", "shares that add up to 1"),
        ("train.batch_size=yes", "train.batch_size=True: a number is wanted", "give a number"),
        ("train.adam_betas=[0.9, true]", "train.adam_betas=[0.9, True]: a number is wanted", "give a number"),
        ("train.lora={rank: yes}", "train.lora.rank=True: a number is wanted", "give a number"),
        ("sample.branch.cuts=yes", "sample.branch.cuts=True: a number is wanted", "give a number"),
        ("train.batch_size=1_000", "train.batch_size='1_000': a number is wanted", "give a number"),
        ("train.adam_betas=[0.9, 0.9_9]", "train.adam_betas=[0.9, '0.9_9']: a number is wanted", "give a number"),
        ("train.batch_size=1:30", "train.batch_size='1:30': Input should be", "give a whole number"),
        ("train.batch_size=0b11", "train.batch_size='0b11': Input should be", "give a whole number"),
        ("train.learning_rate=1:30.5", "train.learning_rate='1:30.5': Input should be", "give a number"),
        ("train.learning_rate=.inf", "train.learning_rate=inf", "give a finite number"),
        ("objective.beta=1:30", "objective.beta='1:30' is a str", "a value like 0.1"),
        ("name=1e3", "name=1000.0", "in quotes"),
        ("train.batch_size=1.5", "train.batch_size=1.5", "give a whole number"),
        ("train.batch_size=", "train.batch_size has no value", "give a whole number"),
        ("train.learning_rate=nan", "train.learning_rate='nan'", "give a finite number"),
        ("train.learning_rate=0", "train.learning_rate=0", "give more than 0"),
        ("train.adam_betas=[0.9, 1]", "train.adam_betas.1=1", "give less than 1"),
        ("schedule.order=shuffel", "schedule.order='shuffel'", "did you mean shuffle? choose one of shuffle, easy-"),
        ("schedule.sft_below=0.1", "two ways to say the same", "set one of them to null"),
        ("train.lora={rank: 513, merge: false}", "train.lora.rank=513 is more than", "train.lora.merge to true"),
        ("model.source=", "model.source has no value", "give text"),
        ("model.source=''", "model.source=''", "give a value"),
        ("model=", "model.source is missing", "model.source=VALUE"),
        ("model.dtype=float16", "model.dtype='float16'", "choose one of float32, bfloat16"),
        ("data=3", "data=3 is a section", "set its keys: source, subset"),
        ("data=[]", "data=[] is a section", "set its keys: source"),
        ("schedule=[]", "schedule=[] is a section", "set its keys: order"),
        ("name.x=1", "name is not a section", "configs/quickstart.yaml"),
        ("name={a: 1}", "name={'a': 1}", "give text"),
        ("objective={}", "schedule routes pairs to SFT", "objective.name=mixdpo"),
        ("objective=[]", "objective=[] is a section", "set its keys: name"),
        ("objective.name=[1]", "objective.name=[1]", "give text"),
        ("objective.name=mixpo", "'mixpo' is not an objective", "did you mean mixdpo?"),
        ("objective.bata=1", "objective.bata is not a parameter of mixdpo", "did you mean objective.beta?"),
        ("objective.beta=abc", "objective.beta='abc' is a str", "a value like 0.1"),
        ("objective.beta=.nan", "objective.beta=nan is out of range", "(0, inf)"),
        ("learning_rate", "is not section.key=value", "train.learning_rate=1e-5"),
        ("train..x=1", "is not section.key=value", "train.learning_rate=1e-5"),
        ("=1", "is not section.key=value", "train.learning_rate=1e-5"),
    ],
)
def test_a_bad_override_is_one_error(override: str, problem: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        load(QUICKSTART, [override])
    assert problem in caught.value.problem and remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "model.source is missing"),
        ("- a", "holds a list, not sections"),
        ("model: [", "is not YAML"),
        ("? [a]\n: b", "is not YAML"),
        ("day: 2020-13-45", "is not YAML"),
        ("\xff", "is not YAML"),
        ("model: [tiny]", "model=['tiny'] is a section"),
        ("model: m\nmodel: {source: n}", "model stands twice, in line 1 and in line 2"),
        ("model: m\ntrain:\n  lora: {rank: 4, 'rank': 8}", "rank stands twice, in line 3 and in line 3"),
        ('model: {source: "m\\0"}', "model.source='m\\x00' holds a character that no file can hold"),
        ("model: m\ndata: {seed: 9223372036854775808}", "beyond what 64 bits hold"),
        ("model: {source: m, 3: 4}", "model.3 is not a key"),
        ("model: {source: m}\n3: 4", "3 is not a key"),
        ("model: {source: m, revison: main}", "model.revison is not a key"),
    ],
)
def test_a_bad_file_is_one_error(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        load(str(file))
    assert problem in caught.value.problem


def test_a_missing_file_names_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"no such file\n.*did you mean .*quickstart.yaml"):
        load(str(CONFIGS / "quikstart.yaml"))


def test_a_recipe_is_found_by_name_after_a_file_of_that_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("quickstart") == load(str(CONFIGS / "quickstart.yaml"))
    assert load("papers/zephyr", ["train.batch_size=64"]).train.batch_size == 64
    own = tmp_path / "papers" / "zephyr"
    own.parent.mkdir()
    own.write_text("{name: mine, model: {source: m}}")
    assert load("papers/zephyr").name == "mine" and load("papers/tulu3-8b").name == "tulu3-8b"


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("papers/simpo-lama3-instruct", "papers/simpo-llama3-instruct"),
        ("simpo-gemma2-it", "papers/simpo-gemma2-it"),
        ("papers/tulu3-8b.yaml", "papers/tulu3-8b"),
        ("quikstart", "quickstart"),
    ],
)
def test_a_near_recipe_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, near: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load(given)
    assert caught.value.remedy == f"did you mean {near}?"


def test_of_no_recipe_near_the_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such file\n.*or a recipe of .*configs/README.md"):
        load("my-own-thing")


def test_a_folder_is_no_file() -> None:
    with pytest.raises(UserError, match=r"configs: is a folder\n.*quickstart.yaml"):
        load(str(CONFIGS))


SHORT = {
    "train.lora=16": "train.lora={rank: 16}",
    "train.lora=true": "train.lora={}",
    "train.lora=false": "train.lora=null",
    "model=some/folder": "model={source: some/folder}",
    "data=pairs.jsonl": "data={source: pairs.jsonl}",
    "judge.local=some/folder": "judge.local={source: some/folder}",
    "objective=dpo": "objective={name: dpo}",
    "generate.benchmarks=alpaca_eval": "generate.benchmarks={alpaca_eval: null}",
    "generate.benchmarks=[alpaca_eval, mine: q.jsonl]": "generate.benchmarks={alpaca_eval: null, mine: q.jsonl}",
    "generate.stop=END": "generate.stop=[END]",
    "generate.stop_token_ids=2": "generate.stop_token_ids=[2]",
    "sample.prompts=pairs.jsonl": "sample.prompts={source: pairs.jsonl}",
    "sample.prompts=embedded": "sample.prompts={source: verifiable, limit: 256}",
    "sample.against=some/folder": "sample.against={source: some/folder}",
    "train.start=some/folder": "train.start={source: some/folder}",
    "reference.model=some/folder": "reference.model={source: some/folder}",
    "data.earlier=some/folder": "data.earlier=[some/folder]",
    "rate.raters=rules": "rate.raters=[{rules: true}]",
    "rate.raters={model: some/folder}": "rate.raters=[some/folder]",
    "rate.raters={local: some/folder}": "rate.raters=[{local: {source: some/folder}}]",
}


@pytest.mark.parametrize(("short", "long"), SHORT.items())
def test_a_short_form_is_the_long_one(short: str, long: str) -> None:
    assert load(QUICKSTART, [short, "schedule={}"]) == load(QUICKSTART, [long, "schedule={}"])


def test_a_short_form_in_the_file_takes_overrides(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("model: m\ntrain: {lora: 8}\nobjective: dpo\n")
    config = load(str(tmp_path / "short.yaml"), ["model.dtype=bfloat16", "train.lora.merge=false", "objective.beta=2"])
    assert (config.model.source, config.model.dtype) == ("m", "bfloat16")
    assert config.train.lora and (config.train.lora.rank, config.train.lora.merge) == (8, False)
    assert (config.objective.name, config.objective.parameters) == ("dpo", {"beta": 2})


@pytest.mark.parametrize(
    ("overrides", "lost"),
    [
        (["train.seed=1", "train.seed=2"], "train.seed=1"),
        (["train.seed=1", "train={}"], "train.seed=1"),
        (["objective.beta=1", "objective=dpo"], "objective.beta=1"),
        (["train={}", "train.seed=2"], None),
        (["train.seed=1", "train.seeds=2"], None),
    ],
)
def test_no_override_is_lost(overrides: list[str], lost: str | None) -> None:
    with pytest.raises(UserError) as caught:
        load(QUICKSTART, [*overrides, "nonsense"])
    assert (f"{lost!r} would be lost" if lost else "'nonsense' is not section.key=value") in caught.value.problem


@pytest.mark.parametrize(
    "text",
    [
        "schedule: &s {seed: 1}\ntrain: {<<: *s, seed: 2}",
        "schedule: &s {seed: 1}\njudge: {local: null, methods: {}}\ntrain: {<<: [*s, *s], seed: 2}",
        # Merged again before the section that it is in is looked at.
        "data: &d {seed: 1}\nstudy: {deep: &s {<<: *d, seed: 2}}\ntrain: {<<: *s}",
    ],
)
def test_a_key_of_ones_own_replaces_a_merged_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "merged.yaml").write_text(f"model: m\n{text}\n")
    raw = read(str(tmp_path / "merged.yaml"))
    raw.pop("study", None)
    assert validate(raw).train.seed == 2


def test_what_other_trainers_call_our_settings_leads_to_settings_that_are_there() -> None:
    known = {*paths(RunConfig), *(f"objective.{name}" for preset in PRESETS.values() for name in preset.parameters)}
    for alias, ours in ALIASES.items():
        assert set(ours.split(" and ")) <= known, alias
        assert alias not in {path.rpartition(".")[2] for path in paths(RunConfig)}, f"{alias} is a name of our own"


def test_every_rule_of_what_is_not_used_names_settings_that_are_there() -> None:
    config = load(QUICKSTART)
    named = [setting for _, _, settings in rules(config) for setting in settings]
    assert named and set(named) <= set(paths(RunConfig))
    assert unused(config) == {}  # nothing that ships with us is idle


@pytest.mark.parametrize(
    ("overrides", "idle"),
    [
        (["sample.n=3", "pair.rule=all"], {"sample.n", "pair.rule"}),
        (["data=sampled", "sample.n=3", "pair.rule=all"], set()),
        (["data=sampled", "pair.among=siblings", "rate.combine=mean"], {"pair.among", "rate.combine"}),
        (["data=sampled", "sample.against=m"], set()),
        (["data=sampled", "sample.prompts.split=train"], {"sample.prompts.split"}),
        (["data=sampled", "data.pairs=3", "data.pairing=all"], {"data.pairs", "data.pairing"}),
        (["data=sampled", "rate.raters={judge: j}", "resources.judge_endpoint.url=http://h/v1"], set()),
        (["resources.judge_endpoint.url=http://h/v1"], {"resources.judge_endpoint.url"}),
    ],
)
def test_what_is_not_used_of_answers_of_the_models_own(overrides: list[str], idle: set[str]) -> None:
    plain = ["data={}", "train.held_out_steps=0"]
    assert set(unused(load(QUICKSTART, [*plain, *overrides] if overrides[0] != "data=sampled" else overrides))) == idle


def test_delta_wants_a_second_model() -> None:
    with pytest.raises(UserError, match=r"sample\.against names none"):
        load(QUICKSTART, ["data=sampled", "pair.rule=delta"])
    assert load(QUICKSTART, ["data=sampled", "pair.rule=delta", "sample.against=m"]).sample.against


def test_what_is_computed_at_a_time_is_as_the_device_likes_unless_it_is_set() -> None:
    resources = Resources(score_tokens=5000)
    assert resources.budgets("cpu") == (1024, 5000, 1024)
    assert resources.budgets("cuda") == (16384, 5000, 2048)
