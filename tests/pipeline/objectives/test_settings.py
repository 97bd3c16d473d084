"""Settings of an objective: one error for what is wrong, and every parameter's interval."""

import math
import re
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.objectives.objective import build
from pipeline.objectives.presets import PRESETS
from tests.pipeline.objectives.pairs import LONG, batch_of, run


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("mixpo", {}, "objective.name='mixpo' is not an objective.*did you mean mixdpo.*" + ".*".join(PRESETS)),
        ("", {}, "objective.name='' is not an objective.*" + ".*".join(PRESETS)),
        (["dpo"], {}, "is not an objective"),
        ("dpo", {"bata": 1.0}, "objective.bata is not a parameter of dpo.*did you mean objective.beta"),
        ("dpo", {"label_smoothing": 0.1}, "not a parameter of dpo.*cdpo is DPO with label smoothing"),
        ("orpo", {"odd_weight": 0.1}, "did you mean objective.odds_weight"),
        ("dpo", {"gamma0": 1.0}, "objective.margin=gamma, which gives objective.name=dpo a target margin"),
        ("dpo", {"tau": 1.0}, "objective.margin=gamma, which gives objective.name=dpo a target margin"),
        ("simpo", {"solver": "paper"}, "objective.margin=gamma, which gives objective.name=simpo a target margin"),
        ("dpo", {"margin": "delta"}, "objective.margin='delta' is not a choice"),
        ("dpo", {"margin": None}, "objective.margin=None is not a choice"),
        ("gamma-dpo", {"solver": "newton"}, "not a choice.*exact, paper"),
        ("dpo", {"queue": 4}, "objective.margin=gamma, which gives objective.name=dpo a target margin"),
        ("dpo", {"centred": False}, "objective.margin=gamma, which gives objective.name=dpo a target margin"),
        ("nca", {"queue": 4}, r"nca takes no queue .*drops all that the file sets of it$"),
        ("gamma-dpo", {"queue": 1.5}, "queue=1.5 is not a whole number.*a number of gaps"),
        ("gamma-dpo", {"queue": "steps"}, r"queue='steps' is a str\n.*like 2048 or step$"),
        ("gamma-dpo", {"queue": None}, "queue has no value.*2048 or step"),
        ("gamma-dpo", {"queue": True}, "queue=True is a bool"),
        ("gamma-dpo", {"queue": [4]}, r"queue=\[4\] is a list"),
        ("gamma-dpo", {"queue": "step", "solver": "paper"}, "queue has no effect with objective.solver=paper.*exact"),
        ("mixdpo", {"preference": "gamma-dpo", "queue": 9, "solver": "paper"}, "queue has no effect"),
        ("gamma-dpo", {"centred": 0}, r"centred=0 is a int\n.*like true$"),
        ("gamma-dpo", {"centred": "no"}, "centred='no' is a str"),
        ("gamma-dpo", {"centered": False}, "did you mean objective.centred"),
        ("gamma-simpo", {"centred": False}, "the own margin of gamma-simpo is gamma0, .* gamma_i itself"),
        ("simpo", {"margin": "gamma", "centred": True}, "the own margin of simpo is gamma0"),
        ("mixdpo", {"preference": "alpha-dpo", "margin": "gamma", "centred": True}, "the own margin of alpha-dpo"),
        ("odpo", {"offset": "sqrt"}, "not a choice.*log, log1p, identity"),
        ("odpo", {"offset": 1}, "is a int"),
        ("dpo", {"beta": "x"}, "is a str"),
        ("dpo", {"beta": [1]}, "is a list"),
        ("dpo", {"beta": True}, "is a bool"),
        ("dpo", {"beta": None}, "objective.beta has no value"),
        ("mixdpo", {"preference": "mixdpo"}, "objective.preference=mixdpo itself decides"),
        ("mixdpo", {"preference": "selective-dpo"}, "objective.preference=selective-dpo itself decides"),
        ("mixdpo", {"preference": "nope"}, "objective.preference='nope' is not an objective"),
        ("mixdpo", {"preference": ["dpo"]}, "is not an objective"),
        ("mixdpo", {"tau": 1.0}, "objective.margin=gamma, which gives objective.preference=dpo a target margin"),
        ("mixdpo", {"label_smoothing": 0.1}, "not a parameter of mixdpo"),
        ("nca", {"margin": "gamma"}, "margin=gamma: nca looks at each side by itself .*no margin applies.*such as dpo"),
        ("mixdpo", {"preference": "bco", "margin": "gamma"}, "margin=gamma: bco looks at each side by itself"),
        ("nca", {"gamma0": 1.0}, r"nca takes no gamma0 .*drops all that the file sets of it$"),
        ("rappo", {"drop": 1.5}, "drop=1.5 is not a whole number"),
        ("rainbow-po", {"curve": "atan"}, "not a choice.*logistic, arctan"),
    ],
)
def test_a_bad_objective_is_one_error(name: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        build(name, **given)
    assert re.search(says, str(caught.value), flags=re.DOTALL)


# A row that has the parameter, values just outside of its interval, values on its edge and inside.
INTERVALS: dict[str, tuple[str, list[float], list[float]]] = {
    "beta": ("dpo", [0, -0.1], [1e-9, 1000]),
    "steepness": ("madpo", [0, -1.0], [1e-9]),
    "floor": ("odpo", [0, -1.0], [1e-9]),
    "odds_weight": ("orpo", [0, -1.0], [1e-9]),
    "gamma0": ("simpo", [-1e-9], [0, 100]),
    "tau": ("gamma-dpo", [-1e-9], [0, 1e12]),
    "alpha": ("r-dpo", [-1e-9], [0, 1]),
    "a": ("beta-dpo", [-1e-9], [0, 1]),
    "eta": ("uni-dpo", [-1e-9], [0, 1]),
    "fit_power": ("uni-dpo", [-1e-9], [0, 1]),
    "focus": ("focalpo", [-1e-9], [0, 1]),
    "sft_weight": ("mixdpo", [-1e-9], [0, 1]),
    "nll_weight": ("cpo", [-1e-9], [0, 1]),
    "least_fall": ("uni-dpo", [-1e-9], [0, 1]),
    "threshold": ("madpo", [-1e-9], [0, 1]),
    "fit_margin": ("uni-dpo", [], [-5, 0, 5]),
    "good_score": ("uni-dpo", [], [-5, 0, 5]),
    "label_smoothing": ("rdpo", [-1e-9, 0.5, 1.0], [0, 0.49]),
    "momentum": ("amapo", [-1e-9, 1.0], [0, 0.999]),
    "keep": ("beta-dpo", [0, -0.1, 1.001], [1e-9, 1]),
    "c_max": ("madpo", [0.999, 0], [1, 50]),
    "guard": ("dpop", [-1e-9], [0, 500]),
    "reference_share": ("rainbow-po", [-1e-9, 1.001], [0, 0.25, 1]),
    "strongest": ("fpo", [0, -1], [1, 16384]),
    "queue": ("gamma-dpo", [0, -1], [1, 2048, 100_000]),
    "trace_weight": ("bvpo", [-1e-9, 1.001], [0, 0.5, 1]),
    "home_advantage": ("rainbow-po", [-1e-9], [0, 1]),
    "rating_beta": ("rating-dpo", [0, -0.1], [1e-9, 1000]),
    "beta_prime": ("dr-dpo", [0, -0.1], [1e-9, 1000]),
    "drop": ("rappo", [-1], [0, 4]),
    "reference_ratio": ("rappo", [0, -0.1], [1e-9, 2]),
    "reliability": ("re-po", [0, -0.1, 1.001], [1e-9, 1]),
    "adaptation": ("re-po", [-1e-9, 1.001], [0, 1]),
    "desirable_weight": ("kto", [-1e-9], [0, 4 / 3]),
    "undesirable_weight": ("kto", [-1e-9], [0, 4 / 3]),
    "decay": ("d2po", [0, -0.1, 1.001], [1e-9, 1]),
    "delta": ("bmc", [-1e-9], [0, 3]),
}


def test_every_number_of_the_table_has_an_interval_here() -> None:
    given = [each for row in PRESETS.values() for each in row.parameters.items()]
    numbers = {key for key, value in given if not isinstance(value, str | bool)}
    assert numbers == set(INTERVALS)


@pytest.mark.parametrize("key", INTERVALS)
def test_a_number_must_lie_in_its_interval(key: str) -> None:
    name, outside, inside = INTERVALS[key]
    for value in inside:
        assert build(name, **{key: value}).parameters.number(key) == value
    for value in (*outside, math.nan, math.inf, -math.inf):
        with pytest.raises(UserError, match=f"objective.{key}=.* is out of range"):
            build(name, **{key: value})


def test_the_momentum_of_a_weight_that_is_fixed_is_refused() -> None:
    assert build("bvpo", momentum=0.5, balance="least-error").parameters["momentum"] == 0.5
    for given in ({"name": "bvpo"}, {"name": "mixdpo", "preference": "bvpo"}):
        with pytest.raises(UserError, match=r"momentum has no effect with objective.balance=fixed\n.*least-error"):
            build(**given, momentum=0.5)


@pytest.mark.parametrize("name", ["gamma-dpo", "gamma-simpo", "ipo"])
def test_what_came_later_is_among_the_values_only_where_it_is_another(name: str) -> None:
    """So that results that are there keep their fingerprints."""
    given = {"margin": "gamma", "queue": 2048} | ({} if name == "gamma-simpo" else {"centred": True})
    assert build(name, **given).parameters == build(name, margin="gamma").parameters
    assert build(name, margin="gamma").parameters.keys().isdisjoint({"queue", "centred"})
    assert build(name, margin="gamma", queue="step").parameters["queue"] == "step"
    assert build(name, margin="gamma", solver="paper", queue=2048).parameters["queue"] == 2048


@pytest.mark.parametrize("name", PRESETS)
def test_defaults_are_admissible_and_margin_gamma_adds_its_parameters(name: str) -> None:
    row = PRESETS[name]
    assert build(name, **row.parameters).parameters == build(name).parameters
    if row.unary:
        return
    elastic = build(name, margin="gamma")
    assert elastic.preset.gamma and {"gamma0", "tau", "solver"} <= elastic.parameters.keys()
    assert {key: elastic.parameters[key] for key in row.parameters} == row.parameters  # of the later ones, too
    assert build(name, margin="gamma", tau=7.5, solver="paper").parameters["tau"] == 7.5


def test_mixdpo_takes_its_preference_sides_parameters() -> None:
    objective = build("mixdpo", preference="odpo", alpha=0.5, sft_weight=0.25)
    assert objective.parameters == {
        **PRESETS["odpo"].parameters,
        "preference": "odpo",
        "alpha": 0.5,
        "sft_weight": 0.25,
    }
    assert float(objective(batch_of([LONG]), objective.initial_state()).losses_B) == pytest.approx(
        float(run("odpo", batch_of([LONG]), alpha=0.5).losses_B)
    )
