"""The converters of conversations, on tiny packages of the form that they read."""

import json
from pathlib import Path
from typing import Any

import pytest

from cutlayer.data.assets import conversations
from cutlayer.data.assets.conversations import PROBLEM_KINDS
from cutlayer.errors import AssetError


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# --- chats


def chat(*said: tuple[str, str]) -> dict[str, Any]:
    """As the package has them: one list for each turn."""
    return {"messages": [[{"sender": sender, "text": text}] for sender, text in said]}


def chitchat(folder: Path, conversations_by_id: dict[str, Any]) -> None:
    path = folder / "chitchat_dataset"
    path.mkdir()
    (path / "dataset.json").write_text(json.dumps(conversations_by_id), encoding="utf-8")


def test_who_answers_first_is_the_assistant(tmp_path: Path, target: Path) -> None:
    said = [("a", "Hello"), ("a", " How are you? "), ("b", "Fine"), ("b", " "), ("a", "Bye")]
    chitchat(tmp_path, {f"{number:02}": chat(*said) for number in range(10)})
    conversations.convert_chitchat(tmp_path, target)
    messages = [
        {"role": "user", "content": "Hello\nHow are you?"},
        {"role": "assistant", "content": "Fine"},
    ]
    row = {"messages": messages, "sender_id": "b"}
    assert rows_of(target / "train.jsonl") == [row] * 9
    assert rows_of(target / "test.jsonl") == [row]


def test_every_tenth_chat_by_id_is_a_test_row(tmp_path: Path, target: Path) -> None:
    ids = [f"{number:02}" for number in range(25)]
    chats = {name: chat(("a", name), ("b", "yes")) for name in reversed(ids)}
    chitchat(tmp_path, chats)
    conversations.convert_chitchat(tmp_path, target)
    asked = [row["messages"][0]["content"] for row in rows_of(target / "test.jsonl")]
    assert asked == ["00", "10", "20"]
    assert len(rows_of(target / "train.jsonl")) == 22


def test_chats_that_nobody_answered_are_left_out(tmp_path: Path, target: Path) -> None:
    answered = {str(number): chat(("a", "?"), ("b", "!")) for number in range(10)}
    chitchat(tmp_path, {**answered, "alone": chat(("a", "?"), ("a", "??")), "none": chat()})
    conversations.convert_chitchat(tmp_path, target)
    assert len(rows_of(target / "train.jsonl")) + len(rows_of(target / "test.jsonl")) == 10


def test_a_package_without_chats_is_refused(tmp_path: Path, target: Path) -> None:
    chitchat(tmp_path, {"alone": chat(("a", "?"))})
    with pytest.raises(AssetError, match="holds 0 conversations of two people"):
        conversations.convert_chitchat(tmp_path, target)


# --- word problems


def problem(kind: int, number: int, name: str = "Ann") -> dict[str, Any]:
    return {
        "question": f"{name} has {number}. How many? ",
        "worked": f"It is {number}.\n#### {number}",
        "answer": str(number),
        "kind": kind,
    }


def test_no_test_problem_has_the_numbers_of_a_training_problem(target: Path) -> None:
    drawn = [
        problem(kind, number, name)
        for number in range(200)
        for kind in PROBLEM_KINDS
        for name in ("Ann", "Bob")
    ]
    conversations.write_problems(target, drawn)
    train, test = rows_of(target / "train.jsonl"), rows_of(target / "test.jsonl")
    assert (len(train), len(test)) == (96 * len(PROBLEM_KINDS), 32 * len(PROBLEM_KINDS))
    keys = [
        [(row["kind"], row["messages"][1]["content"]) for row in rows] for rows in (train, test)
    ]
    assert len(set(keys[0])) == len(train)
    assert not set(keys[0]) & set(keys[1])
    messages = [
        {"role": "user", "content": "Ann has 0. How many?"},
        {"role": "assistant", "content": "It is 0.\n#### 0"},
    ]
    assert test[0] == {"messages": messages, "kind": str(PROBLEM_KINDS[0])}
    # any first rows hold every kind
    assert [row["kind"] for row in train[: len(PROBLEM_KINDS)]] == list(map(str, PROBLEM_KINDS))


def test_too_few_distinct_problems_are_refused(target: Path) -> None:
    drawn = [problem(kind, 1) for kind in PROBLEM_KINDS]
    with pytest.raises(AssetError, match="gave 1 distinct problems of kind"):
        conversations.write_problems(target, drawn)


def generator(folder: Path, family: str) -> None:
    """A tree of the generator's form. What its root imports is not there."""
    files = {
        "__init__.py": "import nobody_has_this",
        "arithmetic/__init__.py": "import nobody_has_this",
        "arithmetic/gsm_symbolic/__init__.py": "import nobody_has_this",
        "arithmetic/gsm_symbolic/gsm_symbolic.py": family,
        "coaching/__init__.py": "",
    }
    for name, content in files.items():
        path = folder / "reasoning_gym" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


FAMILY = """
class GSMSymbolicDatasetConfig:
    def __init__(self, seed, size):
        pass

class GSMSymbolicDataset:
    def __init__(self, settings):
        self.generators = {kind: make for kind in range(100)}

def make(rng, difficulty):
    number = rng.randint(1, 10**9)
    worked = f"It is {number}.\\n#### {number}"
    question = f"Ann has {number}. How many?"
    return {"question": question, "answer": str(number), "metadata": {"answer_cot": worked}}
"""


def test_problems_other_than_the_pinned_ones_are_refused(tmp_path: Path, target: Path) -> None:
    generator(tmp_path, FAMILY)
    with pytest.raises(AssetError, match="the train problems are others than cutlayer knows"):
        conversations.convert_arithmetic(tmp_path, target)
    assert len(rows_of(target / "train.jsonl")) == 96 * len(PROBLEM_KINDS)


def test_a_generator_that_fails_is_told_in_its_words(tmp_path: Path, target: Path) -> None:
    generator(tmp_path, "raise RuntimeError('of another version')")
    with pytest.raises(AssetError, match="RuntimeError: of another version"):
        conversations.convert_arithmetic(tmp_path, target)
