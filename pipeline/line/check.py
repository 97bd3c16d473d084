"""What can be known to fail before any work begins, a function a fault: each raises the UserError that the stage would.

The look is cheap where all is well: headers and lists of tokens, without torch. What seems wrong is left to the library
that will open it, so that nothing is refused here that would work. What models' files show is in check_models.py and
check_adapters.py. Faults of this machine or cluster are looked for in jobs/common/check.py, those of settings alone
when they are read.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

from pipeline.compute.limits import positions, read_config
from pipeline.compute.optimizer import require_optimizer
from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import questions
from pipeline.evaluation.benchmarks.sampling import sampling
from pipeline.evaluation.judging import baselines, contest, words
from pipeline.line import check_models as models
from pipeline.line.check_adapters import adapter_layers
from pipeline.line.identity import COLUMNS, needed_columns
from pipeline.line.steps import Plan, Step
from pipeline.objectives.presets import resolve
from pipeline.settings.inputs import EMBEDDED
from pipeline.settings.streams import FIRST, require_in_each_step
from pipeline.statistics import share_of


def faults(plan: Plan, steps: Sequence[Step]) -> list[UserError]:
    """What will go wrong when `steps` are made in order, as far as it can be known now."""
    looks = [partial(inputs, steps)]
    for name, line in (None, plan), *plan.streams.items():
        stages = {step.stage for step in steps if step.stream == name}
        looks += [partial(look, line) for of, look in LOOKS if stages & of]
    return found(looks)


def found(looks: Sequence[Callable[[], None]]) -> list[UserError]:
    """The errors of all looks, each once."""
    errors: dict[str, UserError] = {}
    for look in looks:
        try:
            look()
        except UserError as error:
            errors.setdefault(str(error), error)
    return list(errors.values())


def inputs(steps: Sequence[Step]) -> None:
    """Results that are neither there nor made before they are read.

    The base model's answers are worth making where the trained model is not there yet.
    """
    made = {step.address.fingerprint for step in steps}
    for step in steps:
        if step.name == "generate:trained" and any(other.name == "generate:base" for other in steps):
            continue
        for role, other in step.inputs.items():
            if other.address.fingerprint not in made and not other.address.find():
                raise step.lacks(role)


def meeting(plan: Plan) -> None:
    """Answers of which no two can make a pair, however they are rated."""
    sample, among = plan.config.sample, plan.config.pair.among
    of_the_data = sample.reference_answers and sample.prompts.source != EMBEDDED
    if sample.n == 1 and not (sample.against or sample.branch.cuts or of_the_data):
        remedy = "raise sample.n; or set sample.reference_answers=true where the data have answers of their own"
        raise UserError("sample.n=1 gives every prompt one answer, and a pair takes two", remedy)
    if among == "siblings" and sample.branch.cuts and sample.branch.children == 1:
        problem = "pair.among=siblings pairs answers that go on from one cut, and sample.branch.children=1"
        raise UserError(problem, "raise sample.branch.children, or set pair.among=all")


def a_gpu_a_worker(plan: Plan) -> None:
    """Several train workers on one GPU: NCCL, through which they share gradients, refuses that once they have begun."""
    gpus, workers = plan.config.resources.gpus_per_actor, plan.config.resources.workers.most
    if 0 < gpus < 1 and workers > 1:
        raise UserError(
            f"resources.gpus_per_actor={gpus:g} with resources.train_workers={workers}: each train worker needs a GPU "
            "of its own; only scorers and engines share one",
            "set resources.gpus_per_actor=1, or resources.train_workers=1",
        )


def optimizer(plan: Plan) -> None:
    """An optimiser whose package is not installed."""
    config = plan.config
    sharded = config.resources.shards(config.model.dtype, config.resources.workers.most)
    require_optimizer(config.train, sharded)


def benchmarks(plan: Plan) -> None:
    """Files of questions that cannot be read, or hold none; answers that take more tokens than the model does, whatever
    is asked. With their questions, generate counts.
    """
    settings, most = plan.config.generate, positions(read_config(plan.model_folder))
    answers = [
        sampling(settings, name, asked).max_tokens * (1 + len(asked.then)) for name, asked in questions.asked(settings)
    ]
    if most and min(answers) >= most:
        problem = f"an answer to the shortest question may take {min(answers)} tokens, the model takes {most} in all"
        raise UserError(problem, "lower generate.max_new_tokens")


def judges_words(plan: Plan) -> None:
    """Words to the judge that are none for its way of judging, and baselines that answer none of the questions."""
    settings = plan.config.judge
    if settings.model is None and settings.local is None:
        return
    asked: dict[str, list[questions.Question]] = {}
    for name, question in questions.asked(plan.config.generate):
        asked.setdefault(name, []).append(question)
    for name, own in asked.items():
        method = contest.method_of(name, any(each.then for each in own), settings.methods.get(name))
        words.words(name, method, settings.wording.get(name))
        if name in settings.baselines:
            shown = {each.question_id: contest.shown(each.messages, each.meta) for each in own}
            baselines.read(name, settings.baselines[name], shown)


def train_pairs(plan: Plan) -> None:
    """Prepared pairs of which none is to be trained."""
    prepared = plan.steps["prepare"].address.find()
    splits = prepared.manifest["metrics"].get("splits") if prepared else None
    if splits and not splits.get("train"):
        found = ", ".join(f"{count} of split {name}" for name, count in sorted(splits.items()))
        problem = f"data.source={plan.config.data.source} holds no pair to train: {found}"
        raise UserError(problem, "give rows of split train, or rows without a split; or lower data.dev_fraction")


def streams(plan: Plan) -> None:
    """An objective that weighs two streams, without a second; and streams too small to be in every step."""
    config, names = plan.config, [FIRST, *plan.streams]
    preset, parameters = resolve(config.objective.name, config.objective.parameters)
    if preset.two_streams and len(names) != 2:
        problem = f"objective.name={config.objective.name} weighs two streams of pairs, and there are {len(names)}"
        raise UserError(problem, "give one beside the first, such as 'streams={other: {data: PAIRS}}'")
    prepared = [(line, line.steps["prepare"].address.find()) for line in (plan, *plan.streams.values())]
    known = [_positions(line, each.manifest["metrics"].get("splits", {})) for line, each in prepared if each]
    if config.stream_weights and len(known) == len(names):
        least = 2 if preset.balances(parameters) else 1
        require_in_each_step(dict(zip(names, known, strict=True)), config.train.batch_size, least)


def _positions(line: Plan, splits: dict[str, int]) -> int:
    """Of a line's schedule, without those that it drops."""
    schedule, train = line.config.schedule, splits.get("train", 0)
    return schedule.epochs * (train - math.floor(share_of(train, schedule.drop_percentile or 0) / 100))


def columns(plan: Plan) -> None:
    """A column that some of the prepared pairs lack, and that the objective or the schedule lives on."""
    prepared = plan.steps["prepare"].address.find()
    lacking = prepared.manifest["metrics"].get("lacking", {}) if prepared else {}
    for column, setting in needed_columns(plan.config, every_pair=True).items():
        if one := lacking.get(column):
            raise UserError(
                f"{setting} needs {column} of every pair, which {one['pairs']} of {one['of']} train pairs lack "
                f"(such as row {one['row']} of data.source={plan.config.data.source})",
                COLUMNS[column],
            )


LOOKS: Sequence[tuple[set[str], Callable[[Plan], None]]] = (
    ({"sample"}, models.sampled),
    ({"prepare", "features", "reference", "train", "generate"}, models.configuration),
    ({"sample", "reference", "train"}, models.other_weights),
    ({"rate"}, models.raters),
    ({"pair"}, meeting),
    ({"bridge"}, models.editor),
    ({"prepare"}, models.vocabulary),
    ({"prepare", "generate"}, models.chat_template),
    ({"features", "reference", "schedule", "train"}, train_pairs),
    ({"features", "reference", "schedule", "train"}, columns),
    ({"features", "reference", "train"}, models.features),
    ({"train"}, streams),
    ({"train"}, a_gpu_a_worker),
    ({"train"}, adapter_layers),
    ({"train"}, optimizer),
    ({"generate"}, benchmarks),
    ({"generate"}, models.preset),
    ({"generate"}, models.stop_tokens),
    ({"judge"}, models.judges_configuration),
    ({"judge"}, judges_words),
    ({"judge"}, models.judges_chat_template),
)
