"""The converters of conversations, on tiny packages of the form that they read."""

import json
from pathlib import Path
from typing import Any

import pytest

from cutlayer.data.assets import conversations
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


def problem(*animals: tuple[str, int, int], answer: int | None = None) -> dict[str, Any]:
    """As the generator's program writes them: animals, how many, and the legs of each."""
    legs = sum(number * each for _, number, each in animals)
    listed = ", ".join(f"{number} {name}s" for name, number, _ in animals)
    return {
        "question": f"Your task is to count.\n\nNow, how many legs if you have {listed}?\n",
        "animals": animals,
        "answer": str(legs if answer is None else answer),
    }


def test_no_test_problem_has_the_animals_of_a_training_problem(target: Path) -> None:
    drawn = [problem(("hen", 1, 2), ("cat", number, 4)) for number in range(1300)]
    # in another order they are the same problem
    again = [problem(("cat", number, 4), ("hen", 1, 2)) for number in range(1300)]
    conversations.write_problems(
        target, [each for pair in zip(drawn, again, strict=True) for each in pair]
    )
    train, test = rows_of(target / "train.jsonl"), rows_of(target / "test.jsonl")
    assert (len(train), len(test)) == (1000, 200)
    asked = {row["messages"][0]["content"] for row in train + test}
    assert len(asked) == 1200
    assert all("1 hens, " in question for question in asked)


def test_a_problem_is_worked_out(target: Path) -> None:
    several = problem(("hen", 3, 2), ("crab", 4, 10))
    alone = problem(("snake", 7, 0))
    rest = [problem(("cat", number, 4)) for number in range(1200)]
    conversations.write_problems(target, [several, alone, *rest])
    first, second, *_ = rows_of(target / "test.jsonl")
    answer = "3 hens: 3 x 2 = 6\n4 crabs: 4 x 10 = 40\n6 + 40 = 46\n#### 46"
    messages = [
        {"role": "user", "content": "How many legs if you have 3 hens, 4 crabs?"},
        {"role": "assistant", "content": answer},
    ]
    assert first == {"messages": messages, "animals": "2"}
    assert second["messages"][1]["content"] == "7 snakes: 7 x 0 = 0\n#### 0"
    assert second["animals"] == "1"


def test_steps_that_come_to_another_answer_are_refused(target: Path) -> None:
    with pytest.raises(AssetError, match="the steps come to 6, not 7"):
        conversations.write_problems(target, [problem(("hen", 3, 2), answer=7)])


def test_too_few_distinct_problems_are_refused(target: Path) -> None:
    with pytest.raises(AssetError, match="gave 1 distinct problems"):
        conversations.write_problems(target, [problem(("hen", 3, 2))] * 2)


def generator(folder: Path, family: str) -> None:
    """A tree of the generator's form. What its root imports is not there."""
    files = {
        "__init__.py": "import nobody_has_this",
        "arithmetic/__init__.py": "import nobody_has_this",
        "arithmetic/leg_counting.py": family,
        "coaching/__init__.py": "",
    }
    for name, content in files.items():
        path = folder / "reasoning_gym" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


FAMILY = """
ANIMALS = {"cat": 4}

def LegCountingConfig(size, **settings):
    return size

def LegCountingDataset(size):
    return map(made, range(size))

def made(number):
    question = f"Now, how many legs if you have {number} cats?"
    metadata = {"animals": {"cat": number}}
    return {"question": question, "answer": str(4 * number), "metadata": metadata}
"""


def test_problems_other_than_the_pinned_ones_are_refused(tmp_path: Path, target: Path) -> None:
    generator(tmp_path, FAMILY)
    with pytest.raises(AssetError, match="the train problems are others than cutlayer knows"):
        conversations.convert_arithmetic(tmp_path, target)
    assert len(rows_of(target / "train.jsonl")) == 1000


def test_a_generator_that_fails_is_told_in_its_words(tmp_path: Path, target: Path) -> None:
    generator(tmp_path, "raise RuntimeError('of another version')")
    with pytest.raises(AssetError, match="RuntimeError: of another version"):
        conversations.convert_arithmetic(tmp_path, target)
