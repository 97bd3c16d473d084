"""The tokenizer of a model's folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError, code_not_trusted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(
    directory: Path, chat_template: str | None = None, *, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer saved in `directory`, with the Jinja file `chat_template` in place of its own template if given.

    A .gguf file will do for a directory. Code beside it is run where `trust_remote_code`. Raises UserError where there
    is no tokenizer, or the file cannot be read.
    """
    from transformers import AutoTokenizer

    if (directory / "tekken.json").is_file() and not any(directory.glob("tokenizer.[jm]*")):
        raise UserError(
            f"the model directory {str(directory)!r} has its tokenizer as tekken.json alone, without a chat template",
            "put tokenizer.json, tokenizer_config.json and the chat template beside it, as a repository of the same "
            "model in Hugging Face's format has them",
        )
    try:
        packed = {"gguf_file": directory.name} if directory.is_file() else {}
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory.parent if packed else directory),
            **packed,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            mistral_format=False,  # whose tokenizer renders by itself, whatever the chat template
        )
    except Exception as error:  # transformers reports a missing or damaged tokenizer by many kinds of error
        first_line = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"the model directory {str(directory)!r} has no tokenizer that can be loaded: {first_line}",
            code_not_trusted(error)
            or "put tokenizer.json and tokenizer_config.json beside the weights, as `save_pretrained` does",
        ) from error
    if chat_template is not None:
        try:
            template = Path(chat_template).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(
                f"model.chat_template {chat_template!r} cannot be read: {error}", "give a Jinja file"
            ) from error
        if not template.strip():
            raise UserError(f"model.chat_template {chat_template!r} is empty", "give a Jinja file that writes messages")
        tokenizer.chat_template = template
    return tokenizer
