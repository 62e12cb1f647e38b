"""How a language model's samples become rows of tokens: which tokens count, by which template, how
rows are packed and what is done to those that are too long, as configured and as the data ask.

Knows the settings and the tokenizer; how text is rendered and rows are packed is `data`'s.
"""

import logging
from dataclasses import dataclass

from cutlayer.config.schema import DataSection
from cutlayer.data.chats import template_text
from cutlayer.data.check import OnBad, check_samples
from cutlayer.data.rows import Blocks, PackedRows, shorten
from cutlayer.data.samples import Conversation, Samples, TableReading
from cutlayer.data.templates import ChatTemplate, Kept, RowEncoder, unwritten
from cutlayer.errors import ConfigError, column_listing
from cutlayer.model.inputs import Tokenizer
from cutlayer.spec import LossOn, Packing, TooLong

_LOG = logging.getLogger(__name__)

_LOSS_TITLES: dict[LossOn, str] = {
    "assistant": "loss on the assistant's turns",
    "completion": "loss on the completion",
    "all": "loss on all tokens",
}
_PACKING_TITLES: dict[Packing, str] = {
    "blocks": "joined and cut into blocks",
    "documents": "several documents a row",
    "none": "one a row",
}
# conversations that are looked at for what the template leaves out
_LOOKED_AT = 100


@dataclass(frozen=True, eq=False)
class RowMaking:
    """How samples are made into rows: what encodes them, whether rows are packed, what is done to
    those that are too long. `chat_template`: what is used instead of the tokenizer's own."""

    tokenizer: Tokenizer
    encoder: RowEncoder
    packing: Packing
    too_long: TooLong
    max_tokens: int
    chat_template: str | None

    def title(self, reading: TableReading | None) -> str:
        """All of it in a line: `conversations from column messages, loss on the assistant's turns,
        template of the tokenizer, one a row`."""
        parts = ["texts" if reading is None else str(reading)]
        parts.append(_LOSS_TITLES[self.encoder.loss_on])
        if self.encoder.template is not None:
            parts.append(self.encoder.template.title)
        elif reading is not None and reading.format == "alpaca":
            parts.append("Alpaca's own prompt, since the tokenizer has no chat template")
        parts.append(_PACKING_TITLES[self.packing])
        if reading is not None and reading.unread:
            parts.append(f"columns not read: {column_listing(reading.unread)}")
        return ", ".join(parts)

    def tell_unwritten(self, samples: Samples) -> None:
        """What conversations have and the template leaves out: nobody learns from it."""
        template = self.encoder.template
        if template is None:
            return
        read = (samples.read(index) for index in range(min(len(samples), _LOOKED_AT)))
        left_out = unwritten(template, (one for one in read if isinstance(one, Conversation)))
        if left_out:
            _LOG.warning(
                f"the chat template leaves out the {column_listing(left_out)} of the conversations,"
                " which nothing is learned from: give one that writes them (data.chat_template)"
            )

    def rows(self, samples: Samples, on_bad: OnBad, name: str) -> tuple[Samples, int]:
        """The rows of samples, and how many were bad. `name`: which samples, for what is told."""
        if not len(samples):
            return samples, 0
        if self.packing == "blocks" and isinstance(samples.read(0), str):
            return Blocks(self.encoder.documents(samples), self.max_tokens), 0
        encoded, left_out = self.encoder.rows(samples)
        if left_out:
            _LOG.warning(
                f"{left_out} of the assistant's turns in {name}samples do not count: the chat"
                " template writes them otherwise once other turns follow"
            )
        made: Samples = encoded
        if self.packing != "blocks":
            made, shortened = shorten(encoded, self.max_tokens, self.too_long)
            if shortened is not None:
                _LOG.warning(f"{name}samples: {shortened}")
        kept, bad = check_samples(made, int(samples.labels.max()) + 1, on_bad)
        if bad:
            _LOG.warning("skipped %d bad samples, the first: %s", len(bad), bad[0].title)
        if self.packing == "blocks":
            return Blocks(kept, self.max_tokens), len(bad)
        if self.packing == "documents":
            return PackedRows(kept, self.max_tokens), len(bad)
        return kept, len(bad)


def row_making(
    section: DataSection, reading: TableReading | None, tokenizer: Tokenizer
) -> RowMaking:
    """How samples that are read so become rows.

    Raises ConfigError for conversations without a template, and for texts of which a part that they
    do not have is to count.
    """
    plain = reading is None
    given = section.chat_template
    given = None if given is None or reading is None else template_text(given)
    template = None if reading is None else _template(given, reading, tokenizer)
    loss_on = section.loss_on
    if loss_on is None:
        by_turns = reading is not None and reading.column("turns") is not None
        loss_on = "all" if plain else "assistant" if by_turns else "completion"
    if plain and loss_on != "all":
        raise ConfigError(
            f"data.loss_on is {loss_on}, but the data are texts without turns: set it to all, or"
            " give conversations or prompts and completions"
        )
    packing = section.packing or ("blocks" if plain else "none")
    encoder = RowEncoder(
        tokenizer.tokenize,
        tokenizer.begin_id,
        tokenizer.separator_id,
        template,
        loss_on,
        tokenizer.check,
        None if packing == "blocks" else Kept(section.max_tokens, section.too_long),
    )
    return RowMaking(tokenizer, encoder, packing, section.too_long, section.max_tokens, given)


def _template(
    given: str | None, reading: TableReading, tokenizer: Tokenizer
) -> ChatTemplate | None:
    """The template that makes the text; None where texts are joined without one."""
    library = tokenizer.library
    if given is not None:
        return ChatTemplate(library, given, "template of data.chat_template")
    try:
        own = str(library.get_chat_template())
    except ValueError as error:
        if reading.format in ("alpaca", "prompt-completion"):
            return None
        raise ConfigError(
            f"the tokenizer has no chat template to make the text of {reading}: set"
            " data.chat_template to a Jinja file or its text, or choose a model that was trained on"
            " conversations"
        ) from error
    return ChatTemplate(library, own, "template of the tokenizer")
