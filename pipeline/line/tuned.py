"""What a sweep cannot mean: said before anything is made, of every method and anywhere in its ranges."""

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.line.study import CHANGED, require_names
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import EMBEDDED
from pipeline.settings.sweep import Range, Sweep
from pipeline.settings.unused import unused

if TYPE_CHECKING:
    from pipeline.line.sweep import Tuning

SEED = "a seed that is chosen is luck; sweep.seeds are those of the final runs"
NOISE = "noise is what methods are compared under; set it for all, and sweep once for each"
NOT_TUNED = {
    "schedule.seed": SEED,
    "train.seed": SEED,
    "schedule.flip_fraction": NOISE,
    "schedule.swap_labels": NOISE,
    "train.held_out_steps": "it looks at the held-out pairs more often, and trains the same",
}


def check_sweep(tuning: "Tuning") -> None:
    """Raise UserError for the first fault."""
    sweep = tuning.sweep
    _check_section(tuning)
    for name, given in sweep.ranges.items():
        _check_setting(name, given, f"sweep.ranges.{name}", sweep)
    for method, own in sweep.methods.items():
        for name, given in own.ranges.items():
            _check_setting(name, given, f"sweep.methods.{method}.ranges.{name}", sweep)
        _check_method(tuning, method)
        for name, given in tuning.ranges(method).items():
            _check_range(tuning, method, name, given)


def _check_section(tuning: "Tuning") -> None:
    sweep, config = tuning.sweep, tuning.config
    if len(set(sweep.seeds)) < len(sweep.seeds):
        raise UserError(f"sweep.seeds={sweep.seeds} names a value twice", "name each value once")
    require_names(sweep.methods, "sweep")
    if tuning.against not in sweep.methods:
        problem = f"sweep.against={sweep.against} is none of the sweep's methods"
        raise UserError(problem, f"choose one of {', '.join(sweep.methods)}")
    if EMBEDDED not in config.generate.benchmarks and (sweep.choose_by, sweep.until) != ("accuracy", "train"):
        problem = f"a sweep's win rates are on the benchmark {EMBEDDED}, which generate.benchmarks has not got"
        raise UserError(problem, f"add {EMBEDDED}, or set sweep.choose_by=accuracy and sweep.until=train")
    if config.data.source == EMBEDDED and not config.data.dev_pairs:
        problem = "data.dev_pairs=0 leaves no held-out pairs, by which methods are compared"
        raise UserError(problem, "hold some out, such as data.dev_pairs=64")
    if sweep.halving:
        most = min(sweep.batch, sweep.trials)
        if math.ceil(sweep.halving.keep * most) == most:
            problem = f"sweep.halving.keep={sweep.halving.keep:g} stops none of {most} trials that begin together"
            raise UserError(problem, "keep fewer, or raise sweep.batch and sweep.trials")


def _check_setting(name: str, given: Range, where: str, sweep: Sweep) -> None:
    """Refuse what is not for tuning."""
    given.check(where)
    section = name.partition(".")[0]
    if name in NOT_TUNED:
        raise UserError(f"{where}: {name} is not tuned", NOT_TUNED[name])
    if sweep.halving and name == sweep.halving.setting:
        raise UserError(f"{where}: {name} is what sweep.halving shortens trials by", "take it out of one of them")
    if section == "resources":
        raise UserError(f"{where}: {name} changes no result", "leave it out: resources say where and how")
    if section in RunConfig.model_fields and section not in CHANGED:
        problem = f"{where}: trials that differ in {section} would not be compared on the same pairs and questions"
        raise UserError(problem, f"tune settings of {', '.join(CHANGED)}; sweep once for each value of {name}")
    if "." not in name:
        raise UserError(f"{where}: {name} is no single setting", "name one by its section, as train.learning_rate")


def _check_method(tuning: "Tuning", method: str) -> None:
    """Refuse what a method sets and trials or final runs would set otherwise; and trials that are not shortened."""
    given = tuning.sweep.methods[method].model_dump(include=set(CHANGED))
    for name in ("schedule.seed", "train.seed"):
        if _is_set(given, name):
            raise UserError(f"sweep.methods.{method} sets {name}", "give all methods the same seeds, by sweep.seeds")
    for name in tuning.ranges(method):
        if _is_set(given, name):
            problem = f"sweep.methods.{method} sets {name}, and a range is to set it"
            remedy = f"leave it out, or give the method a range of its own: {{ranges: {{{name}: [VALUE]}}}}"
            raise UserError(problem, remedy)
    config = tuning.final(method, {}, tuning.sweep.seeds[0]).config
    if halving := tuning.sweep.halving:
        section, _, key = halving.setting.partition(".")
        whole = getattr(getattr(config, section), key)
        rising = [*halving.values, *([] if whole is None else [whole])]
        if any(after <= before for before, after in itertools.pairwise(rising)) or halving.values[0] < 1:
            problem = f"sweep.halving.values={halving.values} do not rise up to {halving.setting}={whole}"
            raise UserError(problem, "give values above 0 that rise and stay below the configuration's own")
        if why := unused(tuning.trial(method, 0, {}, halving.values[0]).config).get(halving.setting):
            problem = f"sweep.halving.setting={halving.setting} has no effect {why}"
            raise UserError(problem, "shorten trials by another setting, such as data.limit or schedule.epochs")


def _is_set(given: Mapping[str, Any], name: str) -> bool:
    """Whether sections hold a value by this dotted name, null or not."""
    within: Any = given
    for part in name.split("."):
        if not isinstance(within, Mapping) or part not in within:
            return False
        within = within[part]
    return True


def _check_range(tuning: "Tuning", method: str, name: str, given: Range) -> None:
    """Refuse values that the setting does not allow, and a setting that has no effect."""
    for value in given.samples():
        try:
            config = tuning.trial(method, 0, {name: value}).config
        except UserError as error:
            choices = "; of whole numbers or words, name them: {choice: [...]}" if given.ends else ""
            problem = f"{error.problem} (the range of {name} holds it)"
            raise UserError(problem, f"{error.remedy}{choices}") from None
        if why := unused(config).get(name):
            problem = f"sweep.methods.{method}: {name} is to be tuned, and has no effect {why}"
            raise UserError(problem, "give the range to the methods that use it, under their own ranges")
