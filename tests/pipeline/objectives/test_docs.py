"""docs/objectives.md says what the table says, and its ten-line margin works as it is printed there."""

import math
import re
import textwrap
from pathlib import Path

import pytest
import torch

from pipeline.objectives import PairBatch, build, margins, presets
from pipeline.settings.config import RunConfig

PAGE = (Path(__file__).parents[3] / "docs" / "objectives.md").read_text(encoding="utf-8")


def test_every_member_stands_on_the_page() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*\|$", PAGE, flags=re.MULTILINE)
    assert [row for row in rows if row in presets.PRESETS] == list(presets.PRESETS)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_default_stands_in_its_row(name: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    told = re.findall(r"[\d.]*\d", row.split("|")[-3].replace("ln 999", str(math.log(999))))
    numbers = {key: value for key, value in build(name).parameters.items() if not isinstance(value, str | bool)}
    if name == "mixdpo":
        del numbers["beta"]  # its preference side's
    assert [key for key, value in numbers.items() if value not in map(float, told)] == []


def test_the_members_that_favour_easy_or_hard_pairs_are_those_that_the_page_names() -> None:
    """But for those that do by what their schedule leaves out."""
    told = PAGE.partition("*Easy or hard pairs.*")[2].partition("\n\n")[0]
    easy, hard = (set(re.findall(r"`([a-z0-9-]+)`", part)) for part in told.split("some on hard ones"))
    found = {kind: {n for n, row in presets.PRESETS.items() if row.favours == kind} for kind in ("easy", "hard")}
    gamma = {name for name, row in presets.PRESETS.items() if row.gamma}
    assert (easy - {"mixdpo", "selective-dpo"} | gamma, hard) == (found["easy"], found["hard"])


def test_the_margin_in_ten_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.partition("## Adding a margin in ten lines")[2].partition("\n## ")[0]
    function, row = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(function.splitlines() + row.splitlines()) <= 10
    names = dict(vars(margins))
    exec(function, names)
    name, preset = eval("{" + textwrap.dedent(row) + "}", {"Preset": presets.Preset}).popitem()
    monkeypatch.setitem(margins.MARGINS, preset.margin, names["proportional"])
    monkeypatch.setitem(presets.PRESETS, name, preset)

    raw = {"model": {"source": "x"}, "objective": {"name": "mixdpo", "preference": name, "share": 0.3}}
    assert RunConfig.model_validate(raw).objective.parameters["share"] == 0.3
    objective = build("mixdpo", preference=name, share=0.3)
    batch = PairBatch(
        policy_chosen_logps=torch.tensor([-1.0]),
        policy_rejected_logps=torch.tensor([-21.0]),
        reference_chosen_logps=torch.tensor([-1.0]),
        reference_rejected_logps=torch.tensor([-1.0]),
        chosen_tokens=torch.tensor([1]),
        rejected_tokens=torch.tensor([1]),
    )
    out = objective(batch, objective.initial_state())
    assert float(out.gaps_B) == pytest.approx(2.0) and float(out.margins_B) == pytest.approx(0.6)
