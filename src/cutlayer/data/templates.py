"""Turns and texts made into rows of tokens: the chat template applied, and which tokens count.

Knows transformers' tokenizer as an object that it is given; reads no file and no table. What counts
of a conversation is found in the text that the template makes of it, and carried to the tokens by
the place in the text where each begins and ends.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeAlias, final

from cutlayer.data.rows import TokenRows, document_row, whole_row
from cutlayer.data.samples import (
    THOUGHTS,
    Completion,
    Conversation,
    Samples,
    TextContent,
    Tokenize,
    TokenRow,
)
from cutlayer.errors import DataError, ModelError, brief_error, cut, reason
from cutlayer.spec import LossOn, TooLong

Turns: TypeAlias = tuple[dict[str, Any], ...]
Place: TypeAlias = tuple[int, int]  # of a token in a text, from and to
_MARKED = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
# a block of thoughts that says nothing: what templates put in an answer, or take from it, by place
_NO_THOUGHTS = re.compile(r"\s*<(\w+)>\s*</\1>\s*")
_OPENED = re.compile(r"\s*(<\w+>\s*(</\w+>\s*)?)?")
# for templates that write today's date: a run would not be the same tomorrow. Llama 3 writes this
# one where it knows no date
_TODAY = datetime(2024, 7, 26)
_ASKS_TODAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
_LETTERS = 200
_REWRITTEN = (
    "the chat template writes the turns before an answer otherwise once the answer is there, so"
    " that nobody can tell which tokens are the assistant's: mark them in data.chat_template with"
    " {% generation %} and {% endgeneration %}"
)


@final
@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """A tokenizer of transformers with the template that makes its text of turns.

    `text`: the template's own; `title`: where it comes from, in words.
    """

    tokenizer: Any
    text: str
    title: str

    @property
    def marked(self) -> bool:
        """Whether the template says which of its text the assistant generates."""
        return _MARKED.search(self.text) is not None

    def render(self, turns: Turns, tools: Sequence[Any], *, prompt: bool = False) -> str:
        """The text of turns; `prompt`: with what comes before an answer of the assistant.

        Raises DataError with the reason why the template makes none.
        """
        with_prompt = {"add_generation_prompt": prompt, "tokenize": False}
        return str(self._apply(turns, tools, with_prompt))

    def marks(self, turns: Turns, tools: Sequence[Any]) -> tuple[list[int], list[bool]]:
        """The tokens of turns, and which of them the template marks as the assistant's."""
        asked = {"return_assistant_tokens_mask": True, "return_dict": True}
        made = self._apply(turns, tools, asked)
        return list(made["input_ids"]), [bool(one) for one in made["assistant_masks"]]

    def tokens(self, text: str) -> tuple[list[int], list[Place]]:
        """The tokens of a template's text, and where in it each begins and ends."""
        try:
            made = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
        except NotImplementedError as error:
            raise DataError(
                "the tokenizer does not say which part of a text a token is of: save it with"
                " transformers, as tokenizer.json"
            ) from error
        return list(made["input_ids"]), [(start, end) for start, end in made["offset_mapping"]]

    def _apply(self, turns: Turns, tools: Sequence[Any], asked: dict[str, Any]) -> Any:
        try:
            return self.tokenizer.apply_chat_template(
                list(turns),
                tools=list(tools) or None,
                chat_template=_dated(self.text),
                **asked,
            )
        except MemoryError:
            raise
        except Exception as error:  # a template may do anything
            raised = type(error).__name__ == "TemplateError"
            how = "refuses it" if raised else "fails on it"
            raise DataError(f"the chat template {how}: {cut(reason(error), _LETTERS)}") from error


@lru_cache
def _dated(template: str) -> str:
    """A template that writes one day whenever it asks for today's date."""

    def day(asked: re.Match[str]) -> str:
        return repr(_TODAY.strftime(asked.group(2)))

    return _ASKS_TODAY.sub(day, template)


# What a template leaves out.


def unwritten(template: ChatTemplate, conversations: Iterable[Conversation]) -> tuple[str, ...]:
    """What conversations have and the template's text of them has not, in any that are looked at:
    `tools`, `tool_calls`, `thoughts`, `turns of the system` and other roles."""
    written: dict[str, bool] = {}
    for one in conversations:
        try:
            text = template.render(one.turns, one.tools)
        except DataError:  # which is told of the sample
            continue
        for name, turns, tools in _without_parts(one):
            if not written.get(name):
                written[name] = _renders_otherwise(template, turns, tools, text)
    return tuple(name for name, found in written.items() if not found)


def _without_parts(one: Conversation) -> Iterator[tuple[str, Turns, Sequence[Any]]]:
    """The conversation without each thing that it has, or with another text in its place."""
    if one.tools:
        yield "tools", one.turns, ()
    for name, keys in (("tool_calls", {"tool_calls"}), ("thoughts", set(THOUGHTS))):
        if any(turn.get(key) for turn in one.turns for key in keys):
            left = ({key: turn[key] for key in turn if key not in keys} for turn in one.turns)
            yield name, tuple(left), one.tools
    for role in dict.fromkeys(turn["role"] for turn in one.turns if turn["content"].strip()):
        said = (
            {**turn, "content": f"{turn['content']} x"} if turn["role"] == role else turn
            for turn in one.turns
        )
        yield f"turns of the {role}", tuple(said), one.tools


def _renders_otherwise(
    template: ChatTemplate, turns: Turns, tools: Sequence[Any], text: str
) -> bool:
    try:
        return template.render(turns, tools) != text
    except DataError:  # it is asked for
        return True


# Which part of the text is an answer.


def answer_span(
    template: ChatTemplate,
    conversation: Conversation,
    number: int,
    text: str,
    places: Sequence[Place],
) -> Place | None:
    """Where the turn `number` of a conversation begins and ends in its `text`, whose tokens are at
    `places`: what the template adds to the turns before it and its prompt for an answer; None where
    the text of the whole conversation does not begin so, and the model would read other turns
    before.

    A block of thoughts without a thought that stands in one of the texts alone makes no difference.
    """
    turns, tools = conversation.turns, conversation.tools
    try:
        before = template.render(turns[:number], tools, prompt=True)
        after = text
        if number + 1 < len(turns):
            after = template.render(turns[: number + 1], tools)
    except DataError:
        return None
    start = _start(template, conversation, number, text, before)
    if start is None or after[:start] != text[:start]:
        return None
    own, rest = after[start:], text[start:]
    if rest.startswith(own):
        return start, start + len(own)
    silent = _NO_THOUGHTS.match(own)
    if silent is not None and rest.startswith(own[silent.end() :]):
        return start, start + len(own) - silent.end()
    # what closes a turn may differ where it is the last: up to there
    said = str(turns[number].get("content", "")).strip()
    common = own[: common_length(own, rest)]
    if said and said in common and not turns[number].get("tool_calls"):
        end = start + len(common)
        return start, next((first for first, last in places if first < end < last), end)
    return None


def _start(
    template: ChatTemplate, conversation: Conversation, number: int, text: str, before: str
) -> int | None:
    """Where an answer begins, after the template's prompt for it."""
    if text.startswith(before):
        return len(before)
    try:
        plain = template.render(conversation.turns[:number], conversation.tools)
    except DataError:
        return None
    common = common_length(before, text)
    if common < len(plain) or _OPENED.fullmatch(before[common:]) is None:
        return None
    return common


def common_length(one: Sequence[object], other: Sequence[object]) -> int:
    """How far two texts, or lists of tokens, are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    differ = (place for place, (left, right) in pairs if left != right)
    return next(differ, min(len(one), len(other)))


@dataclass(frozen=True)
class Encoded:
    """A sample as a row, and how many of its answers count and do not, because the template writes
    them otherwise once other turns follow."""

    row: TokenRow
    answers: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Kept:
    """What is kept of a sample that is too long: so many tokens, from that side."""

    tokens: int
    how: TooLong

    def part(self, places: Sequence[Place], length: int) -> Place:
        """The part of a text of that length whose tokens are kept."""
        if len(places) <= self.tokens:
            return 0, length
        return (
            (places[-self.tokens][0], length) if self.how == "left" else (0, places[self.tokens][0])
        )


def conversation_row(
    template: ChatTemplate,
    conversation: Conversation,
    loss_on: LossOn,
    kept: Kept | None = None,
) -> Encoded:
    """The tokens of a conversation, and which of them count: of the assistant's turns, by the
    template's marks or, where it has none, by what each turn adds to the text before it; of the
    completion, the last answer where the data do not tell it apart; or all. What is not `kept`
    anyway may be left unmarked.

    Raises DataError with the reason why nothing counts.
    """
    turns, tools = conversation.turns, conversation.tools
    if loss_on == "assistant" and template.marked:
        ids, counts = template.marks(turns, tools)
        if not any(counts):
            raise DataError(_nothing(turns, "the chat template marks none of its text as theirs"))
        return Encoded(document_row(ids, counts))
    text = template.render(turns, tools)
    ids, places = template.tokens(text)
    if loss_on == "all":
        return Encoded(document_row(ids, [True] * len(ids)))
    if loss_on == "completion" and conversation.completion is not None:
        first = conversation.completion
        before = template.render(turns[:first], tools, prompt=True)
        start = _start(template, conversation, first, text, before)
        tried = [None if start is None else (start, len(text))]
    else:
        wanted = (0, len(text)) if kept is None else kept.part(places, len(text))
        tried = list(_tried(template, conversation, loss_on, text, places, wanted))
    spans = sorted(span for span in tried if span is not None)
    if not spans:
        raise DataError(_nothing(turns, _REWRITTEN))
    row = document_row(ids, list(_inside(places, spans)))
    return Encoded(row, len(spans), len(tried) - len(spans))


def _tried(
    template: ChatTemplate,
    conversation: Conversation,
    loss_on: LossOn,
    text: str,
    places: Sequence[Place],
    wanted: Place,
) -> Iterator[Place | None]:
    """Where each answer is that reaches into the `wanted` part of the text, or None; the template
    is applied to all that comes before each."""
    turns = conversation.turns
    answers = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
    if loss_on == "completion":
        answers = answers[-1:]
    from_end = wanted[0] > 0
    for number in reversed(answers) if from_end else answers:
        span = answer_span(template, conversation, number, text, places)
        yield span
        if span is not None and (span[0] <= wanted[0] if from_end else span[1] >= wanted[1]):
            return


def _nothing(turns: Turns, why: str) -> str:
    if not any(turn["role"] == "assistant" for turn in turns):
        return "no token of it counts: it has no turn of the assistant's"
    return f"no token of it counts: {why}"


def _inside(places: Sequence[Place], spans: Sequence[Place]) -> Iterator[bool]:
    """Whether each token is of one of the spans, at least in part. As transformers counts marks."""
    at = 0
    for start, end in places:
        while at < len(spans) and start >= spans[at][1]:
            at += 1
        yield at < len(spans) and end > spans[at][0] and end > start


def completion_row(
    one: Completion, tokenize: Tokenize, loss_on: LossOn, *, begin: int | None, end: int
) -> TokenRow:
    """The tokens of a prompt and its completion, joined and closed by `end`; of which the
    completion's count, or all. `begin`: what may stand at the beginning, once.

    Source: TRL's SFTTrainer, for data of prompts and completions.
    """
    before, ids = tokenize([one.prompt, one.prompt + one.completion])
    before, ids = (closed(each, begin, end) for each in (before, ids))
    if loss_on == "all":
        return document_row(ids, [True] * len(ids))
    shared = common_length(before[:-1], ids)
    return document_row(ids, [place >= shared for place in range(len(ids))])


def closed(ids: list[int], begin: int | None, end: int) -> list[int]:
    """With one token that ends it, and at most one that begins it: texts may have them already."""
    if len(ids) > 1 and ids[0] == ids[1] == begin:
        ids = ids[1:]
    return ids if ids and ids[-1] == end else [*ids, end]


# All samples.


def tokenised(samples: Samples, indices: Iterable[int], tokenize: Tokenize) -> list[list[int]]:
    """Ids of these samples. Raises `DataError` naming the sample that the tokenizer fails on."""
    places = list(indices)
    texts = [_text(samples, index) for index in places]
    try:
        return tokenize(texts)
    except Exception as error:  # whatever the tokenizer's library raises, of any one text
        for index, text in zip(places, texts, strict=True):
            _try(samples, index, text, tokenize)
        raise DataError(
            f"the tokenizer fails on {len(texts)} texts: {brief_error(error)}"
        ) from error


def _try(samples: Samples, index: int, text: str, tokenize: Tokenize) -> None:
    try:
        tokenize([text])
    except Exception as error:
        raise DataError(
            f"{samples.where(index)}: the tokenizer fails on it: {brief_error(error)}"
        ) from error


def _text(samples: Samples, index: int) -> str:
    content = samples.read(index)
    if not isinstance(content, str):
        raise DataError(f"{samples.where(index)} is not a text: this model needs texts")
    return content


@dataclass(frozen=True, eq=False)
class RowEncoder:
    """Makes rows of samples: `tokenize` texts with the tokens `begin` and `end` around them (of
    texts, `begin` is the tokenizer's affair), conversations by `template`; None: there is none.

    `check` raises ModelError for ids that the model has no embedding for. `kept`: what rows are cut
    to later; None: they are not.
    """

    tokenize: Tokenize
    begin: int | None
    end: int
    template: ChatTemplate | None
    loss_on: LossOn
    check: Callable[[list[int]], None]
    kept: Kept | None = None

    def rows(self, samples: Samples) -> tuple[TokenRows, int]:
        """A row of each sample, or why there is none; and how many of the assistant's turns do not
        count, because the template writes them otherwise once others follow."""
        made: list[TokenRow | str] = []
        left_out = 0
        for index in range(len(samples)):
            try:
                found = self._encoded(samples.read(index))  # type: ignore[arg-type]
            except DataError as error:
                made.append(str(error))
            else:
                left_out += found.left_out
                made.append(found.row)
        return TokenRows(samples, made), left_out

    def documents(self, samples: Samples) -> TokenRows:
        """Texts as they follow each other in blocks, where the first token counts too."""
        found = tokenised(samples, range(len(samples)), self.tokenize)
        return TokenRows(samples, [whole_row(closed(ids, self.begin, self.end)) for ids in found])

    def _encoded(self, content: TextContent) -> Encoded:
        if isinstance(content, Completion) and content.conversation is not None and self.template:
            content = content.conversation
        if isinstance(content, Conversation):
            if self.template is None:
                raise DataError(
                    "it has turns, and the tokenizer no chat template: set data.chat_template"
                )
            made = conversation_row(self.template, content, self.loss_on, self.kept)
            self.check(made.row.ids.tolist())
            return made
        try:
            if isinstance(content, Completion):
                around = {"begin": self.begin, "end": self.end}
                return Encoded(completion_row(content, self.tokenize, self.loss_on, **around))  # type: ignore[arg-type]
            (ids,) = self.tokenize([content])
        except (MemoryError, ModelError):
            raise
        except Exception as error:  # whatever the tokenizer's library raises
            raise DataError(f"the tokenizer fails on it: {brief_error(error)}") from error
        ids = closed(ids, self.begin, self.end)
        return Encoded(document_row(ids, [True] * len(ids)))
