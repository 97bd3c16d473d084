"""Text to token ids such that no text of a user's acts as a control token.

What a user spells (`<|im_end|>`) is put out of the chat template's sight before it renders (`hidden`), and written as
the plain characters it is when the rendering is encoded. All other text is encoded in one piece, as the model saw it in
training.
"""

import re
from typing import TYPE_CHECKING

from pipeline.preferences.shapes import Message, Unusable, short
from pipeline.preferences.texts import THOUGHTS, map_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A control token that user text spells, while the template sees the text: the token's characters in hexadecimal.
_HIDDEN = re.compile("\ue000([0-9a-f]*)\ue001")


class Encoder:
    """One tokenizer; `rendered` is text of its chat template, in which control tokens are found that are not marked so.

    `spelled` finds in a user's text what would act as a control token.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", rendered: str):
        self.tokenizer = tokenizer
        control = _control_tokens(tokenizer, rendered)
        # What stands for unknown characters is no turn, though a user must not write it either.
        unknown = () if str(tokenizer.unk_token) in rendered else (tokenizer.unk_token_id,)
        self._control_texts = {id_: text for text, id_ in control.items() if id_ not in unknown}
        longest_first = sorted(control, key=lambda text: (-len(text), text))
        written = "|".join(map(re.escape, longest_first)) or r"(?!)"
        self.written, self.spelled = re.compile(f"({written})"), re.compile(f"{written}|\ue000")

    def controls(self, ids: list[int]) -> list[int]:
        return [id_ for id_ in ids if id_ in self._control_texts]

    def hidden(self, message: Message) -> Message:
        """The message with every control token that its texts spell put out of the template's sight."""
        if message.keys() == {"role", "content"} and not self.spelled.search(message["content"]):
            return message
        return {**map_texts(message, self.hide), "role": message["role"]}

    def hide(self, text: str) -> str:
        return self.spelled.sub(lambda found: f"\ue000{found.group().encode().hex()}\ue001", text)

    def __call__(self, *texts: str) -> list[list[int]]:
        """Ids of renderings, with what is hidden in them as plain characters."""
        if not any("\ue000" in text for text in texts):
            return self._ids(*texts)
        return [self._revealed(text) for text in texts]

    def _revealed(self, text: str) -> list[int]:
        """Ids of a rendering with hidden text: what stands between two control tokens of the template's own is encoded
        in one piece, as plain characters where something in it is hidden."""
        ids: list[int] = []
        for piece in filter(None, self.written.split(text)):
            ids += self._ids(reveal(piece), split_special_tokens="\ue000" in piece)[0]
        if self._text(ids) != self._text(*self._ids(reveal(text))):
            raise Unusable("control-token", f"no plain characters for a control token in {shown(text)}")
        return ids

    def _ids(self, *texts: str, split_special_tokens: bool = False) -> list[list[int]]:
        options = {"add_special_tokens": False, "split_special_tokens": split_special_tokens, "verbose": False}
        return self.tokenizer(list(texts), **options)["input_ids"] if texts else []

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def anchor(self, prompt: str, prompt_ids: list[int]) -> tuple[int, int]:
        """(token, character) of a prompt's last control token. What follows it is encoded apart from what is before,
        so that a completion need not encode the whole conversation again. (0, 0) where there is none."""
        for index in range(len(prompt_ids) - 1, -1, -1):
            if prompt_ids[index] in self._control_texts:
                position = prompt.rfind(self._control_texts[prompt_ids[index]])
                return (index, position) if position >= 0 else (0, 0)
        return 0, 0


def _control_tokens(tokenizer: "PreTrainedTokenizerBase", rendered: str) -> dict[str, int]:
    """Tokens that user text must not write. Not every tokenizer marks those of its own template as special; thoughts
    are for a model to write."""
    return {
        str(token): id_
        for id_, token in tokenizer.added_tokens_decoder.items()
        if (token.special or (re.match(r"[<\[{]", str(token)) and str(token) in rendered))
        and not THOUGHTS.fullmatch(str(token))
    }


def reveal(text: str) -> str:
    """A rendering with what is hidden in it."""
    return _HIDDEN.sub(lambda found: bytes.fromhex(found.group(1)).decode(), text)


def shown(text: str) -> str:
    """The same, shortened, for a message."""
    return short.repr(reveal(text))
