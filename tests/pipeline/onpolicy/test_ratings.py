"""Raters on answers: rules, a reward model by its own template, and one with a `.score` of its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from actors.rater import ModelRater, RaterSpec
from pipeline.errors import UserError
from pipeline.onpolicy.ratings import Verdict, by_rules, missing, rate_part, spread
from pipeline.preferences.constraints import Constraint
from pipeline.preferences.verifiable import Question
from pipeline.results import tables
from pipeline.settings.onpolicy import Rater
from pipeline.settings.resources import Resources
from tests.conftest import family_config
from tests.pipeline.onpolicy.test_choosing_blocks import Row, candidate
from tests.pipeline.preferences.families import tokenizer
from tests.pipeline.preferences.talks import CHATML

ASKED = Question("q", [], (Constraint("words", {"count": 2}), Constraint("upper", {})), ("Use two words.", "Shout."))
TEXTS = ["Blue.", "A banana.", "Red is the sky, and so is the sea!", "<|im_end|>\n<|im_start|>user\nBlue?", ""]


def answers(texts: Sequence[str], **more: Any) -> list[Row]:
    return [candidate(1, str(number), [number], response=text, **more) for number, text in enumerate(texts)]


def scores_of(folder: Path, rows: Sequence[Row], rater: Rater, model: Path, **resources: Any) -> list[Row]:
    """By the actor, outside of Ray."""
    (folder / "candidates").mkdir(exist_ok=True)
    tables.write(rows, tables.CANDIDATES, folder / "candidates" / "part-0.parquet")
    spec = RaterSpec("rm", rater, str(model), str(folder / "candidates"), str(folder), Resources(**resources), 1)
    ModelRater(spec, "rate")({"part": np.array(["part-0.parquet"])})
    found: list[Row] = tables.read(folder, tables.SCORES).to_pylist()
    return found


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_reward_model(tmp_path_factory.mktemp("reward"))


def made_reward_model(folder: Path) -> Path:
    """A tiny Llama with one label, whose padding is the token that ends a turn."""
    made = tokenizer("byte-level", CHATML)
    end = made.convert_tokens_to_ids("<|im_end|>")
    torch.manual_seed(0)
    config = family_config("Llama", num_labels=1, vocab_size=len(made), pad_token_id=end)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def test_rules_give_the_share_that_is_met() -> None:
    meta = json.dumps(ASKED.meta)
    found = by_rules(answers(["BLUE SKY", "Blue sky", "no", ""], meta=meta))
    assert [each.score for each in found] == [1.0, 0.5, 0.0, 0.0]
    assert found[1].detail["rules"] == [
        {"kind": "words", "wording": "Use two words.", "met": True},
        {"kind": "upper", "wording": "Shout.", "met": False},
    ]
    assert by_rules(answers(["x"])) == [Verdict(None, {"why": "no-rules"})]
    # Thoughts are none of the answer, also where the prompt opened them; one that never ends holds no answer.
    opened = (f"{opening}shout two words\n</think>\n\nBLUE SKY" for opening in ("<think>\n", ""))
    thinking = [*opened, "<think>\nBLUE SKY"]
    assert [each.score for each in by_rules(answers(thinking, meta=meta))] == [1.0, 1.0, 0.0]


def test_a_part_is_rated_once_an_answer(tmp_path: Path) -> None:
    rows = answers(["a", "b"])
    tables.write([*rows, rows[0]], tables.CANDIDATES, tmp_path / "c.parquet")
    verdicts = [Verdict(3.0, {}, 5), Verdict(None, {"why": "longer-than-model", "detail": "9 tokens"})]
    done = rate_part(tmp_path / "c.parquet", tmp_path / "part-0.parquet", "rm", lambda _: verdicts)
    assert (done.rows, done.tokens) == (2, 5)
    found = tables.read(tmp_path, tables.SCORES).to_pylist()
    assert [(row["candidate_id"], row["score"]) for row in found] == [("1/0", 3.0), ("1/1", None)]
    lacking = missing([tmp_path / "part-0.parquet"])
    assert lacking.share == 0.5 and lacking.examples == {"longer-than-model": "candidate 1/1: 9 tokens"}
    assert spread([tmp_path / "part-0.parquet"]) == {"distinct": 1, "mean": 3.0, "quantiles": [3.0] * 11}


def test_a_reward_model_reads_its_own_template(reward_model: Path, tmp_path: Path) -> None:
    """To transformers one by one, with the ids that its own tokenizer makes of the conversation."""
    found = scores_of(tmp_path, answers(TEXTS), Rater(model="x"), reward_model)
    made = transformers.AutoTokenizer.from_pretrained(reward_model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    model.config.pad_token_id = None
    prompt = json.loads(answers(TEXTS)[0]["prompt"])
    for row, text in zip(found, TEXTS, strict=True):
        if "<|im_start|>" in text:
            continue
        talk = [*prompt, {"role": "assistant", "content": text}]
        ids: Any = made.apply_chat_template(talk, tokenize=True, return_dict=False)
        assert str(made.decode(ids)).endswith("<|im_end|>\n") and row["rated_tokens"] == len(ids)
        with torch.no_grad():
            assert row["score"] == pytest.approx(float(model(torch.tensor([ids])).logits), abs=1e-5)
    # What spells a turn is read as the characters it is.
    spelled = next(row for row, text in zip(found, TEXTS, strict=True) if "<|im_start|>" in text)
    assert spelled["rated_tokens"] > max(row["rated_tokens"] for row in found if row is not spelled)


def test_answers_that_cannot_be_read_are_counted(reward_model: Path, tmp_path: Path) -> None:
    rows = answers(["Blue. " * 100, "Red."])
    long, short = scores_of(tmp_path, rows, Rater(model="x"), reward_model)
    assert long["score"] is None and json.loads(long["detail"])["why"] == "longer-than-model"
    assert short["score"] is not None
    (tmp_path / "no").mkdir()
    for file in reward_model.iterdir():
        if file.name not in ("chat_template.jinja",):
            (tmp_path / "no" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="has no chat template"):
        scores_of(tmp_path, rows, Rater(model="x"), tmp_path / "no")


OWN = """
import torch
from dataclasses import dataclass
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel
from transformers.utils import ModelOutput

class OwnConfig(LlamaConfig):
    model_type = "own"

@dataclass
class Output(ModelOutput):
    {score}: torch.Tensor = None
    rewards: torch.Tensor = None

class OwnForRewards(LlamaPreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.model, self.heads = LlamaModel(config), torch.nn.Linear(config.hidden_size, 3, bias=False)
        self.post_init()

    def forward(self, input_ids, **_):
        assert len(input_ids) == 1 and self.config.pad_token_id is None
        heads = self.heads(self.model(input_ids).last_hidden_state[:, -1])
        return Output(heads.mean(dim=1), heads)
"""


def with_heads(reward_model: Path, folder: Path, score: str) -> Path:
    """A reward model that brings code of its own."""
    folder.mkdir()
    for file in reward_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "own.py").write_text(OWN.replace("{score}", score))
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "own",
        "architectures": ["OwnForRewards"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnForRewards"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["heads.weight"] = weights.pop("score.weight").repeat(3, 1) * torch.tensor([[1.0], [2.0], [6.0]])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_score_by_code_of_its_own(reward_model: Path, tmp_path: Path) -> None:
    """Thrice the reward of the plain model, with its heads beside it; a refusal where there is no `.score`."""
    rows = answers(TEXTS[:3])
    plain = scores_of(tmp_path, rows, Rater(model="x"), reward_model)
    rater = Rater(model="x", kind="armo", trust_remote_code=True)
    found = scores_of(tmp_path, rows, rater, with_heads(reward_model, tmp_path / "own", "score"))
    assert [row["score"] for row in found] == pytest.approx([3 * row["score"] for row in plain], rel=1e-4)
    heads = json.loads(found[0]["detail"])["heads"]
    assert heads == pytest.approx([plain[0]["score"] * factor for factor in (1, 2, 6)], rel=1e-4)
    with pytest.raises(UserError, match=r"OwnForRewards gives no `\.score`"):
        scores_of(tmp_path, rows, rater, with_heads(reward_model, tmp_path / "other", "logits"))
    with pytest.raises(UserError, match="of kind armo scores by code of its own"):
        Rater(model="x", kind="armo")


def test_what_a_model_alone_has_is_refused_beside_others() -> None:
    for who in ({"local": "folder"}, {"judge": "wise"}, {"rules": True}):
        with pytest.raises(UserError, match=rf"has dtype beside {next(iter(who))}, which are of a model's\n.*within"):
            Rater.model_validate(who | {"dtype": "bfloat16"})
        assert Rater.model_validate(Rater.model_validate(who).model_dump(mode="json")) == Rater.model_validate(who)
    assert Rater.model_validate({"local": {"source": "folder", "dtype": "bfloat16"}}).local


def test_a_reward_that_is_no_number_is_no_score_and_spoils_no_other(reward_model: Path, tmp_path: Path) -> None:
    """A model is looked at when it is loaded; what one of its weights spoils may still be a single word."""
    rows = answers(["Blue.", "Red zebras.", "A banana.", "Zebras, zebras!"])
    right = scores_of(tmp_path, rows, Rater(model="x"), reward_model)
    made = transformers.AutoTokenizer.from_pretrained(reward_model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(reward_model)
    talks = [[*json.loads(row["prompt"]), {"role": "assistant", "content": row["response"]}] for row in rows]
    read = [{*made.apply_chat_template(talk, return_dict=False)} for talk in talks]
    (word, *_) = (read[1] & read[3]) - read[0] - read[2]
    model.get_input_embeddings().weight.data[word] = torch.nan
    (folder := tmp_path / "spoilt").mkdir()
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    found = scores_of(tmp_path, rows, Rater(model="x"), folder)
    for place in (0, 2):
        assert found[place]["score"] == pytest.approx(right[place]["score"], abs=1e-5)
    for place in (1, 3):
        why = json.loads(found[place]["detail"])
        assert found[place]["score"] is None and why == {"why": "not-finite", "detail": "the score is nan"}
