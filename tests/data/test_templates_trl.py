"""The tokens that count are those that TRL's trainer counts, on the same samples."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cutlayer.data.samples import Completion, Conversation, TokenRow
from cutlayer.data.templates import ChatTemplate, completion_row, conversation_row
from cutlayer.spec import IGNORED_LABEL
from data import templates

pytestmark = [
    pytest.mark.slow("TRL takes seconds to import"),
    pytest.mark.filterwarnings("ignore"),  # of a library that is but a peer
]
BYTES = templates.tokenizer()
WORDS = ("the", "film", "was", "good.", "Why?", "it's", "3.14", "\n\n", " spaces", "émoji", "🎉")


def says(rng: np.random.Generator) -> str:
    return "so " + " ".join(rng.choice(WORDS, rng.integers(2, 12)))


def chats(count: int) -> list[list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    return [
        [
            {"role": role, "content": says(rng)}
            for _ in range(rng.integers(1, 4))
            for role in ("user", "assistant")
        ]
        for _ in range(count)
    ]


def labels_of_trl(rows: list[dict[str, Any]], template: str | None, marked: bool) -> np.ndarray:
    """What its trainer makes of samples, and its collator of that."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

    asked = SimpleNamespace(
        dataset_num_proc=None,
        dataset_text_field="text",
        assistant_only_loss=marked,
        max_length=None,
        shuffle_dataset=False,
    )
    trainer: Any = SimpleNamespace(
        _tokenizer=BYTES, chat_template=template, completion_only_loss=True
    )
    prepared = SFTTrainer._prepare_dataset(
        trainer, Dataset.from_list(rows), BYTES, asked, False, None, "train"
    )
    collator = DataCollatorForLanguageModeling(pad_token_id=BYTES.pad_token_id)
    return np.asarray(collator([prepared[n] for n in range(len(prepared))])["labels"])


def check_same(rows: list[TokenRow], labels: np.ndarray) -> None:
    assert sum(int((row.labels != IGNORED_LABEL).sum()) for row in rows) == int(
        (labels != IGNORED_LABEL).sum()
    )
    for row, own in zip(rows, labels, strict=True):
        assert np.array_equal(row.labels, own[: len(row.labels)])


@pytest.mark.parametrize("plain", [templates.CHATML, templates.CHATML_MARKED])
def test_of_conversations_the_assistant_s_tokens(plain: str) -> None:
    """By marks as there, and by prefixes."""
    said = chats(30)
    known = ChatTemplate(BYTES, plain, "")
    rows = [conversation_row(known, Conversation(tuple(one)), "assistant").row for one in said]
    trl = labels_of_trl([{"messages": one} for one in said], templates.CHATML_MARKED, True)
    check_same(rows, trl)


@pytest.mark.parametrize("template", [templates.CHATML, templates.LLAMA3, templates.QWEN3])
def test_of_prompts_and_completions_the_completion(template: str) -> None:
    said, known = chats(30), ChatTemplate(BYTES, template, "")
    rows = [
        conversation_row(known, Conversation(tuple(one), (), len(one) - 1), "completion").row
        for one in said
    ]
    pairs = [{"prompt": one[:-1], "completion": one[-1:]} for one in said]
    check_same(rows, labels_of_trl(pairs, template, False))


def test_of_plain_pairs_the_completion_and_what_ends_it() -> None:
    rng = np.random.default_rng(1)
    pairs = [{"prompt": says(rng), "completion": f" {says(rng)}"} for _ in range(30)]

    def tokenize(texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in BYTES(texts)["input_ids"]]

    around = {"begin": BYTES.bos_token_id, "end": BYTES.eos_token_id}
    rows = [completion_row(Completion(**pair), tokenize, "completion", **around) for pair in pairs]
    check_same(rows, labels_of_trl(pairs, None, False))
