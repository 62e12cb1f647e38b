"""Conversations and instructions in tables: which columns hold them, and a row made into turns.

Knows the formats that chat data come in (messages, ShareGPT, prompt and completion, Alpaca), not
how turns become text: `templates` does. Columns are recognised by their names; where several
formats fit nothing is guessed, but asked.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from cutlayer.data.records import read_text
from cutlayer.data.samples import (
    THOUGHTS,
    Completion,
    Conversation,
    ReadSettings,
    TableReading,
    TextContent,
    text_fault,
)
from cutlayer.errors import ConfigError, DataError, column_listing, quoted, type_in_words
from cutlayer.spec import TextFormat

_TURNS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog", "turns")
_PAIR = ("prompt", "completion")
_ALPACA = ("instruction", "output")
# the two halves of an example for a language model: one alone is not what it should learn
_QUESTIONS = ("instruction", "prompt", "question", "query", *_TURNS)
_ANSWERS = ("output", "completion", "response", "answer", "chosen")
_ROLES = ("system", "developer", "user", "assistant", "tool")
# whose turns may be empty: a call of a tool may give nothing, and a system need say nothing
_MAY_BE_EMPTY = ("system", "developer", "tool")
_SHAREGPT: dict[str, str] = {
    **{name: name for name in _ROLES},
    **dict.fromkeys(("human",), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "function_response"), "tool"),
}
_CALL = "function_call"
_MARKS = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
# rows whose turns are looked at to tell messages from ShareGPT
_PEEKED = 100
# Source: the two prompts of Stanford Alpaca (tatsu-lab/stanford_alpaca, train.py)
_ALPACA_PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes"
    " the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
)
_ALPACA_PROMPT_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further"
    " context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)


# Which columns.


def recognise(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], origin: str, settings: ReadSettings
) -> TableReading | None:
    """How a table is read for a language model; None: as plain texts of `text_field`.

    Of `rows` the first are looked at. Raises `DataError` where several formats fit, and where the
    columns of the format that is asked for are missing.
    """
    asked, columns = settings.format, tuple(columns)
    if asked == "text" or settings.task not in (None, "causal-lm"):
        return None
    peeked = [row for _, row in zip(range(_PEEKED), rows, strict=False)]
    if asked != "auto":
        return _telling(_asked(asked, columns, peeked, origin, settings.text_field), settings)
    labelled = {settings.text_field, settings.label_field} <= set(columns)
    if settings.task is None and labelled:
        return None
    found = _fitting(columns, peeked, origin)
    plain = settings.text_field in columns
    if found and plain and settings.text_field != found[0].column("turns"):
        _refuse_several([_title(one) for one in found], settings.text_field, origin)
    if len(found) > 1:
        _refuse_several([_title(one) for one in found], None, origin)
    if found:
        return _telling(found[0], settings)
    if plain and settings.task == "causal-lm":
        _refuse_halves(columns, settings.text_field, origin)
    return None


def _telling(reading: TableReading, settings: ReadSettings) -> TableReading:
    """Without the columns of groups and categories among those that are not read."""
    read = (settings.group_field, settings.label_field)
    return replace(reading, unread=tuple(name for name in reading.unread if name not in read))


def format_advice(columns: Sequence[str], settings: ReadSettings) -> str:
    """What to do about a table without a column of the text."""
    classified = settings.task == "text-classification"
    known = (
        [] if classified else [name for name in columns if name.lower() in (*_QUESTIONS, *_ANSWERS)]
    )
    if not known:
        return "Name yours with text_field"
    return (
        f"Name yours with text_field; of {', '.join(known)} nothing is read by these names: name"
        " conversations messages, pairs prompt and completion, or instruction and output"
    )


def _fitting(
    columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]], origin: str
) -> list[TableReading]:
    turns = [name for name in columns if name in _TURNS and _turns_kind(name, rows) is not None]
    if len(turns) > 1:
        raise DataError(
            f"{origin} has conversations in {' and '.join(turns)}: set data.format to messages or"
            " sharegpt, and data.text_field to the column"
        )
    found = []
    if turns:
        kind = _turns_kind(turns[0], rows)
        assert kind is not None
        found.append(_with_columns(kind, columns, ("turns", turns[0])))
    for kind, pair in (("prompt-completion", _PAIR), ("alpaca", _ALPACA)):
        if set(pair) <= set(columns):
            parts = zip(_PAIR, pair, strict=True)
            found.append(_with_columns(kind, columns, *parts))  # type: ignore[arg-type]
    return found


def _asked(
    kind: TextFormat,
    columns: tuple[str, ...],
    rows: Sequence[Mapping[str, Any]],
    origin: str,
    text_field: str,
) -> TableReading:
    if kind in ("messages", "sharegpt"):
        own = text_field in columns and text_field != "text"
        named = [text_field] if own else [name for name in _TURNS if name in columns]
        holding = [name for name in named if _turns_kind(name, rows) is not None] or named
        if len(holding) > 1:
            raise DataError(
                f"{origin} has conversations in {' and '.join(holding)}: name the column with"
                " data.text_field"
            )
        if holding:
            return _with_columns(kind, columns, ("turns", holding[0]))
        wanted = f"none of the columns {', '.join(_TURNS)} (or the one that data.text_field names)"
    else:
        pair = _ALPACA if kind == "alpaca" else _PAIR
        missing = [name for name in pair if name not in columns]
        if not missing:
            return _with_columns(kind, columns, *zip(_PAIR, pair, strict=True))
        wanted = f"no column {' and none '.join(quoted(name) for name in missing)}"
    raise DataError(
        f"{origin} has {wanted}, which data.format {kind} reads; it has:"
        f" {column_listing(columns)}. Name them so, or choose another data.format"
    )


def _with_columns(
    kind: TextFormat, columns: tuple[str, ...], *parts: tuple[str, str]
) -> TableReading:
    """With the columns that a format reads besides, where they are there."""
    besides = {"alpaca": ("input", "system"), "sharegpt": ("system", "tools")}
    more = besides.get(kind, ("tools",))
    read = (*parts, *((name, name) for name in more if name in columns))
    names = [name for _, name in read]
    return TableReading(kind, read, tuple(name for name in columns if name not in names))


def _turns_kind(column: str, rows: Sequence[Mapping[str, Any]]) -> TextFormat | None:
    """Whether a column holds turns, and how they are written; by the first that tells."""
    lists = False
    for row in rows:
        turns = _unpacked(row.get(column))
        if isinstance(turns, list):
            lists = True
            first = next((turn for turn in turns if isinstance(turn, dict)), {})
            if {"from", "value"} <= set(first):
                return "sharegpt"
            if first:
                return "messages"
    return "messages" if lists else None


def _title(reading: TableReading) -> str:
    return f"{reading.format} ({', '.join(name for _, name in reading.columns)})"


def _refuse_several(titles: list[str], text_field: str | None, origin: str) -> None:
    both = [*titles, *([] if text_field is None else [f"text ({text_field})"])]
    raise DataError(
        f"{origin} can be read as {' or as '.join(both)}: say which by data.format, one of"
        f" {', '.join(get_args(TextFormat))}"
    )


def _refuse_halves(columns: Sequence[str], text_field: str, origin: str) -> None:
    """Raises `DataError` where a language model would learn answers without their questions, or
    questions without their answers."""
    for half, others in ((_ANSWERS, _QUESTIONS), (_QUESTIONS, _ANSWERS)):
        beside = [name for name in columns if name.lower() in others]
        if text_field.lower() in half and beside:
            raise DataError(
                f"{origin}: the column {text_field!r} is one half of an example, the other is in"
                f" {', '.join(beside)}. Name the two prompt and completion, or set data.format to"
                " text to train on the one alone"
            )


# The template that makes a conversation's text.


def template_text(given: str) -> str:
    """The text of a chat template, which may be given as itself or as a file. Raises ConfigError
    for a file that is not there, and for what is no template."""
    text, where = given, "data.chat_template"
    if "{{" not in given and "{%" not in given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"data.chat_template is {quoted(given)}: no such file from {Path.cwd()}, and no"
                " template either, which has {{ or {% in it"
            )
        text, where = read_text(path), str(path)
    from jinja2 import Environment, TemplateSyntaxError

    try:  # as transformers does, whose own tag says what the assistant generates
        environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True)
        environment.parse(_MARKS.sub("", text))
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"{where} is no template that can be read: line {error.lineno}: {error.message}"
        ) from error
    return text


# A row.


def example(reading: TableReading, row: Mapping[str, Any]) -> TextContent:
    """What a row is to a language model. Raises `DataError` with the reason why it is none."""
    tools = _tools(row, reading.column("tools"))
    turns = reading.column("turns")
    if turns is not None:
        known = _turns(row.get(turns), turns, reading.format)
        system = _system(row, reading)
        return Conversation((*system, *known), tools)
    if reading.format == "alpaca":
        return _alpaca(row, reading)
    prompt, completion = (row.get(str(reading.column(part))) for part in _PAIR)
    if isinstance(_unpacked(prompt), list) or isinstance(_unpacked(completion), list):
        before = _turns(prompt, "prompt", "messages")
        after = _turns(completion, "completion", "messages")
        return Conversation((*before, *after), tools, len(before))
    if tools:
        raise DataError("it has tools, but prompt and completion are texts, not turns")
    return Completion(_text(prompt, "prompt"), _text(completion, "completion"))


def record_of(content: TextContent) -> dict[str, Any]:
    """A row of a table that is read as this content again."""
    if isinstance(content, str):
        return {"text": content}
    if isinstance(content, Completion) and content.conversation is None:
        return {"prompt": content.prompt, "completion": content.completion}
    known = content.conversation if isinstance(content, Completion) else content
    assert known is not None
    tools = {"tools": list(known.tools)} if known.tools else {}
    if known.completion is None:
        return {"messages": list(known.turns), **tools}
    before, after = known.turns[: known.completion], known.turns[known.completion :]
    return {"prompt": list(before), "completion": list(after), **tools}


def texts_of(content: TextContent) -> str:
    """All that is said in it, in one text."""
    if isinstance(content, str):
        return content
    if isinstance(content, Completion):
        return f"{content.prompt} {content.completion}"
    return " ".join(str(turn.get("content", "")) for turn in content.turns)


def _alpaca(row: Mapping[str, Any], reading: TableReading) -> Completion:
    instruction = _text(row.get(_ALPACA[0]), _ALPACA[0])
    output = _text(row.get(_ALPACA[1]), _ALPACA[1])
    given = row.get("input")
    if given is not None and not isinstance(given, str):
        raise DataError(f"its 'input' is {type_in_words(given)}, not a text")
    if row.get("history"):
        raise DataError("it has a 'history', which Alpaca's format has not: write it as messages")
    if given and given.strip():
        prompt = _ALPACA_PROMPT_INPUT.format(instruction=instruction, input=given)
        asked = f"{instruction}\n\n{given}"
    else:
        prompt, asked = _ALPACA_PROMPT.format(instruction=instruction), instruction
    user, answer = {"role": "user", "content": asked}, {"role": "assistant", "content": output}
    turns = (*_system(row, reading), user, answer)
    return Completion(prompt, output, Conversation(turns, (), len(turns) - 1))


def _system(row: Mapping[str, Any], reading: TableReading) -> tuple[dict[str, Any], ...]:
    column = reading.column("system")
    said = None if column is None else row.get(column)
    if said is None or said == "":
        return ()
    if not isinstance(said, str):
        raise DataError(f"its {column!r} is {type_in_words(said)}, not a text")
    return ({"role": "system", "content": said},)


def _text(value: object, field: str) -> str:
    fault = text_fault(value, field)
    if fault is not None or not isinstance(value, str):
        raise DataError(f"of its {field!r}: {fault}")
    return value


def read_turns(value: object) -> tuple[dict[str, Any], ...]:
    """A conversation of `role` and `content` as a template takes it, as rows of data are read.

    Raises DataError with the turn and what is wrong with it.
    """
    return _turns(value, "messages", "messages")


def _turns(value: object, column: str, kind: TextFormat) -> tuple[dict[str, Any], ...]:
    turns = _unpacked(value)
    if turns is None:
        raise DataError(f"it has no {column!r}")
    if not isinstance(turns, list):
        raise DataError(f"its {column!r} is {type_in_words(turns)}, not a list of turns")
    if not turns:
        raise DataError(f"its {column!r} has no turns")
    read = _shared if kind == "sharegpt" else _message
    return tuple(read(turn, number) for number, turn in enumerate(turns, 1))


def _message(turn: object, number: int) -> dict[str, Any]:
    """A turn of `role` and `content`, with what else a template may read."""
    if not isinstance(turn, dict):
        raise DataError(f"turn {number} is {type_in_words(turn)}, not an object")
    if "role" not in turn and "from" in turn:
        raise DataError(
            f"turn {number} has 'from' and 'value', as in ShareGPT, where others have 'role' and"
            " 'content': write all conversations one way"
        )
    role = turn.get("role")
    if role not in _ROLES:
        raise DataError(f"turn {number} has the role {quoted(role)}: known are {', '.join(_ROLES)}")
    told = {key: value for key, value in turn.items() if value is not None}
    if told.get("tool_calls"):
        told["tool_calls"] = _calls(_without_nulls(told["tool_calls"]), number)
    thoughts = [told[name] for name in THOUGHTS if isinstance(told.get(name), str)]
    if thoughts:  # templates read it by either name
        told |= {name: told.get(name, thoughts[0]) for name in THOUGHTS}
    told["content"] = _content(told, number)
    return told


def _content(turn: Mapping[str, Any], number: int) -> str:
    """What is said, as one text; parts of a list are joined as they are."""
    said, role = turn.get("content"), turn["role"]
    if isinstance(said, list):
        said = "".join(_part(part, number) for part in said)
    silent = role in _MAY_BE_EMPTY or (role == "assistant" and turn.get("tool_calls"))
    if silent and (said is None or (isinstance(said, str) and not said.strip())):
        return said or ""
    fault = text_fault(said, "content")
    if fault is not None or not isinstance(said, str):
        raise DataError(f"turn {number} ({role}): {fault}")
    return said


def _part(part: object, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type_in_words(part)
    raise DataError(
        f"turn {number} has a part of type {quoted(kind)}: a language model reads texts alone"
    )


def _shared(turn: object, number: int) -> dict[str, Any]:
    """A turn of `from` and `value`."""
    if not isinstance(turn, dict):
        raise DataError(f"turn {number} is {type_in_words(turn)}, not an object")
    if "from" not in turn and "role" in turn:
        raise DataError(
            f"turn {number} has 'role' and 'content', where others have 'from' and 'value', as in"
            " ShareGPT: write all conversations one way"
        )
    whose = turn.get("from")
    role = _SHAREGPT.get(whose) if isinstance(whose, str) else None
    if role is None:
        raise DataError(f"turn {number} is from {quoted(whose)}: known are {', '.join(_SHAREGPT)}")
    value = turn.get("value")
    if whose == _CALL:
        call = _parsed(value)
        if not isinstance(call, dict) or "name" not in call:
            raise DataError(f"turn {number}: a {_CALL} should be JSON with a name and arguments")
        return _message({"role": role, "content": "", "tool_calls": [call]}, number)
    return _message({"role": role, "content": value}, number)


def _calls(value: object, number: int) -> list[dict[str, Any]]:
    """Calls of tools as templates take them: arguments are an object, not its JSON."""
    calls = _unpacked(value)
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise DataError(f"turn {number}: its 'tool_calls' are {type_in_words(calls)}, not a list")
    made = []
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DataError(f"turn {number} calls a tool without a name")
        arguments = _parsed(function.get("arguments"))
        known = {key: given for key, given in call.items() if key not in ("name", "arguments")}
        function = {**function, "arguments": {} if arguments is None else arguments}
        made.append({**known, "type": "function", "function": function})
    return made


def _tools(row: Mapping[str, Any], column: str | None) -> tuple[dict[str, Any], ...]:
    given = None if column is None else _unpacked(row.get(column))
    if given is None or given == "":
        return ()
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise DataError(f"its {column!r} are {type_in_words(given)}, not a list of objects")
    return tuple(_without_nulls(tool) for tool in given)


def _without_nulls(value: Any) -> Any:
    """Without what a table of one type for all rows fills in."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _unpacked(value: object) -> Any:
    """A list that is written as JSON, or as a list for each key; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        return _parsed(value)
    if isinstance(value, dict) and value and all(isinstance(one, list) for one in value.values()):
        columns = list(value.values())
        if len({len(one) for one in columns}) == 1:
            return [dict(zip(value, one, strict=True)) for one in zip(*columns, strict=True)]
    return list(value) if isinstance(value, tuple) else value


def _parsed(value: object) -> Any:
    """The value of a text that is JSON; others as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
