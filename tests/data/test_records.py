"""Tables with faults: every row is used, or named with its line and the reason."""

import json
import random
from pathlib import Path

import pytest

from cutlayer.data.check import BadSample, check_data
from cutlayer.data.load import load_data
from cutlayer.data.samples import DataSet
from cutlayer.errors import DataError
from cutlayer.spec import LeftOut
from data.sets import json_lines

ROWS = 40
_WORDS = random.Random(1)
LINES = [
    f"{' '.join(_WORDS.choices(['apple', 'pear', 'river', 'cloud'], k=4))},{n % 2}"
    for n in range(ROWS)
]
TURNED = [",".join(reversed(line.split(","))) for line in LINES]
OBJECTS: list[dict[str, object]] = [{"text": f"text {n}", "label": n % 2} for n in range(ROWS)]


def read_csv(
    folder: Path, lines: list[str], header: str = "text,label", end: str = "\n"
) -> tuple[DataSet, tuple[BadSample, ...]]:
    path = folder / "d.csv"
    path.write_text(end.join([header, *lines]) + end, encoding="utf-8", newline="")
    return check_data(load_data(str(path)), "skip")


def read_jsonl(folder: Path, *lines: str) -> tuple[DataSet, tuple[BadSample, ...]]:
    path = folder / "d.jsonl"
    json_lines(path, OBJECTS)
    with path.open("a") as file:
        file.write("\n".join(lines) + "\n")
    return check_data(load_data(str(path)), "skip")


def faults(bad: tuple[BadSample, ...]) -> list[tuple[int, str]]:
    """Line and reason of each, in the order of the lines."""
    return sorted(
        (int(sample.where.split(" line ")[1].split()[0]), sample.why.split(": ", 1)[-1])
        for sample in bad
    )


def count(data: DataSet) -> int:
    return len(data.train) + len(data.test)


def marked(lines: list[str], opening: dict[int, str]) -> list[str]:
    """Lines with another text in front of the first comma or behind it."""
    return [opening.get(place, "{}").format(line) for place, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("opened", "named"),
    [
        ([6], [8]),  # never closed
        ([6, 30], [8, 32]),  # closed where the next one opens
        ([3, 9, 15, 22], [5, 11, 17, 24]),
        ([0], [2]),
        ([ROWS - 1], [ROWS + 1]),
    ],
)
def test_a_stray_quote_costs_its_own_row_alone(
    tmp_path: Path, opened: list[int], named: list[int]
) -> None:
    data, bad = read_csv(tmp_path, marked(LINES, dict.fromkeys(opened, '"{}')))
    assert [line for line, _ in faults(bad)] == named
    assert count(data) == ROWS - len(named)
    assert data.class_names == ("0", "1")


@pytest.mark.parametrize("closed", [7, 8, 30])
@pytest.mark.parametrize("label_first", [False, True])
def test_quotes_that_pair_over_rows_are_noticed(
    tmp_path: Path, closed: int, label_first: bool
) -> None:
    """A strict reader takes such a record for a text of several lines."""
    lines = list(TURNED if label_first else LINES)
    for place, mark in ((6, "first"), (closed, "last")):
        label, text = lines[place].split(",") if label_first else lines[place].split(",")[::-1]
        text = f'"{text}' if mark == "first" else f'{text}"'
        lines[place] = f"{label},{text}" if label_first else f"{text},{label}"
    header = "label,text" if label_first else "text,label"
    data, bad = read_csv(tmp_path, lines, header)
    (opens, why), (closes, _) = faults(bad)
    assert (opens, closes) == (8, closed + 2)
    assert f"closes in line {closed + 2}, over lines that look like rows" in why
    assert count(data) == ROWS - 2


def test_rows_swallowed_without_labels_are_noticed_by_their_form(tmp_path: Path) -> None:
    lines = [f"{place},text {place}" for place in range(20)]
    lines[4] = '4,"text 4'
    lines[12] = '12,text 12"'
    path = tmp_path / "d.csv"
    path.write_text("\n".join(["id,text", *lines]))
    data, bad = check_data(load_data(str(path), task="causal-lm"), "skip")
    assert [line for line, _ in faults(bad)] == [6, 14]
    assert count(data) == 18


@pytest.mark.parametrize(
    "text",
    [
        "Dear John,\nhow are you, my friend?\nYours, Jane\n\nPS: 3, 1",
        'say ""hi"", ok\nsecond, line',
        "eggs, 2\nflour, 1\nmilk, 0\nsalt, 1\nsugar, 2",
        "one\r\ntwo\r\nthree",
        "a,b,c\nd,e,f\n",
    ],
)
def test_a_text_over_several_lines_is_one_text(tmp_path: Path, text: str) -> None:
    data, bad = read_csv(tmp_path, [f'"{text}",1', *LINES])
    assert bad == ()
    assert count(data) == ROWS + 1


def test_lines_of_a_broken_text_make_no_class_of_their_own(tmp_path: Path) -> None:
    """A quote in the middle of a text of several lines: its lines are not taken for rows."""
    broken = ['"Dear "John,', "well, then", "bye, now", 'Jane",1']
    data, bad = read_csv(tmp_path, [*LINES[:5], *broken, *LINES[5:]])
    assert data.class_names == ("0", "1")
    assert count(data) == ROWS
    assert [line for line, _ in faults(bad)] == [7, 8, 9, 10]


def test_ragged_rows_are_named_with_what_they_have(tmp_path: Path) -> None:
    lines = [*LINES[:5], "a, b,1", "alone", "x,", "a\0b,1", '"good" movie,1', *LINES[5:]]
    data, bad = read_csv(tmp_path, lines)
    assert count(data) == ROWS
    assert [(line, why.split(":")[0]) for line, why in faults(bad)] == [
        (7, "it has 3 fields, the header has 2"),
        (8, "it has 1 fields, the header has 2"),
        (9, "it has no label"),
        (10, "it holds a NUL character"),
        (11, "its quotation marks do not pair"),
    ]


def test_blank_lines_quotes_inside_and_spare_columns_do_no_harm(tmp_path: Path) -> None:
    lines = [f"{line},," for line in LINES] + ["", "   ", '5" pipe,1,,', 'say "hi",0,,']
    data, bad = read_csv(tmp_path, lines, " text , label,,")
    assert bad == ()
    assert count(data) == ROWS + 2


@pytest.mark.parametrize("stray", ['red"', 'red""', 're"d'])
def test_a_stray_mark_makes_no_class(tmp_path: Path, stray: str) -> None:
    labels = [
        stray if place in (6, 30) else ("red", '"32"" wide"')[place % 2] for place in range(40)
    ]
    data, bad = read_csv(tmp_path, [f"text {place},{label}" for place, label in enumerate(labels)])
    assert [line for line, _ in faults(bad)] == [8, 32]
    assert data.class_names == ('32" wide', "red")
    assert "a quotation mark stands alone in its label" in faults(bad)[0][1]


def test_a_text_is_not_its_own_class(tmp_path: Path) -> None:
    read_csv(tmp_path, LINES)
    with pytest.raises(DataError, match="text_field and label_field are both 'text'"):
        load_data(str(tmp_path / "d.csv"), label_field="text")


def test_joined_files_have_no_class_of_their_headers(tmp_path: Path) -> None:
    lines = [*LINES[:20], "text,label", *LINES[20:], "\ufefftext, label"]
    data, bad = read_csv(tmp_path, lines, "\ufeff\ufefftext,label")
    assert faults(bad) == [(line, "it is the header once more") for line in (22, 43)]
    assert data.class_names == ("0", "1")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_any_system_ends_them(tmp_path: Path, end: str) -> None:
    data, bad = read_csv(tmp_path, [*LINES, "alone"], end=end)
    assert [line for line, _ in faults(bad)] == [ROWS + 2]
    assert count(data) == ROWS


def test_a_text_of_any_length_is_read(tmp_path: Path) -> None:
    data, bad = read_csv(tmp_path, [*LINES, f"{'good ' * 40_000},1"])
    assert bad == ()
    texts = [data.train.read(index) for index in range(len(data.train))]
    texts += [data.test.read(index) for index in range(len(data.test))]
    assert max(len(str(text)) for text in texts) == 200_000


@pytest.mark.parametrize("header", ["text,label,label", "text,label, label ", "text,text,label"])
def test_a_column_given_twice_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match=r"d\.csv has the column '(label|text)' 2 times"):
        read_csv(tmp_path, [f"{line},k" for line in LINES], header)


@pytest.mark.parametrize(("mark", "title"), [(";", "Semicolons"), ("\t", "Tabs"), ("|", "Bars")])
def test_another_separator_is_told(tmp_path: Path, mark: str, title: str) -> None:
    lines = [line.replace(",", mark) for line in LINES]
    with pytest.raises(DataError, match=f"{title} separate its columns: save it with commas"):
        read_csv(tmp_path, lines, f"text{mark}label")


def test_whole_numbers_and_blanks_make_no_further_class(tmp_path: Path) -> None:
    lines = [line + (".0", " ", "", "\u00a0")[n % 4] for n, line in enumerate(LINES)]
    data, bad = read_csv(tmp_path, [*lines, "x,nan", "y,NaN"])
    assert data.class_names == ("0", "1")
    assert faults(bad) == [
        (ROWS + 2, "it has no label ('nan' stands for none)"),
        (ROWS + 3, "it has no label ('NaN' stands for none)"),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[" * 200_000, "it is no JSON that can be read (maximum recursion"),
        ('{"a":' * 100_000, "it is no JSON that can be read (maximum recursion"),
        ('{"text": "x", "label": ' + "1" * 5000 + "}", "it is no JSON that can be read (Exceeds"),
        ('{"text": "x", "label": 1, "label": 0}', "the key 'label' stands in it twice"),
        ('{"text": "half \\ud83d", "label": 1}', "its text holds half a character"),
        ('{"text": "x", "label": "\\ud83d"}', "its label '\\ud83d' holds half a character"),
        ("[1]", "it is a list, not an object"),
        ("null", "it is null, not an object"),
        ('"text"', "it is a text, not an object"),
        ("{}", "it has no text"),
        ('{"text": "x"}', "it has no label"),
        ('{"text": "x", "label": NaN}', "it has no label (nan stands for none)"),
        ('{"text": "x", "label": 1e999}', "its label is inf, not a finite number"),
        ('{"text": "x", "label": ["red", "x"]}', "its label is a list"),
        ('{"text": "x", "label": {"a": 1}}', "its label is an object"),
        ('{"text": ["x"], "label": 1}', "its 'text' is a list, not a text"),
        ('{"text": NaN, "label": 1}', "it has no text"),
        ('{"text": "\\u200b \\n", "label": 1}', "its text is empty"),
        ('{"text": "x", "label": 1', "it is no JSON that can be read (Expecting"),
        ('{"text": "a\0b", "label": 1}', "it is no JSON that can be read (Invalid control"),
    ],
)
def test_a_broken_line_of_json_costs_itself_alone(tmp_path: Path, line: str, why: str) -> None:
    data, bad = read_jsonl(tmp_path, line)
    (sample,) = bad
    assert f"line {ROWS + 1}" in sample.where
    assert why in sample.why
    assert count(data) == ROWS
    assert data.class_names == ("0", "1")


def test_a_first_record_without_a_label_stands_for_itself(tmp_path: Path) -> None:
    json_lines(tmp_path / "d.jsonl", [{"text": "alone"}, {"label": 1}, *OBJECTS])
    data, bad = check_data(load_data(str(tmp_path / "d.jsonl")), "skip")
    assert faults(bad) == [(1, "it has no label"), (2, "it has no text")]
    assert count(data) == ROWS


def test_true_beside_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'label': some labels are true or false \(line 41\)"):
        read_jsonl(tmp_path, '{"text": "x", "label": true}')


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_records_is_read(tmp_path: Path, name: str, indent: int | None) -> None:
    records = [*OBJECTS, {"text": 5, "label": 1}]
    (tmp_path / name).write_text(json.dumps(records, indent=indent))
    data, bad = check_data(load_data(str(tmp_path / name)), "skip")
    assert count(data) == ROWS
    assert [sample.where for sample in bad] == [f"{tmp_path}/{name} record {ROWS + 1}"]


def test_a_json_file_may_hold_lines_or_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        json_lines(tmp_path / f"{split}.json", OBJECTS)
    data = load_data(str(tmp_path))
    assert len(data.train) == len(data.test) == ROWS


def test_one_object_is_not_taken_for_records(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"data": OBJECTS}, indent=1))
    with pytest.raises(DataError, match=r"d\.json is one object \(data\), not an array"):
        load_data(str(tmp_path / "d.json"))


def test_a_column_of_lists_is_refused_at_once(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"messages": [{"role": "user"}], "label": 1}] * 9
    json_lines(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError, match="column 'messages' holds no text, but a list in every"):
        load_data(str(tmp_path / "d.jsonl"), text_field="messages")


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("output", "question"),
        ("completion", "instruction"),
        ("prompt", "answer"),
        ("Response", "messages"),
        ("answer", "question"),
    ],
)
def test_half_an_example_is_no_text_for_a_language_model(
    tmp_path: Path, field: str, other: str
) -> None:
    json_lines(tmp_path / "d.jsonl", [{field: "a", other: "b", "label": n % 2} for n in range(9)])
    with pytest.raises(DataError, match=f"{field!r} is one half .* the other is in {other}"):
        load_data(str(tmp_path / "d.jsonl"), task="causal-lm", text_field=field)
    data = load_data(str(tmp_path / "d.jsonl"), text_field=field)
    assert data.task == "text-classification"


def test_a_language_model_needs_no_labels_and_refuses_none(tmp_path: Path) -> None:
    labels: list[object] = [None, [1], "a", "b", float("nan"), {}]
    train: list[dict[str, object]] = [{"text": "x", "label": label} for label in labels]
    json_lines(tmp_path / "train.jsonl", train)
    json_lines(tmp_path / "test.jsonl", [{"text": "x", "label": "of its own"}])
    data, bad = check_data(load_data(str(tmp_path), task="causal-lm"))
    assert bad == ()
    assert data.class_names == ("a", "b", "of its own", "(none)")
    assert data.train.labels.tolist() == [3, 3, 0, 1, 3, 3]


def test_what_lies_beside_the_tables_is_counted(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv", "val.csv"):
        (tmp_path / name).write_text("text,label\na,1\nb,0\n")
    json_lines(tmp_path / "train.jsonl", OBJECTS)
    (tmp_path / ".cache").write_text("")
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "a.csv").write_text("")
    found = load_data(str(tmp_path)).left_out
    assert {(item.what, item.why, item.count) for item in found} == {
        ("files", "val.csv", 1),
        ("files", "train.jsonl", 1),
        ("files", "hidden", 1),
        ("files", "in extra/", 1),
    }


def test_the_test_table_may_be_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "train.CSV").write_text("text,label\na,1\nb,0\n")
    json_lines(tmp_path / "test.jsonl", OBJECTS)
    json_lines(tmp_path / "val.json", OBJECTS)
    data = load_data(str(tmp_path))
    assert (len(data.train), len(data.test)) == (2, ROWS)
    assert data.left_out == (LeftOut("files", "val.json", 1),)
    (tmp_path / "test.csv").write_text("text,label\na,1\n")
    assert len(load_data(str(tmp_path)).test) == 1


def test_missing_classes_are_explained_by_rows_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 1 class: .*; 1 samples cannot be used, .* line 3: "):
        read_csv(tmp_path, ["a,1", "b", "c,1", "d,1"])
