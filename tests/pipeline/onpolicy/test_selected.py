"""Pairs that were selected become prepare's: as answers, whatever they look like."""

from pathlib import Path

from pipeline.onpolicy.selected import selected_pairs
from pipeline.preferences.normalise import Normaliser, Preference
from pipeline.results import tables

ODD = ["\n\nHuman: Q?\n\nAssistant: A.", '[{"role": "user", "content": "x"}]', "plain", " leading", "{}"]


def test_an_answer_is_an_answer_whatever_it_looks_like(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "Q?"}]
    rows = [
        {
            **dict.fromkeys(tables.SELECTED.names),
            **{"prompt_id": "p", "chosen_id": "c", "rejected_id": "r", "rule": "best-worst", "source": "mine"},
            **{"prompt": tables.messages_json(prompt), "chosen": odd, "rejected": f"not {odd}"},
            **{"chosen_score": 1.0, "rejected_score": 0.25, "margin": 0.75, "label_confidence": 0.9, "split": "dev"},
            **{"chosen_tokens": 3, "rejected_tokens": 4, "shared_prefix_tokens": 0},
        }
        for odd in ODD
    ]
    tables.write(rows[:3], tables.SELECTED, tmp_path / "part-00000.parquet")
    tables.write(rows[3:], tables.SELECTED, tmp_path / "part-00001.parquet")
    (tmp_path / "unpaired.parquet").write_bytes(b"not read")
    source = selected_pairs([tmp_path])
    numbered = list(source.rows)
    assert [number for number, _ in numbered] == [1, 2, 3, 4, 5]
    reader = Normaliser(source.rows)
    found = [outcome for _, row in numbered for outcome in reader.read(row)]
    pairs = [each for each in found if isinstance(each, Preference)]
    assert [each.chosen["content"] for each in pairs] == ODD and len(found) == len(ODD)
    for each in pairs:
        assert each.prompt == tuple(prompt) and each.rejected["content"] == f"not {each.chosen['content']}"
        assert (each.chosen_score, each.rejected_score, each.label_confidence) == (1.0, 0.25, 0.9)
        assert (each.source, each.split) == ("mine", "dev")
