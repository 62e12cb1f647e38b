"""Results as files for others: rows that are tidy, LaTeX that a compiler takes, PDF with fonts in
it."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cutlayer.report.comparison import compare
from cutlayer.report.drawing import new_figure, paper_style
from cutlayer.report.export import (
    FORMATS,
    latex_table,
    latex_text,
    write_csv,
    write_latex,
    write_parquet,
    write_pdf,
)
from cutlayer.report.sweep import Cell, Sweep, TextTable, differing, settings_label
from report.compared import compared

SPECIAL = re.compile(r"(?<!\\)[%$#_&~^]")


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_a_row_a_run_and_a_row_a_round(sweep: Sweep, tmp_path: Path) -> None:
    runs, rounds = map(_rows, write_csv(sweep, tmp_path))
    assert len(runs) == 10 and (runs[0]["cell"], runs[0]["seed"]) == ("few", "0")
    curves = {(row["cell"], row["seed"]) for row in rounds}
    assert curves == {(cell, seed) for cell in ("few", "many", "dear") for seed in "012"}
    last = [row for row in rounds if (row["cell"], row["seed"]) == ("many", "1")][-1]
    (run,) = [row for row in runs if (row["cell"], row["seed"]) == ("many", "1")]
    assert last["accuracy"] == run["accuracy_final"]
    assert float(last["time_s"]) == pytest.approx(float(run["delay_s"]))
    assert int(last["uplink_bytes"]) == int(run["uplink_bytes"])
    assert int(last["sent_bytes"]) == int(last["uplink_bytes"]) + int(last["downlink_bytes"])
    assert last["codec.target_bits_up"] == "many"


def test_parquet_has_numbers_where_all_settings_are(sweep: Sweep, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    bits = {"few": "0.3", "many": "0.7", "dear": "1"}
    cells = tuple(
        Cell(cell.label, {"codec.target_bits_up": bits[cell.label], "scheme": "sft"}, cell.runs)
        for cell in sweep.cells
        if cell.runs
    )
    runs, rounds = write_parquet(Sweep(cells, sweep.comparison, cells[0]), tmp_path)
    schema = parquet.read_schema(runs)
    assert [str(schema.field(name).type) for name in ("codec.target_bits_up", "scheme")] == [
        "double",
        "string",
    ]
    assert parquet.read_table(rounds).column("seed").to_pylist()[0] == 0


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("81.2 ± 0.9", r"$81.2 \pm 0.9$"),
        ("+10.3 ± 0.5", r"$+10.3 \pm 0.5$"),
        ("-3", "$-3$"),
        ("-", "--"),
        ("50 % & more_less", r"50 \% \& more\_less"),
        (r"a\b{c}~^#$", r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\#\$"),
        ("[4, 8]", "{}[4, 8]"),
        ("two\nlines", "two lines"),
        ("2 of 3 reached", "2 of 3 reached"),
    ],
)
def test_what_latex_would_take_for_commands_is_escaped(text: str, latex: str) -> None:
    assert latex_text(text) == latex


def test_a_table_has_the_rules_of_booktabs_and_a_column_a_setting(
    sweep: Sweep, tmp_path: Path
) -> None:
    results, differences = write_latex(sweep, tmp_path)
    text = results.read_text(encoding="utf-8")
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    columns = re.search(r"\\begin\{tabular\}\{(l+)(r+)\}", text)
    assert columns is not None and columns[1] == "l"
    assert {line.count(" & ") for line in body} == {len(columns[1] + columns[2]) - 1}
    assert body[0].startswith("few & $3$ & $71.0 ")
    assert r"codec \\ target\_bits\_up" in text
    assert "does not fit" in body[-1]
    assert differences.read_text(encoding="utf-8").count(" & yes ") == 2


def test_hard_names_compile(tmp_path: Path) -> None:
    """By TeX where there is one; everywhere, nothing special is left bare."""
    hard = r"50% a_b {c} \d $e$ #f ^g ~h <i> |j| "
    table = TextTable(
        ("a_b %", "seeds", "x & y [%]"), ((hard, "3", "1.0 ± 0.1"), ("[1]", "-", "*"))
    )
    text = latex_table(table)
    bare = SPECIAL.sub("", re.sub(r" & |\$[-+0-9. ]*(\\pm [0-9. ]*)?\$", "", text))
    assert bare == re.sub(r" & |\$[-+0-9. ]*(\\pm [0-9. ]*)?\$", "", text)
    if (tex := shutil.which("pdflatex")) is None:
        return
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}%s\end{document}"
    (tmp_path / "t.tex").write_text(document.replace("%s", text), encoding="utf-8")
    words = [tex, "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-1000:]


def test_figures_have_one_legend_and_truetype_fonts(sweep: Sweep, tmp_path: Path) -> None:
    curves, fronts = write_pdf(sweep, tmp_path)
    for path in (curves, fronts):
        data = path.read_bytes()
        assert data.startswith(b"%PDF-") and b"/FontFile2" in data and b"/Type3" not in data
        assert re.findall(rb"/MediaBox \[ 0 0 (\d+)", data) == [b"516"]
    (again, _) = write_pdf(sweep, tmp_path / "..")
    assert again.read_bytes() == curves.read_bytes()


def test_paper_is_smaller_in_all_its_measures() -> None:
    with paper_style():
        width, height = new_figure(300).get_size_inches() * 72
    assert (width, height) == (pytest.approx(516), pytest.approx(300 * 8 / 11.5))


def test_one_setting_alone_has_no_front_and_no_differences(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = compared(tmp_path_factory.mktemp("one"), "alone")
    cell = Cell("alone", {}, {0: run})
    sweep = Sweep((cell,), compare([run]), cell)
    written = [path.name for write in FORMATS.values() for path in write(sweep, tmp_path)]
    assert written == [
        *("runs.csv", "rounds.csv", "runs.parquet", "rounds.parquet"),
        *("results.tex", "curves.pdf"),
    ]


def test_settings_that_differ_name_what_they_are_of() -> None:
    settings = [
        {"scheme.name": "sft", "codec.name": "none", "rank": "4", "seed": "0"},
        {"scheme.name": "sft", "codec.name": "best", "codec.bits": "0.3", "rank": "4", "seed": "1"},
        {"scheme.name": "fl-lora", "rank": "4", "codec.bits": "0.7"},
    ]
    keys = differing(settings)
    assert keys == ["scheme.name", "codec.name", "codec.bits"]
    assert (
        settings_label({key: settings[1][key] for key in keys}) == "sft, codec best, codec.bits 0.3"
    )
    assert differing([{"codec": "null"}, {"codec.name": "none"}]) == ["codec"]
