"""Conversations out of packages, as JSON lines of `messages`: people who chat (`chitchat`) and word
problems that are worked out (`arithmetic`).

The packages and their pins are in the catalogue. Nothing of the first is run; the second is a
generator, which runs in a process apart.
"""

import json
import re
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

# Kinds of GSM-symbolic whose worked answers are short and whole numbers throughout: a model of 135
# million learns them in minutes.
PROBLEM_KINDS = (6, 10, 16, 43, 58, 72)
_DRAWS = 1000
_TRAIN_PER_KIND, _TEST_PER_KIND = 96, 32
_ARITHMETIC_SHA256 = {
    "train": "b1a27b159572ae29fb2646954ea65af99be71fb956e791fbaf51a6d0711f6f5b",
    "test": "67670d7aecfb6daab20feb2ed3e681ebf01cca8865179e5ca3815570c5e8ae4b",
}
_NUMBER = re.compile(r"\d+")


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
    ends in `#### 42`, and `kind`, the number of GSM-symbolic's template that it was made from.

    The numbers of a problem occur once for each kind, so that no test problem is a training problem
    with other names. Everybody gets the same file: problem n is drawn with seed n, and the result
    is pinned.
    """
    drawn = unpacked / "drawn.jsonl"
    kinds = ",".join(map(str, PROBLEM_KINDS))
    script = [sys.executable, "-I", str(generate.__file__), ".", kinds, str(_DRAWS), drawn.name]
    run_tool(script, unpacked)
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
    """Deal the problems of each kind, in the order drawn: the first to the test split, the next to
    training. Kinds take turns in both. Raises `AssetError` where a kind has too few."""
    distinct: dict[int, dict[tuple[str, ...], Row]] = {kind: {} for kind in PROBLEM_KINDS}
    for problem in drawn:
        numbers = tuple(_NUMBER.findall(problem["question"]))
        distinct[problem["kind"]].setdefault(numbers, _asked(problem))
    for kind, rows in distinct.items():
        if len(rows) < _TEST_PER_KIND + _TRAIN_PER_KIND:
            raise AssetError(f"the generator gave {len(rows)} distinct problems of kind {kind}")
    turns = list(zip(*(rows.values() for rows in distinct.values()), strict=False))
    in_turn = [row for turn in turns[: _TEST_PER_KIND + _TRAIN_PER_KIND] for row in turn]
    tests = _TEST_PER_KIND * len(PROBLEM_KINDS)
    _write(target / "test.jsonl", in_turn[:tests])
    _write(target / "train.jsonl", in_turn[tests:])


def _asked(problem: Row) -> Row:
    messages = [
        {"role": "user", "content": problem["question"].strip()},
        {"role": "assistant", "content": problem["worked"].strip()},
    ]
    return {"messages": messages, "kind": str(problem["kind"])}


def _write(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
