"""The report: one self-contained HTML page, which needs no network and depends on nothing but its data.

    html = render(ReportData(title="quickstart", ...))

All text goes through jinja2's autoescape and all figure data through its JSON filter, so that what a model wrote is
never markup. A content security policy allows the scripts of the page by their digests and nothing else.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from pipeline.report import figures, judging_figures, sampled_figures, training_figures
from pipeline.report.data import HeldOut, ReportData, StageRun
from pipeline.report.outcomes import MODELS, Sample

_HERE = Path(__file__).parent
_NONE = "\N{EN DASH}"
_SECTIONS = {
    "result": "Result",
    "kinds": "Kinds of constraint",
    "asked": "Other benchmarks",
    "held-out": "Held-out pairs",
    "ranked": "Other pairs",
    "elsewhere": "Elsewhere",
    "training": "Training",
    "margins": "Target margins",
    "sampled": "Sampled answers",
    "data": "Data",
    "samples": "Answers and verdicts",
    "stages": "Stages",
    "configuration": "Configuration",
}
_ON_REQUEST = ("ranked", "elsewhere")  # what nobody misses who did not ask for it
_OUTCOMES = {
    "all": "all",
    "better": "trained better",
    "same": "same",
    "worse": "trained worse",
    "undecided": "not decided",
}
_VERDICTS = {"won": "{} won", "tied": "{} tied", "lost": "{} lost", "undecided": "no verdict on {}"}


def render(data: ReportData) -> str:
    """The whole page as HTML; the same data gives the same text. What the data lacks is left out and named."""
    drawn = _figures(data)
    present = {
        "result": data.benchmark is not None,
        "kinds": "kinds" in drawn,
        "asked": bool(data.asked),
        "held-out": data.held_out is not None,
        "ranked": bool(data.ranked),
        "elsewhere": data.elsewhere is not None,
        "training": bool(drawn["training"]),
        "margins": bool(drawn["pairs"]),
        "sampled": data.sampled is not None,
        "data": data.ledger is not None or data.scheduled is not None,
        "samples": bool(data.samples),
        "stages": bool(data.stages),
        "configuration": True,
    }
    return assemble(
        "page.html.j2",
        data,
        _SECTIONS,
        [name for name in _SECTIONS if not present[name]],
        ("page.js", "verdicts.js"),
        unsaid=_ON_REQUEST,
        models=MODELS,
        figures=drawn,
        verdict=_verdict(data),
        filters=_filters(data.samples),
        sft_start=None if data.steps is None else training_figures.sft_start(data.steps),
        held_out=_held_out_rows(data.held_out) if data.held_out else [],
        stages=_stage_rows(data.stages),
        total_seconds=math.fsum(stage.seconds for stage in data.stages),
    )


def assemble(
    template: str,
    data: Any,
    sections: Mapping[str, str],
    absent: Sequence[str],
    scripts: Sequence[str] = ("page.js",),
    unsaid: Collection[str] = (),
    **values: Any,
) -> str:
    """A page on base.html.j2: `data` has a title, a config and its provenance, `sections` the titles by element id.

    Those that are `absent` are left out, and named as that but for what is `unsaid`. `scripts` are files of this
    directory, run in their order after plotly.js; the policy of the page allows no others.
    """
    texts = [get_plotlyjs(), *((_HERE / script).read_text("utf-8") for script in scripts)]
    html = (
        _environment()
        .get_template(template)
        .render(
            data=data,
            sections={name: title for name, title in sections.items() if name not in absent},
            absent=[sections[name].lower() for name in absent if name not in unsaid],
            css=Markup((_HERE / "page.css").read_text("utf-8")),
            scripts=[Markup(text) for text in texts],
            script_digests=[_digest(text) for text in texts],
            **values,
        )
    )
    # A lone surrogate in an answer could not be written to a file.
    return html.encode("utf-8", "replace").decode("utf-8")


def _figures(data: ReportData) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "training": [] if data.steps is None else training_figures.training_curves(data.steps),
        "pairs": [] if data.trained_pairs is None else training_figures.trained_pairs(data.trained_pairs),
    }
    if data.steps is not None and data.reliability is not None:
        known = data.scheduled
        flipped = known.flipped / max(1, known.pairs) if known else 0.0
        drawn["training"].append(training_figures.flip_rates(data.reliability, flipped))
    if data.dictionary is not None:
        drawn["training"].append(training_figures.dictionary(data.dictionary))
    if data.streams is not None:
        drawn["training"] += training_figures.streams(data.streams)
    if data.benchmark and data.benchmark.comparison:
        drawn["win_rate"] = figures.win_rate(data.benchmark.comparison)
    if data.benchmark and data.benchmark.kinds:
        drawn["kinds"] = figures.kinds(data.benchmark.kinds)
    drawn["judged"] = {
        benchmark.name: judging_figures.of_benchmark(benchmark.judged, str(place))
        for place, benchmark in enumerate((data.benchmark, *data.asked))
        if benchmark and benchmark.judged
    }
    if data.sampled:
        drawn["sampled"] = sampled_figures.of_answers(data.sampled)
    if data.scheduled and data.scheduled.margins:
        drawn["score_margins"] = figures.score_margins(data.scheduled.margins)
    return drawn


def _verdict(data: ReportData) -> str:
    """What the interval of the win rate says about 50%, in words."""
    if data.benchmark is None or data.benchmark.comparison is None:
        return ""
    rate = data.benchmark.comparison.rate
    if rate.low > 0.5:
        return "The whole interval lies above 50%: the trained model is the better one on these questions."
    if rate.high < 0.5:
        return "The whole interval lies below 50%: the trained model is the worse one on these questions."
    return "The interval holds 50%: these questions do not tell the two models apart."


def _filters(samples: Sequence[Sample]) -> dict[str, Any]:
    """What the samples can be filtered by, as far as any of them has it, by the values in the page's attributes."""
    counts: Counter[str] = Counter(sample.outcome for sample in samples)
    found = {f"{verdict.model}-{verdict.outcome}" for sample in samples for verdict in sample.verdicts}
    named = {
        f"{model}-{outcome}": label.format(model) for model in reversed(MODELS) for outcome, label in _VERDICTS.items()
    }
    return {
        # A kind of outcome that never comes would only be in the way; better, same and worse are always asked about.
        "outcomes": {name: label for name, label in _OUTCOMES.items() if name != "undecided" or counts[name]},
        "counts": {**{name: counts[name] for name in _OUTCOMES}, "all": len(samples)},
        "benchmarks": list(dict.fromkeys(sample.benchmark for sample in samples)),
        "verdicts": {name: label for name, label in named.items() if name in found},
    }


def _held_out_rows(held_out: HeldOut) -> list[list[str]]:
    def row(name: str, key: str, shown: Callable[[float], str] = number, scale: int = 1, unit: str = "") -> list[str]:
        now = getattr(held_out.after, key)
        if held_out.before is None:
            return [name, _NONE, shown(now), _NONE]
        was = getattr(held_out.before, key)
        return [name, shown(was), shown(now), signed(scale * (now - was)) + unit]

    return [
        row("accuracy (gap above 0; 0 counts half)", "accuracy", percent, 100, " points"),
        row("mean reward gap", "gap"),
        row("mean log-prob of chosen", "chosen_logps"),
        row("mean log-prob of rejected", "rejected_logps"),
    ]


def _stage_rows(stages: Sequence[StageRun]) -> list[dict[str, Any]]:
    total = math.fsum(stage.seconds for stage in stages)

    def row(stage: StageRun) -> dict[str, Any]:
        speed = stage.tokens / stage.seconds if stage.tokens and stage.seconds > 0 else None
        return {"run": stage, "share": stage.seconds / total if total > 0 else 0.0, "speed": speed}

    return [row(stage) for stage in stages]


def number(value: float | None) -> str:
    """Three significant digits, thousands separated; whole numbers whole; a dash for what is missing or not finite."""
    if value is None or not math.isfinite(value):
        return _NONE
    text = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text


def signed(change: float | None) -> str:
    """A number that says which way it goes."""
    return ("+" if change is not None and change > 0 else "") + number(change)


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal."""
    if share is None or not math.isfinite(share):
        return _NONE
    return f"{100 * share:.1f}%".replace("-", "\N{MINUS SIGN}")


def dollars(amount: float) -> str:
    """An amount in dollars and cents; what is below a cent says so."""
    return "less than $0.01" if 0 < amount < 0.01 else f"${amount:,.2f}"


def duration(seconds: float) -> str:
    """Seconds below a minute, else minutes and seconds, else hours and minutes."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, signed=signed, percent=percent, dollars=dollars, duration=duration, yaml=_yaml
    )
    # Python's NaN is no JSON: better an error here than a page whose script stops.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _yaml(value: Any) -> str:
    return yaml.safe_dump(_plain(value), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Mappings and sequences as dict and list, all else that YAML does not know as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
