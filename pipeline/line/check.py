"""What can be known to fail before any work begins, a function a fault: each raises the UserError that the stage would.

The look is cheap where all is well: headers and lists of tokens, without torch. What seems wrong is left to the library
that will open it, so that nothing is refused here that would work. Faults of this machine or cluster are looked for in
jobs/common/check.py, those of settings alone when they are read.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.compute import gguf
from pipeline.compute.autoencoders import find, size
from pipeline.compute.configuration import embeddings
from pipeline.compute.limits import built, positions, read_config, read_json, require_buildable, weight_files
from pipeline.compute.models import ModelSource
from pipeline.compute.optimizer import require_optimizer
from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import questions
from pipeline.evaluation.benchmarks.sampling import PRESETS, check_family, sampling
from pipeline.evaluation.judging import baselines, contest, words
from pipeline.line.identity import COLUMNS, needed_columns
from pipeline.line.plan import OF_A_STREAM, Plan, Step
from pipeline.line.raters import require_reward, require_rules
from pipeline.objectives.presets import resolve
from pipeline.onpolicy.prompts import look as look_at_prompts
from pipeline.preferences.arguments import require_arguments
from pipeline.results.files import given_path
from pipeline.settings.config import Model
from pipeline.settings.inputs import EMBEDDED
from pipeline.settings.streams import FIRST, require_in_each_step
from pipeline.statistics import share_of


def faults(plan: Plan, steps: Sequence[Step]) -> list[UserError]:
    """What will go wrong when `steps` are made in order, as far as it can be known now."""
    stages = {step.stage for step in steps}
    looks = [partial(look, plan) for of, look in LOOKS if stages & of]
    for line in plan.streams.values():
        looks += [partial(look, line) for of, look in LOOKS if stages & of & {*OF_A_STREAM}]
    return found([partial(inputs, steps), *looks])


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


def chat_template(plan: Plan) -> None:
    """A tokenizer without a chat template, or none at all."""
    _template_of(plan.model, plan.config.model, "model")


def judges_chat_template(plan: Plan) -> None:
    if plan.judge and plan.config.judge.local:
        _template_of(plan.judge, plan.config.judge.local, "judge.local")


def raters(plan: Plan) -> None:
    """Rules that know nothing of the prompts, models that give no one score, and any without a chat template."""
    for each in plan.front.raters if plan.front else ():
        model = each.settings.as_model
        if each.settings.rules:
            require_rules(plan.config.sample.prompts)
        if model is None or each.model is None:
            continue
        if each.settings.model:
            from pipeline.preferences.tokenise import open_tokeniser

            require_reward(each.settings, each.model.path)
            open_tokeniser(each.model.path, 1, 1, **model.rendering)  # all of it: the next to try would be its rater
        else:
            _configuration_of(each.model, model, "rate.raters")
            _template_of(each.model, model, "rate.raters")


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


def _template_of(source: ModelSource, model: Model, setting: str) -> None:
    written = _source_of_template(source, model)
    if written:
        given = model.chat_template and f"{setting}.chat_template={model.chat_template}"
        whose = given or f"the chat template of {setting}.source={model.source}"
        require_arguments(written, model.template_arguments, whose)
    elif source.is_gguf:
        problem = f"{setting}.source={model.source} has no chat template (tokenizer.chat_template) in its metadata"
        raise UserError(problem, f"use an instruction-tuned model, or give {setting}.chat_template a Jinja file")
    else:
        from pipeline.preferences.tokenise import open_tokeniser

        open_tokeniser(source.path, 1, 1, **model.rendering)


def _source_of_template(source: ModelSource, model: Model) -> str:
    """The text of a model's chat template, or of several; nothing where there is none that is found so."""
    if model.chat_template:
        return Path(model.chat_template).read_text(encoding="utf-8", errors="replace")
    if source.is_gguf:
        return str(gguf.metadata(source.path).get("tokenizer.chat_template") or "")
    own = read_json(source.path / "tokenizer_config.json").get("chat_template") or ""
    named = [own] if isinstance(own, str) else [str(each.get("template")) for each in own if isinstance(each, dict)]
    files = [*source.path.glob("chat_template*.j*"), *source.path.glob("*/*.jinja")]
    return "\n".join([*named, *(file.read_text(encoding="utf-8", errors="replace") for file in files)]).strip()


def a_gpu_a_worker(plan: Plan) -> None:
    """Several train workers on one GPU: NCCL, through which they share gradients, refuses that once they have begun."""
    gpus, workers = plan.config.resources.gpus_per_actor, plan.config.resources.workers.most
    if 0 < gpus < 1 and workers > 1:
        raise UserError(
            f"resources.gpus_per_actor={gpus:g} with resources.train_workers={workers}: each train worker needs a GPU "
            "of its own; only scorers and engines share one",
            "set resources.gpus_per_actor=1, or resources.train_workers=1",
        )


def other_weights(plan: Plan) -> None:
    """Weights that training starts from, or of the reference, that cannot be opened or are of other tokens."""
    config = plan.config
    for source, given, setting in (
        (plan.start, config.train.start, "train.start"),
        (plan.reference, config.reference.model, "reference.model"),
    ):
        if given:
            _configuration_of(source, config.model_of(given), setting)
            if (plan.model_folder / "config.json").is_file() and plan.folder_of(source).is_dir():
                from pipeline.compute.kinship import require_same_tokens

                of = f"{setting}.source={given.source}"
                require_same_tokens(plan.model_folder, plan.folder_of(source), config.model, of)


def adapter_layers(plan: Plan) -> None:
    """Layers to adapt that the model has not got."""
    lora, folder = plan.config.train.lora, plan.folder_of(plan.start)
    if lora is None or lora.layers == "all-linear" or not (folder / "config.json").is_file():
        return
    layers = [lora.layers] if isinstance(lora.layers, str) else lora.layers
    here = _matrices(folder)
    named = all(any(names_layer(lora.layers, layer, module) for module in here) for layer in layers)
    if named and not isinstance(lora.layers, str):
        return
    # A checkpoint may have other names than the model, and an expression may mean what is no matrix.
    modules = _modules(folder, plan.config.model)
    here = [name for name, is_matrix in modules.items() if is_matrix]
    remedy = f"use all-linear, or some of {', '.join(sorted({module.rpartition('.')[2] for module in here}))}"
    for layer in layers if here else ():
        if not any(names_layer(lora.layers, layer, module) for module in here):
            raise UserError(f"train.lora.layers: the model has no {layer}", remedy)
        if others := [name for name in modules.keys() - {*here} if names_layer(lora.layers, layer, name)]:
            shown = ", ".join(sorted(others)[:3])
            raise UserError(f"train.lora.layers={layer} means {shown}, too, which hold no matrix to adapt", remedy)


def optimizer(plan: Plan) -> None:
    """An optimiser whose package is not installed."""
    config = plan.config
    sharded = config.resources.shards(config.model.dtype, config.resources.workers.most)
    require_optimizer(config.train, sharded)


def names_layer(layers: Any, layer: str, module: str) -> bool:
    """Whether PEFT takes `layer` for a module: a text alone is a regular expression, of several each ends a name."""
    if isinstance(layers, str):
        return re.fullmatch(layer, module) is not None
    return module == layer or module.endswith(f".{layer}")


def _matrices(folder: Path) -> list[str]:
    """Modules with a weight of two dimensions, from the headers of a model's files."""
    from safetensors import SafetensorError, safe_open

    modules = []
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="np") as tensors:
                weights = [name for name in tensors.keys() if name.endswith(".weight")]  # noqa: SIM118 - no dictionary
                modules += [name[:-7] for name in weights if len(tensors.get_slice(name).get_shape()) == 2]
        except (OSError, SafetensorError):
            continue  # whoever opens the weights says so
    return modules


def _modules(folder: Path, model: Model) -> dict[str, bool]:
    """Modules of the architecture as it is built, and whether each has a weight of two dimensions; none where it cannot
    be built so."""
    import torch

    try:
        modules = dict(built(folder, "", model.trust_remote_code).named_modules())
    except UserError:  # whoever loads it says so
        return {}
    weights = {name: getattr(module, "weight", None) for name, module in modules.items() if name}
    return {name: isinstance(weight, torch.Tensor) and weight.dim() == 2 for name, weight in weights.items()}


def configuration(plan: Plan) -> None:
    """A config.json that transformers cannot make a model of."""
    _configuration_of(plan.model, plan.config.model, "model")


def editor(plan: Plan) -> None:
    """An editor that runs here and cannot be opened, or has no chat template."""
    if plan.editor and plan.config.bridge.local:
        _configuration_of(plan.editor, plan.config.bridge.local, "bridge.local")
        _template_of(plan.editor, plan.config.bridge.local, "bridge.local")


def judges_configuration(plan: Plan) -> None:
    if plan.judge and plan.config.judge.local:
        _configuration_of(plan.judge, plan.config.judge.local, "judge.local")


def _configuration_of(source: ModelSource, model: Model, setting: str) -> None:
    if not source.is_gguf:
        require_buildable(source.path, f"{setting}.source={model.source}", model.trust_remote_code)


def vocabulary(plan: Plan) -> None:
    """Plain tokens that the model has no embedding for. Added ones are left to prepare, which sees what is used."""
    known = None if plan.model.is_gguf else embeddings(read_config(plan.model.path))
    if known is None:
        return
    largest = max(_plain_tokens(read_json(plan.model.path / "tokenizer.json")), default=0)
    if largest >= known:
        raise UserError(
            f"model.source={plan.config.model.source}: its tokenizer.json has tokens up to {largest}, its config.json "
            f"{known} embeddings (vocab_size)",
            "give the tokenizer that the weights were trained with, and the config.json that was saved with them",
        )


def _plain_tokens(tokenizer: dict[str, Any]) -> set[int]:
    """Ids of a tokenizer.json's vocabulary, but for the added tokens; none where it has another form."""
    model = tokenizer.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    ids = words.values() if isinstance(words, dict) else range(len(words) if isinstance(words, list) else 0)
    return {id_ for id_ in ids if isinstance(id_, int)} - {
        each.get("id") for each in tokenizer.get("added_tokens") or ()
    }


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


def preset(plan: Plan) -> None:
    """A sampling preset of another family, whose stop tokens are words of this model."""
    settings, folder = plan.config.generate, plan.model_folder
    if settings.preset is None or settings.stop_token_ids is not None or not folder.is_dir():
        return
    controls = {each["id"] for each in read_json(folder / "tokenizer.json").get("added_tokens", [])}
    if not controls.issuperset(PRESETS[settings.preset]["stop_token_ids"]):
        from pipeline.preferences.loading import load_tokenizer

        trusted = plan.config.model.trust_remote_code
        check_family(settings.preset, load_tokenizer(folder, trust_remote_code=trusted))


def stop_tokens(plan: Plan) -> None:
    """Tokens that are to end answers, and that the model has no embedding for: none of its answers holds them."""
    _require_ends(plan.model, plan.config.generate.stop_token_ids or (), "generate.stop_token_ids")


def _require_ends(source: ModelSource, tokens: Sequence[int], setting: str) -> None:
    known = None if source.is_gguf else embeddings(read_config(source.path))
    if known and (beyond := [id_ for id_ in tokens if id_ >= known]):
        problem = f"{setting}: no answer ends at token {beyond[0]}, as the model has {known} embeddings"
        raise UserError(problem, "give ids of the model's own tokenizer")


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


def features(plan: Plan) -> None:
    """A layer that the model has not got, an autoencoder of another size, or one to be trained for several streams."""
    config, settings = plan.config, plan.config.features
    if not config.reads_features:
        return
    if plan.streams and settings.source is None:
        problem = f"objective.name={config.objective.name} with streams: each would have features of its own training"
        raise UserError(problem, "give features.source, such as the one that a run without streams has trained")
    if not (plan.model_folder / "config.json").is_file():
        return  # a .gguf file that prepare has yet to convert
    known = read_config(plan.model_folder)
    layers, width = known.get("num_hidden_layers"), known.get("hidden_size")
    found = find(given_path(settings.source, "features.source")) if settings.source else None
    layer = settings.layer_read(found.layer) if found else settings.layer
    if isinstance(layers, int) and layer is not None and layer >= layers:
        whose = f"model.source={config.model.source} has {layers}, from 0"
        problem = f"features are to be read of layer {layer}, and {whose}"
        raise UserError(problem, "give features.layer one that is there, or leave it out")
    if found and isinstance(width, int) and (read := size(found)[0]) != width:
        problem = f"features.source={settings.source} is of states of {read} channels, and the model's are of {width}"
        raise UserError(problem, "give one that was made for this model, or leave features.source out")


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


def sampled(plan: Plan) -> None:
    """Prompts that are none, and models that answer them and cannot be opened, or have no chat template."""
    front, sample = plan.front, plan.config.sample
    assert front is not None
    look_at_prompts(sample.prompts)
    start = plan.config.train.start
    own = sample.model or plan.config.model_of(start)
    answerers = [(front.model, own, "sample.model" if sample.model else "train.start" if start else "model")]
    if front.against and sample.against:
        answerers.append((front.against, sample.against, "sample.against"))
    for source, model, setting in answerers:
        _configuration_of(source, model, setting)
        _template_of(source, model, setting)
        _require_ends(source, sample.stop_token_ids, "sample.stop_token_ids")


LOOKS: Sequence[tuple[set[str], Callable[[Plan], None]]] = (
    ({"sample"}, sampled),
    ({"prepare", "features", "reference", "train", "generate"}, configuration),
    ({"sample", "reference", "train"}, other_weights),
    ({"rate"}, raters),
    ({"pair"}, meeting),
    ({"bridge"}, editor),
    ({"prepare"}, vocabulary),
    ({"prepare", "generate"}, chat_template),
    ({"features", "reference", "schedule", "train"}, train_pairs),
    ({"features", "reference", "schedule", "train"}, columns),
    ({"features", "reference", "train"}, features),
    ({"train"}, streams),
    ({"train"}, a_gpu_a_worker),
    ({"train"}, adapter_layers),
    ({"train"}, optimizer),
    ({"generate"}, benchmarks),
    ({"generate"}, preset),
    ({"generate"}, stop_tokens),
    ({"judge"}, judges_configuration),
    ({"judge"}, judges_words),
    ({"judge"}, judges_chat_template),
)
