"""How a conversation is put to a model that was trained on such."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tokenizers import Tokenizer

from data_shards.chat_template import ChatTemplate, UnusableChatError
from trainer.errors import TrainError


@dataclass(frozen=True)
class ChatFormat:
    """A chat template, and the tokenizer by which its control tokens are tokens."""

    template: ChatTemplate
    tokenizer: Tokenizer

    def prompt_ids(self, prompt: str) -> list[int]:
        """What a user says, up to where the assistant is to answer.

        Raises TrainError where the template does not take it, or it holds a control token.
        """
        held = next((token for token in self._control_tokens if token in prompt), None)
        if held is not None:
            raise TrainError(f"the prompt holds {held!r}, by which the chat template parts turns; leave it out.")
        try:
            text = self.template.render([{"role": "user", "content": prompt}], add_generation_prompt=True)
        except UnusableChatError as error:
            raise TrainError(f"the prompt: {error.reason} ({error.found}); give the whole text yourself.") from error
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        mark = self.template.end_mark
        return (mark,) if mark else ()

    @cached_property
    def _control_tokens(self) -> tuple[str, ...]:
        added = self.tokenizer.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)


def chat_format(template: ChatTemplate, tokenizer: Tokenizer) -> ChatFormat:
    """The format by a template; the tokenizer stays as it is, and may take control tokens in a text for plain text."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.encode_special_tokens = False
    return ChatFormat(template, own)
