"""What is asked of a model that judges, and what comes of its replies: a contest a benchmark, in its own way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

from jobs.common.ask_judge import ModelJudge
from jobs.common.stage import Work
from pipeline.errors import UserError
from pipeline.settings.evaluation import Judge
from pipeline.statistics import share_of

if TYPE_CHECKING:
    from pipeline.evaluation.exports.verdicts import Figures
    from pipeline.evaluation.judging.asking import Reply
    from pipeline.evaluation.judging.contest import Contest
    from pipeline.evaluation.judging.games import Answer, Game
    from pipeline.evaluation.judging.ratings import Rated
    from pipeline.results.artifacts import Artifact

Which = Literal["base", "trained"]
MODELS: tuple[Which, ...] = ("base", "trained")
Row = dict[str, Any]
Answers = Mapping[str, Mapping[str, Sequence[Row]]]  # rows of tables.RESPONSES by model and benchmark


def put_to(judge: ModelJudge, work: Work, answers: Answers, figures: dict[str, Row]) -> dict[str, int]:
    """All answers put to the judge at once; its verdicts as tables, whose rows are returned, and into `figures`."""
    from pipeline.evaluation.judging import baselines
    from pipeline.results import tables

    contests = []
    others: list[Row] = []
    for name in answers["base"]:
        baseline = baseline_of(work.config.judge, name, answers)
        others += baselines.rows(name, baseline or {})
        contests.append(contest(work.config.judge, name, answers, baseline))
    games: list[Row] = []
    ratings: list[Row] = []
    for each, own in zip(contests, replies_of(judge, contests), strict=True):
        refuse(each, own, work.config.judge, judge.remedy)
        played, rated = each.read(own)
        games += [asdict(game) for game in played]
        ratings += [{"benchmark": each.benchmark} | asdict(one) for one in rated]
        metas = {row["question_id"]: json.loads(row["meta"]) for row in answers["base"][each.benchmark]}
        figures[each.benchmark]["judged"] = {
            **{"judge": judge.name, "wording": each.words.name, "method": each.method},
            **cost(own, judge.prices),
            **judged(each, played, rated, metas, judge.name, work.config.judge),
        }
        figures[each.benchmark]["judged"]["notes"] += remarks(each.method, own)
    written = (
        ("games", tables.GAMES, games),
        ("ratings", tables.RATINGS, ratings),
        ("baselines", tables.BASELINES, others),
    )
    return {
        f"{name}.parquet": tables.write(rows, schema, work.folder / f"{name}.parquet")
        for name, schema, rows in written
        if rows
    }


def replies_of(judge: ModelJudge, contests: Sequence[Contest]) -> list[list[Reply]]:
    """The judge's replies to each contest's requests; with what it said where it was asked a second time."""
    asked = [each.requests() for each in contests]
    said = iter(judge.ask([request for requests in asked for request in requests]))
    replies = opened([[next(said) for _ in requests] for requests in asked])
    further = [each.further(requests, own) for each, requests, own in zip(contests, asked, replies, strict=True)]
    if any(further):
        said = iter(judge.ask([request for requests in further for request in requests.values()]))
    for own, requests in zip(replies, further, strict=True):
        for number, request in requests.items():
            own[number] = own[number].then(next(said), request.anew)
    return opened(replies)


def opened(replies: Sequence[Sequence[Reply]]) -> list[list[Reply]]:
    """The same with the marks of thoughts that the judge's prompt opened, where its replies together show that."""
    from pipeline.evaluation.benchmarks.thoughts import opened as texts_opened

    every = [reply for own in replies for reply in own]
    texts = iter(texts_opened([reply.text or "" for reply in every], [reply.cut for reply in every]))
    found = [[(reply, next(texts)) for reply in own] for own in replies]
    return [[replace(reply, text=text) if reply.text else reply for reply, text in own] for own in found]


def baseline_of(settings: Judge, benchmark: str, answers: Answers) -> dict[str, Answer] | None:
    from pipeline.evaluation.judging import baselines
    from pipeline.evaluation.judging.contest import questions_of

    if benchmark not in settings.baselines:
        return None
    return baselines.read(benchmark, settings.baselines[benchmark], questions_of(answers["base"][benchmark]))


def baseline_answers(rows: Sequence[Row]) -> dict[str, Answer] | None:
    """A benchmark's rows of tables.BASELINES as `contest` takes them; None where there are none."""
    from pipeline.evaluation.judging.games import Answer

    return {row["question_id"]: Answer(row["name"], row["response"], row["tokens"]) for row in rows} or None


def contest(settings: Judge, benchmark: str, answers: Answers, baseline: Mapping[str, Answer] | None) -> Contest:
    """One benchmark's answers as they are put to a judge."""
    from pipeline.evaluation.judging.contest import MAX_TOKENS, Contest, matches, method_of
    from pipeline.evaluation.judging.games import THOUGHT_TOKENS
    from pipeline.evaluation.judging.ratings import Turn
    from pipeline.evaluation.judging.words import words
    from pipeline.results import tables

    # What a model was not asked is no bad answer, and nothing that a judge could compare.
    rows: dict[str, Sequence[Row]] = {
        model: [row for row in answers[model][benchmark] if row["finish_reason"] not in tables.UNASKED]
        for model in MODELS
    }
    several = any(row["turn"] > 1 for model in MODELS for row in answers[model][benchmark])
    method = method_of(benchmark, several, settings.methods.get(benchmark))
    told = words(benchmark, method, settings.wording.get(benchmark))
    most = settings.max_tokens or MAX_TOKENS.get(benchmark, 1024)
    thought = settings.max_tokens or THOUGHT_TOKENS
    if method == "ratings":
        turns = [Turn.of(model, row) for model in MODELS for row in rows[model]]
        return Contest(benchmark, method, told, most, turns=turns)
    return Contest(benchmark, method, told, most, matches(benchmark, rows, baseline), thought_tokens=thought)


def refuse(contest: Contest, replies: Sequence[Reply], settings: Judge, remedy: str) -> None:
    """Raise UserError where too many verdicts are missing, or the judge cannot judge in this way."""
    missing = [reply.why for reply in replies if reply.text is None]
    if len(missing) > share_of(len(replies), settings.max_missing):
        raise UserError(
            f"{len(missing)} of {len(replies)} verdicts on {contest.benchmark} are missing (judge.max_missing allows "
            f"{settings.max_missing:.0%}), such as: {missing[0]}",
            remedy if len(missing) == len(replies) else f"{remedy}; or raise judge.max_missing, which keeps the others",
        )
    if contest.method == "preference" and replies and not any(reply.first or reply.thinks for reply in replies):
        raise UserError(
            f"the judge gives no log-probs, which its preference on {contest.benchmark} is read from",
            f"name a judge that does, or compare by its words: judge.methods.{contest.benchmark}=games",
        )


def remarks(method: str, replies: Sequence[Reply]) -> list[str]:
    """What must be said of a benchmark's replies."""
    of = f"of the {len(replies)} replies"
    found = []
    # A preference is one token, unless the judge thinks.
    if cut := sum(reply.cut and (method != "preference" or reply.thinks) for reply in replies):
        found.append(f"{cut} {of} were cut short")
    if wordless := sum(reply.wordless for reply in replies):
        found.append(f"{wordless} {of} ended within the judge's thoughts: judge.max_tokens gives them room")
    if warm := sum("temperature" in reply.without for reply in replies):
        found.append(f"{warm} {of} are at the judge's own temperature: it takes no other")
    firsts = [max(reply.first, key=lambda token: reply.first[token]) for reply in replies if reply.first]
    if others := sum(first.strip() not in ("m", "M") for first in firsts) if method == "preference" else 0:
        problem = "have another likeliest first word than m or M, as of a judge that explains or thinks"
        found.append(f"{others} {of} {problem}: judge.methods set to games reads its words")
    return found


def judged(
    contest: Contest,
    games: Sequence[Game],
    rated: Sequence[Rated],
    metas: Mapping[str, Row],
    judge: str,
    settings: Judge,
) -> Row:
    """The figures of a benchmark's verdicts: of each match, or of the ratings, and of one model against the other."""
    from pipeline.evaluation.benchmarks.verdicts import SCALE
    from pipeline.evaluation.exports import verdicts as exports
    from pipeline.evaluation.judging.games import shares, summarise
    from pipeline.evaluation.judging.ratings import summarise as summarise_ratings
    from pipeline.statistics import paired

    drawn = (settings.resamples, settings.seed)
    found: list[Row] = []
    by_model: dict[str, dict[Any, float]] = {}
    for match in contest.matches:
        own = [game for game in games if game.model == match.model]
        rows = exports.of_match(match, own, judge, metas)
        score = summarise(own, *drawn)
        by_model[match.model] = {name: share for name, share in shares(own).items() if share is not None}
        shown = described(exports.figures(match, rows, *drawn))
        found.append({"model": match.model, "against": match.against, "summary": asdict(score), **shown})
    figures: Figures = ([], [])
    ratings: Row = {}
    for model in MODELS if rated else ():
        own_ratings = [each for each in rated if each.model == model]
        ratings[model] = asdict(summarise_ratings(own_ratings, *drawn))
        by_model[model] = {(each.question_id, each.turn): each.rating for each in own_ratings if each.rating}
        one = exports.rating_figures(exports.of_ratings(own_ratings, {model: model}, judge), *drawn)
        figures = (figures[0] + one[0], figures[1] + one[1])
    scale = SCALE if rated else (0, 1)
    shared = by_model.get("trained", {}).keys() & by_model.get("base", {}).keys()
    return {
        "matches": found,
        "paired": asdict(paired(by_model["trained"], by_model["base"], *drawn, scale)) if shared else None,
        "ratings": {"models": ratings} if rated else None,
        **described(figures),
    }


def described(figures: Figures) -> Row:
    return {"figures": [asdict(figure) for figure in figures[0]], "notes": figures[1]}


def cost(replies: Sequence[Reply], prices: tuple[float, float] | None) -> Row:
    """Tokens asked and answered, and dollars where a million of each has a price."""
    tokens = [sum(getattr(reply, f"{kind}_tokens") for reply in replies) for kind in ("prompt", "completion")]
    dollars = sum(price * count for price, count in zip(prices, tokens, strict=True)) / 1e6 if prices else None
    return {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "dollars": dollars}


def first_samples(responses: Artifact) -> dict[str, list[Row]]:
    """A model's answers by benchmark, in order: where there are several to a question, the first of them."""
    from pipeline.results import tables

    answers: dict[str, list[Row]] = {}
    for row in tables.read(responses.path, tables.RESPONSES).to_pylist():
        if row["sample"] == 0:
            answers.setdefault(row["benchmark"], []).append(row)
    return answers
