"""The forms that hold text: CSV, JSON lines, plain text."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.check import check_data
from cutlayer.data.load import load_data
from cutlayer.data.records import lines_of, write_json_lines
from cutlayer.errors import DataError
from cutlayer.spec import Task
from data.sets import json_lines


def test_csv_with_both_splits(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('text,label\n"good, very",pos\n"two\nlines",neg\nok,pos\n')
    (tmp_path / "test.csv").write_text("label,text\nneg,bad\n")
    data = load_data(str(tmp_path))
    assert data.task == "text-classification"
    assert data.class_names == ("neg", "pos")
    assert [data.train.read(index) for index in range(3)] == ["good, very", "two\nlines", "ok"]
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.train.where(2) == f"{tmp_path}/train.csv line 5"
    assert (data.test.read(0), data.test.labels.tolist()) == ("bad", [0])


def test_columns_have_the_names_that_were_given(tmp_path: Path) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text("\ufeffstars,review\n" + "".join(f"{n % 5 + 1},words {n}\n" for n in range(20)))
    data = load_data(str(file), text_field="review", label_field="stars", test_fraction=0.25)
    assert data.class_names == ("1", "2", "3", "4", "5")
    assert (len(data.train), len(data.test)) == (15, 5)


def test_json_lines_in_one_file(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"t{n}", "label": n % 2} for n in range(10)]
    json_lines(tmp_path / "rows.jsonl", rows)
    data = load_data(str(tmp_path / "rows.jsonl"), test_fraction=0.5)
    assert data.class_names == ("0", "1")
    assert len(data.train) == len(data.test) == 5


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_missing_column_names_those_there(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        file.write_text("words,kind\na,b\n")
    else:
        json_lines(file, [{"words": "a", "kind": "b"}])
    with pytest.raises(DataError, match=r"no column 'text'.* it has: words, kind.*text_field"):
        load_data(str(file))
    with pytest.raises(DataError, match=r"no column 'label'.*label_field.*causal-lm"):
        load_data(str(file), text_field="words")


def test_language_modelling_needs_no_label(tmp_path: Path) -> None:
    json_lines(tmp_path / "rows.jsonl", [{"text": f"t{n}"} for n in range(10)])
    data = load_data(str(tmp_path / "rows.jsonl"), task="causal-lm")
    assert data.task == "causal-lm"
    assert data.class_names == ("text",)
    assert check_data(data)[1] == ()


def test_broken_rows_are_bad_samples_with_their_line(tmp_path: Path) -> None:
    lines = ['{"text": "a", "label": 0}', "{no json", '{"text": 5, "label": 1}', '["list"]']
    lines += ["", '{"text": "b", "label": 1}', '{"text": "c", "label": null}']
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    json_lines(tmp_path / "test.jsonl", [{"text": "d", "label": 7}, {"text": "e", "label": 0}])
    _, bad = check_data(load_data(str(tmp_path)), "skip")
    places = [sample.where.removeprefix(f"{tmp_path}/") for sample in bad]
    assert places == [
        "train.jsonl line 2",
        "train.jsonl line 3",
        "train.jsonl line 4",
        "train.jsonl line 7",
        "test.jsonl line 1 (label '7')",
    ]


def test_a_short_csv_row_is_a_bad_sample(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("label,text\na,x\nb,y\na\n")
    (tmp_path / "test.csv").write_text("label,text\na,x\n")
    _, bad = check_data(load_data(str(tmp_path)), "skip")
    assert [sample.where for sample in bad] == [f"{tmp_path}/train.csv line 4"]


@pytest.mark.parametrize(("name", "content"), [("a.csv", b""), ("a.csv", b"text,label\n")])
def test_an_empty_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="holds no rows"):
        load_data(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"text,label\nfine,x\ncaf\xe9,y\nfine,y\n"),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\n\n{"text": "\xe9"}\n{"text": "b", "label": 0}',
        ),
        ("a.txt", b"fine\n\ncaf\xe9\n"),
    ],
)
def test_a_line_that_is_not_utf8_is_a_bad_sample(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    task: Task | None = "causal-lm" if name == "a.txt" else None
    data = load_data(str(tmp_path / name), task=task, test_fraction=0.4)
    with pytest.raises(DataError, match=rf"1 of \d .*{name} line 3: byte 0xe9 is not UTF-8 \(Lat"):
        check_data(data)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_a_file_in_another_unicode_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_text("text,label\none,1\ntwo,2\n", encoding=encoding)
    with pytest.raises(DataError, match=rf"{name} cannot be read as UTF-8: it is.* UTF-"):
        check_data(load_data(str(tmp_path / name)))


def test_rows_written_are_rows_read(tmp_path: Path) -> None:
    rows = [("line\nbreak", "a"), ('quotes " and é', "b")]
    for split in ("train", "test"):
        write_json_lines(tmp_path / f"{split}.jsonl", rows)
    data = load_data(str(tmp_path))
    assert [data.train.read(index) for index in range(2)] == [text for text, _ in rows]


def test_a_text_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n\nfirst\npart\n\n \nsecond\n\nthird")
    data = load_data(str(tmp_path / "book.txt"), test_fraction=0.34)
    assert data.task == "causal-lm"
    found = {
        str(part.read(index)): part.where(index)
        for part in (data.train, data.test)
        for index in range(len(part))
    }
    assert found == {
        "first\npart": f"{tmp_path}/book.txt line 3",
        "second": f"{tmp_path}/book.txt line 7",
        "third": f"{tmp_path}/book.txt line 9",
    }


def test_a_folder_of_text_files_holds_a_document_each(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(f"document {number}\n\nstill {number}")
    data = load_data(str(tmp_path))
    assert (len(data.train), len(data.test)) == (4, 1)


@pytest.mark.parametrize("folders", [False, True])
def test_text_with_both_splits(tmp_path: Path, folders: bool) -> None:
    for split in ("train", "val"):
        path = tmp_path / split / "a.txt" if folders else tmp_path / f"{split}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"of {split}")
    data = load_data(str(tmp_path))
    assert (data.train.read(0), data.test.read(0)) == ("of train", "of val")


def test_a_blank_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n\n")
    with pytest.raises(DataError, match="holds no text"):
        load_data(str(tmp_path / "blank.txt"))


def test_what_lies_beside_documents_is_counted(tmp_path: Path) -> None:
    for name in ("a.txt", "b.TXT", "._a.txt", ".b.txt", "notes.md"):
        (tmp_path / name).write_bytes(b"\0\5rubbish" if name == "._a.txt" else b"a text")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.txt").write_text("too deep")
    data = load_data(str(tmp_path), test_fraction=0.5)
    places = {part.where(index) for part in (data.train, data.test) for index in range(len(part))}
    assert places == {f"{tmp_path}/a.txt", f"{tmp_path}/b.TXT"}
    assert {(item.why, item.count) for item in data.left_out} == {
        ("hidden", 2),
        ("notes.md", 1),
        ("in below/", 1),
    }


def test_a_document_that_cannot_be_read_costs_itself_alone(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        for place in range(3):
            (tmp_path / name / f"{place}.txt").write_text("a text\r\nof two lines", newline="")
    (tmp_path / "train" / "1.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "train" / "2.txt").write_text("in UTF-16", encoding="utf-16")
    data, bad = check_data(load_data(str(tmp_path)), "skip")
    assert [sample.where for sample in bad] == [f"{tmp_path}/train/{n}.txt" for n in (1, 2)]
    assert "byte 0xe9 is not UTF-8" in bad[0].why
    assert "it is UTF-16. Save it as UTF-8" in bad[1].why
    assert [data.train.read(0), len(data.test)] == ["a text\nof two lines", 3]


@given(st.text(alphabet="ab\r\n\u2028\x0c", max_size=20))
def test_lines_are_those_of_a_text_file(text: str) -> None:
    assert list(lines_of(text)) == list(io.StringIO(text, newline=""))
