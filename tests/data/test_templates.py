"""Which tokens of a conversation count, by marks and by prefixes, against masks made by hand."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from cutlayer.data.samples import Completion, Conversation, TokenRow
from cutlayer.data.templates import (
    ChatTemplate,
    Kept,
    RowEncoder,
    closed,
    completion_row,
    conversation_row,
    unwritten,
)
from cutlayer.errors import DataError
from cutlayer.spec import IGNORED_LABEL, LossOn, TooLong
from data import templates
from data.sets import texts

BYTES = templates.tokenizer()
QWEN3 = ChatTemplate(BYTES, templates.QWEN3, "a test's")
EACH = pytest.mark.parametrize("name", templates.WITH_HAND_MADE)


def say(role: str, content: str, **more: object) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TWO = (say("user", "Hi"), say("assistant", "Yes?"), say("user", "Go"), say("assistant", "Gone."))


def counted(row: TokenRow, tokenizer: Any = BYTES) -> list[str]:
    """The runs of tokens that count, as text."""
    runs: list[list[int]] = [[]]
    for token, label in zip(row.ids.tolist(), row.labels.tolist(), strict=True):
        if label == IGNORED_LABEL:
            runs.append([])
        else:
            assert label == token
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs if run]


def encoded(
    template: str, turns: tuple[dict[str, Any], ...], loss_on: LossOn = "assistant", **more: Any
) -> TokenRow:
    known = ChatTemplate(BYTES, template, "a test's")
    return conversation_row(known, Conversation(turns, **more), loss_on).row


def by_hand(pieces: list[templates.Piece]) -> tuple[list[int], list[int]]:
    ids, labels = [], []
    for text, counts in pieces:
        tokens = BYTES(text, add_special_tokens=False)["input_ids"]
        ids += tokens
        labels += tokens if counts else [IGNORED_LABEL] * len(tokens)
    return ids, [IGNORED_LABEL, *labels[1:]]


words = st.text("ab \n<>/|é🎉", max_size=8).map(lambda text: f"x{text}y")
exchanges = st.lists(st.tuples(words, words), min_size=1, max_size=4)


@EACH
@settings(max_examples=25, deadline=None)
@given(exchanges)
def test_what_counts_is_what_a_hand_marks(name: str, said: list[tuple[str, str]]) -> None:
    turns = tuple(
        say(role, text)
        for pair in said
        for role, text in zip(("user", "assistant"), pair, strict=True)
    )
    template, pieces = templates.WITH_HAND_MADE[name]
    row = encoded(template, turns)
    assert (row.ids.tolist(), row.labels.tolist()) == by_hand(pieces(turns))


@pytest.mark.parametrize("name", ["chatml", "chatml-marked", "llama3", "qwen3"])
def test_a_system_s_turn_does_not_count(name: str) -> None:
    template, pieces = templates.WITH_HAND_MADE[name]
    turns = (say("system", "Be brief."), *TWO)
    row = encoded(template, turns)
    assert (row.ids.tolist(), row.labels.tolist()) == by_hand(pieces(turns))


@pytest.mark.parametrize("how", ["right", "left"])
@pytest.mark.parametrize("tokens", [1, 30, 60, 100, 150, 400])
def test_of_what_is_cut_off_nothing_need_be_found(how: TooLong, tokens: int) -> None:
    known, turns = ChatTemplate(BYTES, templates.CHATML, ""), Conversation(TWO * 2)
    whole = conversation_row(known, turns, "assistant")
    part = conversation_row(known, turns, "assistant", Kept(tokens, how))
    place = slice(-tokens, None) if how == "left" else slice(tokens)
    assert part.row.labels[place].tolist() == whole.row.labels[place].tolist()
    assert (part.answers < whole.answers) is (tokens < 200)


def test_the_loss_may_be_on_the_last_answer_or_on_everything() -> None:
    assert counted(encoded(templates.CHATML, TWO, "completion")) == ["Gone.<|im_end|>\n"]
    (whole,) = counted(encoded(templates.CHATML, TWO, "all"))
    assert whole == "".join(text for text, _ in templates.chatml(TWO))[1:]
    # where the data say it, all that follows the prompt
    rest = counted(encoded(templates.CHATML, TWO, "completion", completion=1))
    assert rest[0].startswith("Yes?") and rest[0].endswith("Gone.<|im_end|>\n")


def test_thoughts_that_the_template_drops_do_not_count() -> None:
    turns = (
        say("user", "Hi"),
        say("assistant", "Yes?", reasoning_content="a greeting"),
        say("user", "Go"),
        say("assistant", "Gone.", reasoning_content="an order"),
    )
    made = conversation_row(QWEN3, Conversation(turns), "assistant")
    # the first answer stands there without the thoughts that led to it
    assert counted(made.row) == ["<think>\nan order\n</think>\n\nGone.<|im_end|>\n"]
    assert (made.answers, made.left_out) == (1, 1)
    row = encoded(templates.QWEN3, turns)
    assert (row.ids.tolist(), row.labels.tolist()) == by_hand(templates.qwen3(turns))


def test_an_empty_block_of_thoughts_makes_no_difference() -> None:
    made = conversation_row(QWEN3, Conversation(TWO), "assistant")
    assert made.left_out == 0
    assert counted(made.row) == [
        "Yes?<|im_end|>\n",
        "<think>\n\n</think>\n\nGone.<|im_end|>\n",
    ]


def test_turns_before_which_the_template_moves_others_do_not_count() -> None:
    turns = (say("system", "Be brief."), *TWO)
    known = ChatTemplate(BYTES, templates.MISTRAL, "")
    made = conversation_row(known, Conversation(turns), "assistant")
    assert counted(made.row) == [" Gone.</s>"]
    assert made.left_out == 1


def test_a_last_turn_may_be_closed_otherwise() -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=BYTES.backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.add_tokens(["<|user|>", "<|assistant|>", "<|end|>"], special_tokens=True)
    known = ChatTemplate(tokenizer, templates.PHI, "")
    made = conversation_row(known, Conversation(TWO), "assistant")
    assert counted(made.row, tokenizer) == ["Yes?<|end|>\n", "Gone.<|end|>\n</s>"]


def test_a_prompt_that_opens_thoughts_is_no_part_of_the_answer() -> None:
    opened = templates.CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    assert counted(encoded(opened, TWO)) == ["Yes?<|im_end|>\n", "Gone.<|im_end|>\n"]


def test_a_template_whose_text_no_turn_begins_is_refused() -> None:
    counting = "{{ messages | length }}" + templates.CHATML
    with pytest.raises(DataError, match=r"no token of it counts: .* \{% generation %\}"):
        encoded(counting, TWO)
    assert counted(encoded("{{ messages | length }}" + templates.CHATML_MARKED, TWO))


def test_what_a_template_refuses_is_passed_on() -> None:
    system = say("system", "Be brief.")
    with pytest.raises(DataError, match=r"template refuses it: System role not supported"):
        encoded(templates.GEMMA, (system, *TWO))
    with pytest.raises(DataError, match=r"template refuses it: roles must alternate"):
        encoded(templates.MISTRAL, (system, system, *TWO))
    with pytest.raises(DataError, match=r"template fails on it: .*no attribute 'nothing'"):
        encoded("{{ messages[0].nothing.more }}", TWO)


def test_without_an_answer_nothing_counts() -> None:
    for template in (templates.CHATML, templates.CHATML_MARKED):
        with pytest.raises(DataError, match=r"no token of it counts: it has no turn of the assis"):
            encoded(template, TWO[:1])


def test_calls_of_tools_count_and_what_they_give_does_not() -> None:
    template = templates.CHATML.replace(
        "message['content']",
        "(message.tool_calls | tojson if message.tool_calls else message['content'])",
    )
    call = {"type": "function", "function": {"name": "sum", "arguments": {"of": [1, 2]}}}
    turns = (
        say("user", "1 + 2?"),
        say("assistant", "", tool_calls=[call]),
        say("tool", "3"),
        say("assistant", "Three."),
    )
    found = counted(encoded(template, turns))
    assert found[0].startswith('[{"type": "function"')
    assert found[1] == "Three.<|im_end|>\n"


def test_what_a_template_leaves_out_is_named() -> None:
    """Of all that are looked at: what one of them shows is written."""
    call = {"type": "function", "function": {"name": "sum", "arguments": {"of": [1, 2]}}}
    tools = ({"type": "function", "function": {"name": "sum"}},)
    called = Conversation(
        (
            say("system", "Count."),
            say("user", "1 + 2?"),
            say("assistant", "", tool_calls=[call]),
            say("tool", "3"),
            say("assistant", "Three.", reasoning_content="A sum.", thinking="A sum."),
        ),
        tools,
    )

    def left_out(template: str, *more: Conversation) -> tuple[str, ...]:
        return unwritten(ChatTemplate(BYTES, template, ""), (Conversation(TWO), called, *more))

    assert left_out(templates.CHATML) == ("tools", "tool_calls", "thoughts")
    assert left_out(templates.QWEN3) == ("tools", "tool_calls")
    assert left_out("{{ messages | tojson }}{{ tools | tojson }}") == ()
    silent = "{% for turn in messages if turn.role in ('user', 'assistant') %}{{ turn.content }}"
    of_roles = ("turns of the system", "turns of the tool")
    assert left_out(silent + "{% endfor %}")[-2:] == of_roles
    # one that refuses what it is shown is told of where it is used
    refuses = "{% if not tools %}{{ raise_exception('no tools') }}{% endif %}" + templates.CHATML
    assert left_out(refuses) == ("tool_calls", "thoughts")


def test_a_template_s_today_is_always_the_same_day() -> None:
    dated = "{{ strftime_now('%d %b %Y') }}" + templates.CHATML
    assert BYTES.decode(encoded(dated, TWO).ids).startswith("26 Jul 2024<|im_start|>")


@pytest.fixture(scope="module")
def merging() -> Any:
    """A tokenizer whose tokens reach over the ends of turns, where no mark keeps them apart."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    text = "".join(piece for piece, _ in templates.chatml(TWO))
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator([text] * 20, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")


@pytest.mark.parametrize("template", [templates.CHATML, templates.CHATML_MARKED])
def test_a_token_counts_that_is_in_part_of_an_answer(merging: Any, template: str) -> None:
    turns = (say("user", "Hi"), say("assistant", "\nYes?"))
    row = conversation_row(
        ChatTemplate(merging, template, ""), Conversation(turns), "assistant"
    ).row
    places = merging(
        "".join(piece for piece, _ in templates.chatml(turns)), return_offsets_mapping=True
    )["offset_mapping"]
    first = len("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert (row.labels != IGNORED_LABEL).tolist() == [end > first for _, end in places]


# Prompts and completions of plain text.


def tokenize(contents: list[str]) -> list[list[int]]:
    """A byte each, and one that begins a text."""
    found = BYTES(contents, add_special_tokens=False)["input_ids"]
    return [[BYTES.bos_token_id, *ids] for ids in found]


def completed(prompt: str, completion: str, loss_on: LossOn = "completion") -> TokenRow:
    one = Completion(prompt, completion)
    around = {"begin": BYTES.bos_token_id, "end": BYTES.eos_token_id}
    return completion_row(one, tokenize, loss_on, **around)


def test_the_completion_counts_and_the_token_that_ends_it() -> None:
    row = completed("1 + 1 =", " 2")
    assert BYTES.decode(row.ids) == "<s>1 + 1 = 2</s>"
    assert counted(row) == [" 2</s>"]
    assert counted(completed("1 + 1 =", " 2", "all")) == ["1 + 1 = 2</s>"]


def test_no_text_begins_or_ends_twice() -> None:
    row = completed("<s>1 + 1 =", " 2</s>")
    assert BYTES.decode(row.ids) == "<s>1 + 1 = 2</s>"
    assert counted(row) == [" 2</s>"]
    assert closed([1, 1, 7, 2], 1, 2) == [1, 7, 2]
    assert closed([7, 7], None, 2) == [7, 7, 2]
    begun = encoded(templates.LLAMA3, TWO)
    assert begun.ids.tolist().count(BYTES.bos_token_id) == 1


def encoder(template: str | None) -> RowEncoder:
    known = None if template is None else ChatTemplate(BYTES, template, "")
    return RowEncoder(
        tokenize, BYTES.bos_token_id, BYTES.eos_token_id, known, "assistant", lambda ids: None
    )


def test_samples_that_make_no_row_stay_with_the_reason() -> None:
    samples = texts(["", "", "text"])
    samples = type(samples)(
        (Conversation(TWO), Conversation(TWO[:1]), "text"),
        *(samples.labels, samples.raw_labels, samples.lines, "memory"),
    )
    rows, _ = encoder(templates.CHATML).rows(samples)
    assert counted(rows.read(0)) == ["Yes?<|im_end|>\n", "Gone.<|im_end|>\n"]
    with pytest.raises(DataError, match=r"memory line 2: no token of it counts"):
        rows.read(1)
    assert counted(rows.read(2)) == ["text</s>"]
    with pytest.raises(DataError, match=r"memory line 1: .* set data\.chat_template"):
        encoder(None).rows(samples)[0].read(0)


# TRL's own templates, of which each is there with marks and without.


TRL = importlib.util.find_spec("trl")


def trl_template(name: str) -> str:
    assert TRL is not None and TRL.submodule_search_locations
    folder = Path(TRL.submodule_search_locations[0]) / "chat_templates"
    return (folder / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.skipif(TRL is None, reason="TRL is not installed")
@pytest.mark.parametrize("name", ["llama3", "gemma", "gemma3", "cohere2", "lfm2"])
def test_prefixes_find_what_trl_marks(name: str) -> None:
    plain, marked = encoded(trl_template(name), TWO), encoded(trl_template(f"{name}_training"), TWO)
    assert np.array_equal(plain.ids, marked.ids)
    assert np.array_equal(plain.labels, marked.labels)
