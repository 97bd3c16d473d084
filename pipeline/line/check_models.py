"""What the files of models show to fail: a config.json, a template, a vocabulary, layers to read; see check.py.

By headers and lists of tokens: no weights are loaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.compute import gguf
from pipeline.compute.autoencoders import find, size
from pipeline.compute.configuration import embeddings
from pipeline.compute.limits import read_config, read_json, require_buildable
from pipeline.compute.models import ModelSource
from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.sampling import PRESETS, check_family
from pipeline.line.raters import require_reward, require_rules
from pipeline.line.steps import Plan
from pipeline.onpolicy.prompts import look as look_at_prompts
from pipeline.preferences.arguments import require_arguments
from pipeline.results.files import given_path
from pipeline.settings.inputs import Model


def configuration(plan: Plan) -> None:
    """A config.json that transformers cannot make a model of."""
    _configuration_of(plan.model, plan.config.model, "model")


def judges_configuration(plan: Plan) -> None:
    if plan.judge and plan.config.judge.local:
        _configuration_of(plan.judge, plan.config.judge.local, "judge.local")


def chat_template(plan: Plan) -> None:
    """A tokenizer without a chat template, or none at all."""
    _template_of(plan.model, plan.config.model, "model")


def judges_chat_template(plan: Plan) -> None:
    if plan.judge and plan.config.judge.local:
        _template_of(plan.judge, plan.config.judge.local, "judge.local")


def editor(plan: Plan) -> None:
    """An editor that runs here and cannot be opened, or has no chat template."""
    if plan.editor and plan.config.bridge.local:
        _configuration_of(plan.editor, plan.config.bridge.local, "bridge.local")
        _template_of(plan.editor, plan.config.bridge.local, "bridge.local")


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


def _configuration_of(source: ModelSource, model: Model, setting: str) -> None:
    if not source.is_gguf:
        require_buildable(source.path, f"{setting}.source={model.source}", model.trust_remote_code)


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


def _plain_tokens(tokenizer: dict[str, Any]) -> set[int]:
    """Ids of a tokenizer.json's vocabulary, but for the added tokens; none where it has another form."""
    model = tokenizer.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    ids = words.values() if isinstance(words, dict) else range(len(words) if isinstance(words, list) else 0)
    return {id_ for id_ in ids if isinstance(id_, int)} - {
        each.get("id") for each in tokenizer.get("added_tokens") or ()
    }


def _require_ends(source: ModelSource, tokens: Sequence[int], setting: str) -> None:
    known = None if source.is_gguf else embeddings(read_config(source.path))
    if known and (beyond := [id_ for id_ in tokens if id_ >= known]):
        problem = f"{setting}: no answer ends at token {beyond[0]}, as the model has {known} embeddings"
        raise UserError(problem, "give ids of the model's own tokenizer")
