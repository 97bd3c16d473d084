"""What several tests of doors share: a model that is opened in no time, and a folder with files to give."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import run

TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<assistant> {% endif %}"


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer of bytes and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("check") / "model"
    alphabet = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    spelt = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, [], unk_token="<unk>"))
    spelt.pre_tokenizer, spelt.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelt, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    size: Any = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet), **size)).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Place:
    """A folder with files to give, and the door of the whole line in this process."""

    folder: Path
    model: Path
    capture: pytest.CaptureFixture[str]

    def file(self, name: str, *rows: Any) -> str:
        path = self.folder / name
        path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in rows))
        return str(path)

    @property
    def given(self) -> list[str]:
        return [f"resources.root={self.folder / 'root'}"]

    def config(self, **changes: Any) -> str:
        raw = {"model": {"source": str(self.model)}, "data": {"pairs": 4, "dev_pairs": 2}} | changes
        (self.folder / "config.yaml").write_text(yaml.safe_dump(raw))
        return str(self.folder / "config.yaml")

    def says(self, main: Callable[[list[str]], None], *arguments: str) -> tuple[int, str]:
        """Exit status and all that is said."""
        status = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = self.capture.readouterr()
        return status, said.out + said.err

    def dry(self, *arguments: str, config: str | None = None) -> str:
        """What a dry run says that must refuse, and that a real run says the same at once."""
        asked = ["--config", config or self.config(), *self.given, *arguments]
        status, said = self.says(run.main, *asked, "--dry-run")
        assert status == 2 and "Traceback" not in said, said
        status, real = self.says(run.main, *asked)
        planning, same = real.split("\n", maxsplit=1)
        assert status == 2 and "run: planning" in planning and same == said
        assert "error: " in said and "\n  remedy: " in said and not list(self.folder.glob("root/*/*"))
        return said


@pytest.fixture
def place(
    tmp_path: Path, byte_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Place:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, byte_model, capsys)
