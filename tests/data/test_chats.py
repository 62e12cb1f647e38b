"""Conversations and instructions in tables: what is recognised, what is asked, what is bad."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.chats import example, recognise, record_of, template_text
from cutlayer.data.check import Part, check_data, export_part
from cutlayer.data.load import load_data
from cutlayer.data.samples import Completion, Conversation, DataSet, ReadSettings, TableReading
from cutlayer.errors import ConfigError, DataError
from cutlayer.spec import TextFormat
from data.sets import json_lines

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yes?"}
CHAT = {"messages": [USER, ANSWER]}
SHARED = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]}
PAIR = {"prompt": "1 + 1 =", "completion": " 2"}
ALPACA = {"instruction": "Add.", "input": "1 1", "output": "2"}
MESSAGES = TableReading("messages", (("turns", "messages"), ("tools", "tools")))


def loaded(folder: Path, rows: list[dict[str, Any]], **asked: Any) -> DataSet:
    path = folder / "rows.jsonl"
    json_lines(path, rows)
    return load_data(str(path), test_fraction=0.5, **asked)


def faults(folder: Path, *rows: dict[str, Any], **asked: Any) -> list[str]:
    """Why each row cannot be used, beside two that can."""
    good = CHAT if asked.get("format") != "sharegpt" else SHARED
    _, bad = check_data(loaded(folder, [good, *rows, good], **asked), "skip")
    return [one.why.partition(": ")[2] for one in sorted(bad, key=lambda one: one.where)]


def refused(turns: object, **columns: object) -> str:
    with pytest.raises(DataError) as caught:
        example(MESSAGES, {"messages": turns, **columns})
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "title"),
    [
        (CHAT, "conversations from column messages"),
        ({**CHAT, "tools": "[]"}, "conversations from columns messages, tools"),
        (SHARED, "conversations (ShareGPT) from column conversations"),
        (PAIR, "prompts and completions from columns prompt, completion"),
        (ALPACA, "instructions and outputs (Alpaca) from columns instruction, output, input"),
    ],
)
def test_columns_are_recognised_and_named(tmp_path: Path, row: dict[str, Any], title: str) -> None:
    data = loaded(tmp_path, [{**row, "note": "x"}] * 4)
    assert (data.task, str(data.reading)) == ("causal-lm", title)
    assert data.reading is not None and data.reading.unread == ("note",)
    assert check_data(data)[1] == ()


def test_conversations_are_the_same_in_every_file(tmp_path: Path) -> None:
    rows = [CHAT] * 4
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    text = json.dumps(CHAT["messages"]).replace('"', '""')
    (tmp_path / "rows.csv").write_text("messages\n" + f'"{text}"\n' * 4)
    json_lines(tmp_path / "rows.jsonl", rows)
    for name in ("rows.json", "rows.csv", "rows.jsonl"):
        content = load_data(str(tmp_path / name), test_fraction=0.5).train.read(0)
        assert isinstance(content, Conversation)
        assert content.turns == (USER, ANSWER)


def test_a_table_of_texts_and_labels_stays_one(tmp_path: Path) -> None:
    data = loaded(tmp_path, [{**CHAT, "text": "a", "label": n % 2} for n in range(4)])
    assert (data.task, data.reading) == ("text-classification", None)


def test_several_formats_are_asked_not_guessed(tmp_path: Path) -> None:
    message = r"can be read as messages \(messages\) or as text \(text\): .*data\.format"
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, [{**CHAT, "text": "a"}] * 4)
    with pytest.raises(DataError, match=r"as messages .* or as alpaca \(instruction, output"):
        loaded(tmp_path, [CHAT, ALPACA] * 2)
    with pytest.raises(DataError, match=r"conversations in messages and conversations: .*text_fi"):
        loaded(tmp_path, [{**CHAT, **SHARED}] * 4)
    both = [{**CHAT, **SHARED, "text": "a"}] * 4
    assert loaded(tmp_path, both, format="text", task="causal-lm").reading is None
    data = loaded(tmp_path, both, format="sharegpt", text_field="conversations")
    assert str(data.reading).endswith("column conversations")


def test_a_format_that_is_asked_for_needs_its_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'completion', which data\.format prompt-compl"):
        loaded(tmp_path, [{"prompt": "a"}] * 4, format="prompt-completion")
    with pytest.raises(DataError, match=r"none of the columns messages, .* it has: text"):
        loaded(tmp_path, [{"text": "a"}] * 4, format="messages")
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    with pytest.raises(DataError, match=r"no columns to read as data\.format messages"):
        load_data(str(tmp_path / "a.txt"), format="messages")


def test_half_of_an_example_is_no_text(tmp_path: Path) -> None:
    rows = [{"question": "1 + 1?", "answer": "2"}] * 4
    with pytest.raises(DataError, match=r"column 'answer' is one half .* question.*data\.format"):
        loaded(tmp_path, rows, task="causal-lm", text_field="answer")
    with pytest.raises(DataError, match=r"no column 'text'.* of question, answer nothing is read"):
        loaded(tmp_path, rows, task="causal-lm")
    data = loaded(tmp_path, rows, task="causal-lm", text_field="answer", format="text")
    assert data.train.read(0) == "2"


def test_another_column_may_hold_the_conversations(tmp_path: Path) -> None:
    rows = [{"talk": [USER, ANSWER]}] * 4
    data = loaded(tmp_path, rows, format="messages", text_field="talk")
    assert str(data.reading) == "conversations from column talk"


def test_sharegpt_s_turns_are_messages(tmp_path: Path) -> None:
    call = json.dumps({"name": "sum", "arguments": {"of": [1, 2]}})
    turns = [
        {"from": "human", "value": "1 + 2?"},
        {"from": "function_call", "value": call},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "Three."},
    ]
    rows = [{"conversations": turns, "system": "Be brief."}] * 4
    content = loaded(tmp_path, rows).train.read(0)
    assert isinstance(content, Conversation)
    roles = [turn["role"] for turn in content.turns]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    function = content.turns[2]["tool_calls"][0]["function"]
    assert function == {"name": "sum", "arguments": {"of": [1, 2]}}


def test_alpaca_s_are_its_published_prompts_and_turns(tmp_path: Path) -> None:
    rows = [ALPACA, {"instruction": "Sing.", "input": "", "output": "La"}] * 2
    data = loaded(tmp_path, rows)
    contents = {data.train.read(0), data.train.read(1), data.test.read(0), data.test.read(1)}
    by_answer = {one.completion: one for one in contents if isinstance(one, Completion)}
    assert by_answer["2"].prompt.endswith(
        "### Instruction:\nAdd.\n\n### Input:\n1 1\n\n### Response:"
    )
    assert by_answer["La"].prompt.endswith("request.\n\n### Instruction:\nSing.\n\n### Response:")
    known = by_answer["2"].conversation
    assert known is not None and known.completion == 1
    assert [turn["content"] for turn in known.turns] == ["Add.\n\n1 1", "2"]


def test_prompt_and_completion_may_be_turns(tmp_path: Path) -> None:
    rows = [{"prompt": [USER], "completion": [ANSWER]}] * 4
    content = loaded(tmp_path, rows).train.read(0)
    assert isinstance(content, Conversation)
    assert (content.turns, content.completion) == ((USER, ANSWER), 1)


def test_what_templates_read_is_kept() -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}, "type": "function"}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "name": None},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
        {"role": "assistant", "content": "done", "thinking": "so"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": None}}]
    content = example(MESSAGES, {"messages": turns, "tools": json.dumps(tools)})
    assert isinstance(content, Conversation)
    assert content.tools == ({"type": "function", "function": {"name": "f"}},)
    user, calling, gave, done = content.turns
    assert user["content"] == "ab"
    assert calling["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert "name" not in calling and calling["content"] == gave["content"] == ""
    assert done["thinking"] == done["reasoning_content"] == "so"


def test_turns_by_column_are_read_too() -> None:
    turns = {"role": ["user", "assistant"], "content": ["Hi", "Yes?"]}
    content = example(MESSAGES, {"messages": turns})
    assert isinstance(content, Conversation) and content.turns == (USER, ANSWER)


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        (None, "it has no 'messages'"),
        ([], "its 'messages' has no turns"),
        ("hello", "its 'messages' is a text, not a list of turns"),
        (7, "its 'messages' is a number, not a list of turns"),
        (["hello"], "turn 1 is a text, not an object"),
        ([{"role": "bot", "content": "a"}], "turn 1 has the role 'bot': known are system,"),
        ([{"content": "a"}], "turn 1 has the role None: known are"),
        ([{"from": "gpt", "value": "a"}], "turn 1 has 'from' and 'value', as in ShareGPT"),
        ([USER, {"role": "assistant", "content": None}], "turn 2 (assistant): it has no text"),
        ([USER, {"role": "assistant"}], "turn 2 (assistant): it has no text"),
        ([{"role": "user", "content": " \n"}], "turn 1 (user): its text is empty"),
        ([{"role": "user", "content": 5}], "turn 1 (user): its 'content' is a number, not a text"),
        ([{"role": "user", "content": "a\0"}], "turn 1 (user): it holds a NUL character"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}],
            "turn 1 has a part of type 'image_url': a language model reads texts alone",
        ),
        ([{"role": "user", "content": [3]}], "turn 1 has a part of type 'a number'"),
        ([{**ANSWER, "tool_calls": [{"id": 1}]}], "turn 1 calls a tool without a name"),
        ([{**ANSWER, "tool_calls": "f"}], "turn 1: its 'tool_calls' are a text, not a list"),
    ],
)
def test_what_is_no_conversation_says_why(turns: object, why: str) -> None:
    assert refused(turns).startswith(why)


def test_tools_that_are_none_say_why() -> None:
    assert refused([USER], tools="hammer").startswith("its 'tools' are a text, not a list")


def test_mixed_rows_are_bad_samples_with_their_place(tmp_path: Path) -> None:
    strange = {"messages": SHARED["conversations"]}
    why = faults(tmp_path, strange, {"messages": []}, {"other": 1})
    assert why[0].startswith("turn 1 has 'from' and 'value'")
    assert why[1:] == ["its 'messages' has no turns", "it has no 'messages'"]
    (why_not,) = faults(tmp_path, {"conversations": CHAT["messages"]}, format="sharegpt")
    assert why_not.startswith("turn 1 has 'role' and 'content'")
    with pytest.raises(DataError, match=r"1 of 4 samples .*rows\.jsonl line 2: its 'messages' has"):
        check_data(loaded(tmp_path, [CHAT, {"messages": []}, CHAT, CHAT]))


def test_bad_texts_of_pairs_say_which(tmp_path: Path) -> None:
    rows = [PAIR, {"prompt": "", "completion": "a"}, {"prompt": "a", "completion": None}, PAIR]
    _, bad = check_data(loaded(tmp_path, rows), "skip")
    assert sorted(one.why.partition(": ")[2] for one in bad) == [
        "of its 'completion': it has no text",
        "of its 'prompt': its text is empty",
    ]


def test_what_is_exported_is_read_as_it_was(tmp_path: Path) -> None:
    rows = [CHAT, {"messages": [USER, {**ANSWER, "content": "No."}], "tools": [{"name": "f"}]}] * 2
    data = loaded(tmp_path, rows)
    export_part(data, tmp_path / "part", Part())
    again = load_data(str(tmp_path / "part"), test_fraction=0.5)
    texts = [json.dumps(record_of(again.train.read(n)), sort_keys=True) for n in range(1)]  # type: ignore[arg-type]
    known = [json.dumps(record_of(data.train.read(n)), sort_keys=True) for n in range(2)]  # type: ignore[arg-type]
    assert set(texts) <= set(known)


def test_samples_of_one_value_are_one_group(tmp_path: Path) -> None:
    rows = [{**CHAT, "who": f"w{n % 3}"} for n in range(12)]
    data = loaded(tmp_path, rows, group_field="who")
    assert data.train.groups is not None
    assert sorted(set(data.train.groups.tolist())) == [0, 1, 2]
    with pytest.raises(DataError, match=r"no column 'whom' to deal .*partition\.column"):
        loaded(tmp_path, rows, group_field="whom")
    rows.append({**CHAT, "who": ""})
    _, bad = check_data(loaded(tmp_path, rows, group_field="who"), "skip")
    assert [one.why.partition(": ")[2] for one in bad] == ["it has no value in the column 'who'"]


def test_a_template_is_a_file_or_its_text(tmp_path: Path) -> None:
    text = "{% for message in messages %}{% generation %}a{% endgeneration %}{% endfor %}"
    (tmp_path / "chat.jinja").write_text(text)
    assert template_text(str(tmp_path / "chat.jinja")) == template_text(text) == text
    with pytest.raises(ConfigError, match=r"data\.chat_template is 'chatml': no such file"):
        template_text("chatml")
    with pytest.raises(ConfigError, match=r"data\.chat_template is no template .*: line 1: "):
        template_text("{% for message in messages %}")


# values where a conversation's would be: of the right shape as a rule, and wrong somewhere
_leaf = (
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "gpt", "[1]", "{}"])
)
_call = st.fixed_dictionaries(
    {}, optional={"name": _leaf, "arguments": _leaf, "function": st.dictionaries(_leaf, _leaf)}
)
_turn = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "tool", "bot", None, 3]),
        "content": _leaf | st.lists(_leaf | st.fixed_dictionaries({"text": _leaf}), max_size=2),
        "from": st.sampled_from(["human", "gpt", "function_call", [], None]),
        "value": _leaf,
        "tool_calls": _leaf | st.lists(_call | _leaf, max_size=2),
        "thinking": _leaf,
    },
)
_rows = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("messages", "conversations"), _leaf | st.lists(_turn | _leaf, max_size=3)),
        **dict.fromkeys(("prompt", "completion"), _leaf | st.lists(_turn, max_size=2)),
        **dict.fromkeys(("tools", "system", "instruction", "input", "output"), _leaf),
    },
)


@given(st.lists(_rows, max_size=3), st.sampled_from(["auto", *get_args(TextFormat)]))
def test_whatever_is_in_a_row_it_is_read_or_says_why(rows: list[Any], asked: Any) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    try:
        reading = recognise(columns, rows, "here", ReadSettings("causal-lm", format=asked))
    except DataError:
        return
    for row in rows if reading is not None else ():
        assert reading is not None
        try:
            content = example(reading, row)
        except DataError as error:
            assert str(error)
        else:
            assert json.dumps(record_of(content))
