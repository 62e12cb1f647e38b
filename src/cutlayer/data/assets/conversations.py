"""Conversations out of packages, as JSON lines of `messages`: people who chat (`chitchat`) and word
problems that are worked out (`arithmetic`).

The packages and their pins are in the catalogue. Nothing of the first is run; the second is a
generator, which runs in a process apart.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from cutlayer.data.assets import generate
from cutlayer.data.assets.packages import file_sha256, run_tool
from cutlayer.errors import AssetError

Row: TypeAlias = dict[str, Any]
Utterance: TypeAlias = tuple[str, str]  # sender, text

_CHITCHAT_FILE = "chitchat_dataset/dataset.json"
_CHITCHAT_TEST_EVERY = 10

_DRAWN = 2000
_TRAIN_PROBLEMS, _TEST_PROBLEMS = 1000, 200
_ARITHMETIC_SHA256 = {
    "train": "c4a7da4ad2fc2981f6e69866c71e91e08539143d565a8efdde7f581195ad5dd2",
    "test": "b5c9f7f2eef8cd285e16c97d4fdd5b1d87ce468b1f840ee1159a907a0a364017",
}


def convert_chitchat(unpacked: Path, target: Path) -> None:
    """Chats of two people as JSON lines: `messages` and `sender_id`.

    Each conversation is seen from the one who answers first, who is its `assistant` and whose id is
    `sender_id`; the other is the `user`. What one says in a row is one message, a line each. What
    nobody answered is left out: conversations of one person, and the user's last words. Every tenth
    conversation, by id, is a test row.
    """
    content = json.loads((unpacked / _CHITCHAT_FILE).read_text(encoding="utf-8"))
    rows = [
        row
        for _, conversation in sorted(content.items())
        if (row := _seen_from_answerer(_utterances(conversation))) is not None
    ]
    if len(rows) < _CHITCHAT_TEST_EVERY:
        raise AssetError(f"{_CHITCHAT_FILE} holds {len(rows)} conversations of two people")
    test = rows[::_CHITCHAT_TEST_EVERY]
    train = [row for number, row in enumerate(rows) if number % _CHITCHAT_TEST_EVERY]
    _write(target / "train.jsonl", train)
    _write(target / "test.jsonl", test)


def _utterances(conversation: Row) -> Iterator[Utterance]:
    for turn in conversation["messages"]:
        for said in turn:
            if said["text"].strip():
                yield said["sender"], said["text"].strip()


def _seen_from_answerer(utterances: Iterable[Utterance]) -> Row | None:
    """The row, or None where nobody answered."""
    turns: list[tuple[str, list[str]]] = []
    for sender, text in utterances:
        if not turns or turns[-1][0] != sender:
            turns.append((sender, []))
        turns[-1][1].append(text)
    turns = turns[: len(turns) // 2 * 2]  # ends with the answerer: there are two who take turns
    if not turns:
        return None
    messages = [
        {"role": "assistant" if number % 2 else "user", "content": "\n".join(texts)}
        for number, (_, texts) in enumerate(turns)
    ]
    return {"messages": messages, "sender_id": turns[1][0]}


def convert_arithmetic(unpacked: Path, target: Path) -> None:
    """Word problems as JSON lines: `messages` of a question and an answer that is worked out and
    ends in `#### 42`, and `animals`, how many kinds of them a problem has, 1 or 2.

    Questions and results are `reasoning_gym`'s "leg counting", without the sentence that announces
    the task; the steps between are ours. No two problems have the same animals in the same numbers,
    in whichever split. Everybody gets the same file: problem n is drawn with seed n, and the result
    is pinned.
    """
    drawn = unpacked / "drawn.jsonl"
    script = str(generate.__file__)
    run_tool([sys.executable, "-I", script, ".", str(_DRAWN), drawn.name], unpacked)
    lines = drawn.read_text(encoding="utf-8").splitlines()
    write_problems(target, [json.loads(line) for line in lines])
    for split, sha256 in _ARITHMETIC_SHA256.items():
        found = file_sha256(target / f"{split}.jsonl")
        if found != sha256:
            raise AssetError(
                f"the {split} problems are others than cutlayer knows (sha256 {found[:16]}..., "
                f"expected {sha256[:16]}...): this Python ({sys.version.split()[0]}) draws other "
                "numbers from the same seeds; another version may do"
            )


def write_problems(target: Path, drawn: Iterable[Row]) -> None:
    """Deal the distinct problems in the order drawn, the first to the test split. Raises
    `AssetError` where there are too few, or where the steps come to another answer."""
    distinct: dict[frozenset[tuple[str, int]], Row] = {}
    for problem in drawn:
        key = frozenset((name, number) for name, number, _ in problem["animals"])
        distinct.setdefault(key, _worked_out(problem))
    rows = list(distinct.values())
    if len(rows) < _TEST_PROBLEMS + _TRAIN_PROBLEMS:
        raise AssetError(f"the generator gave {len(rows)} distinct problems")
    _write(target / "test.jsonl", rows[:_TEST_PROBLEMS])
    _write(target / "train.jsonl", rows[_TEST_PROBLEMS : _TEST_PROBLEMS + _TRAIN_PROBLEMS])


def _worked_out(problem: Row) -> Row:
    """As in "3 chickens: 3 x 2 = 6", a line each, their sum, and the result after `####`."""
    asked = problem["question"].strip().splitlines()[-1].removeprefix("Now, ")
    named = asked.partition("you have ")[2].rstrip("?").split(", ")
    legs = [number * each for _, number, each in problem["animals"]]
    if str(sum(legs)) != problem["answer"]:
        raise AssetError(f"{asked!r}: the steps come to {sum(legs)}, not {problem['answer']}")
    steps = [
        f"{name}: {number} x {each} = {number * each}"
        for name, (_, number, each) in zip(named, problem["animals"], strict=True)
    ]
    if len(legs) > 1:
        steps.append(f"{' + '.join(map(str, legs))} = {sum(legs)}")
    answer = "\n".join([*steps, f"#### {problem['answer']}"])
    messages = [
        {"role": "user", "content": asked[:1].upper() + asked[1:]},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, "animals": str(len(legs))}


def _write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
