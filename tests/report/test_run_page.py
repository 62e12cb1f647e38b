"""The page: whole, closed in itself, true to the files, the same each time."""

import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from cutlayer.errors import RunError
from cutlayer.report.run_page import write_report
from cutlayer.report.wording import phases_in
from cutlayer.units import format_seconds
from report.fake_run import FakeRun, write_fake_run

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = (
    '<script>alert("x")</script>',
    "$\\frac{1}{2}$ & 'q'",
    "]]></svg><!-- ",
    "nul\x00 escape\x1b[31m \u202e line\nline",
    "鞄と靴",
    "a" * 300,
)


class PageReader(HTMLParser):
    """Checks that tags nest, and gathers elements, numbers and cells."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[str] = []
        self.rows: list[list[tuple[str | None, str]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append((None, ""))
        if tag == "data":
            self.numbers.append(dict(attrs)["value"] or "")
            if "td" in self.open:
                self.rows[-1][-1] = (self.numbers[-1], "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open:
            value, shown = self.rows[-1][-1]
            self.rows[-1][-1] = (value, shown + data)


def read_page(path: Path) -> PageReader:
    reader = PageReader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def drawings(path: Path) -> list[ElementTree.Element]:
    """The page's SVG elements, each parsed as XML."""
    text = path.read_text(encoding="utf-8")
    return [
        ElementTree.fromstring(match)
        for match in re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    ]


def summary_of(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "summary.json").read_text()))


def rounds_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]


def test_the_page_is_well_formed_and_draws_everything(run_directory: Path) -> None:
    path = run_directory / "report.html"
    reader = read_page(path)
    trained = summary_of(run_directory)["rounds"] > 0
    assert len(drawings(path)) == (6 if trained else 3)
    assert "metadata" not in {tag for tag, _ in reader.tags}
    assert path.stat().st_size < 400_000


def test_the_page_needs_nothing_from_outside(run_directory: Path) -> None:
    path = run_directory / "report.html"
    for tag, attributes in read_page(path).tags:
        assert tag not in {"script", "link", "iframe", "object", "img", "base"}
        for name in ("src", "href", "xlink:href", "data", "action"):
            reference = attributes.get(name) or "#"
            assert reference.startswith(("#", "data:image/png;base64,"))
    text = path.read_text(encoding="utf-8")
    # XML namespaces are names, nothing is fetched from there
    urls = set(re.findall(r"https?://[^\"' )]+", text))
    assert urls == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert all(inside.startswith("#") for inside in re.findall(r"url\((.*?)\)", text))
    assert "@import" not in text


def test_ids_are_unique_and_every_reference_has_its_target(run_directory: Path) -> None:
    tags = read_page(run_directory / "report.html").tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {
        value
        for _, attributes in tags
        for value in re.findall(r"#([a-z0-9]+)", str(attributes.get("xlink:href")))
        + re.findall(r"url\(#(.*?)\)", str(attributes.get("clip-path")))
    }
    assert used <= set(ids)


def test_headline_numbers_are_those_of_the_summary(run_directory: Path) -> None:
    numbers = [float(number) for number in read_page(run_directory / "report.html").numbers]
    summary = summary_of(run_directory)
    measure = "perplexity" if "perplexity_final" in summary else "accuracy"
    wanted = [
        summary[f"{measure}_first"],
        summary[f"{measure}_final"],
        summary["uplink_bytes"],
        summary["downlink_bytes"],
        summary["delay_s"],
        summary["device_peak_bytes"],
        summary["unsplit_peak_bytes"],
        *summary["device_memory_bytes"].values(),
    ]
    assert all(number in numbers for number in wanted)


def test_the_table_holds_every_round_to_the_last_digit(run_directory: Path) -> None:
    rows = [row for row in read_page(run_directory / "report.html").rows if row]
    records = rounds_of(run_directory)
    assert len(rows) == len(records)
    shown_phases = phases_in(record.get("delay_by_phase_s", {}) for record in records)
    for row, record in zip(rows, records, strict=True):
        score = record.get("accuracy", record.get("perplexity"))
        wanted = [record["round"], score, record.get("train_loss"), record["eval_loss"]]
        wanted += [record.get(key) for key in ("uplink_bytes", "downlink_bytes", "delay_s")]
        phases = record.get("delay_by_phase_s", {})
        wanted += [phases.get(phase) for phase in shown_phases]
        trained = record if record["round"] else {}
        wanted += [trained.get("virtual_time_s"), trained.get("wall_s")]
        assert [None if exact is None else float(exact) for exact, _ in row] == wanted
        assert all(shown == "-" for exact, shown in row if exact is None)


def test_what_is_shown_rounds_what_is_read(run_directory: Path) -> None:
    rows = [row for row in read_page(run_directory / "report.html").rows if row]
    for row, record in zip(rows[1:], rounds_of(run_directory)[1:], strict=True):
        score = 100 * record["accuracy"] if "accuracy" in record else record["perplexity"]
        sent = [record["uplink_bytes"] / 2**20, record["downlink_bytes"] / 2**20]
        shown = [float(row[column][1]) for column in (1, 4, 5, 6)]
        # one decimal at least: half a unit of it is 0.05; three digits from 100 up
        assert shown == pytest.approx([score, *sent, record["delay_s"]], rel=5e-3, abs=0.05)


def test_hostile_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=3, class_names=HOSTILE))
    summary = summary_of(directory) | {"model": HOSTILE[0], "task": '"><img src=x onerror=y>'}
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "config.yaml").write_text("</pre><script>x</script>\n\tname: é\n", "utf-8")
    path = write_report(directory)
    reader = read_page(path)
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}
    assert "</pre><script>x</script>\n\tname: é\n" in reader.text
    assert HOSTILE[0] in reader.text
    assert HOSTILE[1][:15] in reader.text
    assert "鞄と靴" in reader.text
    assert len(drawings(path)) == 6


def test_the_other_way_to_treat_the_device_part_stands_beside_the_seconds(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=2))
    assert "instead" not in read_page(write_report(directory)).text
    other = {
        "scheme": "sft",
        "delay_s": 2.84,
        "first_delay_s": 10.3,
        "uplink_bytes": 7_800_000,
        "downlink_bytes": 1_300_000,
        "gain": 0.0104,
        "gain_error": 0.026,
        "accuracy_trained": 0.75,
    }
    (directory / "summary.json").write_text(json.dumps(summary_of(directory) | {"beside": other}))
    text = " ".join(read_page(write_report(directory)).text.split())
    assert "With sft instead a round after the first takes 2.84 s, planned" in text
    assert "training the device part brings 1.0 ± 2.6 of 75.0 points, by its profile" in text


def test_a_last_round_without_devices_is_told_in_words(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=2))
    steps = [json.loads(line) for line in (directory / "trace.jsonl").read_text().splitlines()]
    last = max(step["round"] for step in steps)
    for step in steps:
        if step["round"] == last and step["phase"] != "server_compute":
            step["end_s"] = step["start_s"]
    (directory / "trace.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    page = write_report(directory).read_text(encoding="utf-8")
    assert f"Round {last}: no device had anything to do." in page
    assert 'id="gantt' not in page
    delay_s = rounds_of(directory)[-1]["delay_s"]
    assert f"trained alone for {format_seconds(delay_s)}" in page


def test_a_diverged_run_still_has_its_page(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=3))
    rows = rounds_of(directory)
    for row in rows:
        row |= {"eval_loss": math.nan} | ({"train_loss": math.inf} if row["round"] else {})
    (directory / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = read_page(write_report(directory)).text
    assert "nan" in text
    assert "inf" in text


def test_the_same_run_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=3, rounds=2))
    path = write_report(directory)
    assert path == directory / "report.html"
    first = path.read_bytes()
    assert write_report(directory).read_bytes() == first
    (tmp_path / "matplotlibrc").write_text(
        "svg.fonttype: path\nxtick.direction: in\nlines.color: red\n"
    )
    code = (
        "import sys; from pathlib import Path; from cutlayer.report.run_page import write_report;"
        f"write_report(Path({str(directory)!r}));"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    settings = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | settings)
    assert (directory / "report.html").read_bytes() == first


def test_drawing_leaves_the_settings_of_others_alone(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=1))
    before = dict(mpl.rcParams)
    write_report(directory)
    assert dict(mpl.rcParams) == before


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=1))
    (directory / "report.html").mkdir()
    before = sorted(path.name for path in directory.iterdir())
    with pytest.raises(RunError, match=r"cannot write .*report\.html"):
        write_report(directory)
    assert sorted(path.name for path in directory.iterdir()) == before


def test_a_broken_run_keeps_its_old_page(tmp_path: Path) -> None:
    directory = write_fake_run(tmp_path / "run", FakeRun(devices=2, rounds=1))
    (directory / "report.html").write_text("old")
    (directory / "rounds.jsonl").write_text("{")
    with pytest.raises(RunError):
        write_report(directory)
    assert (directory / "report.html").read_text() == "old"


def test_a_large_run_stays_small(tmp_path: Path) -> None:
    fake = FakeRun(
        devices=100,
        rounds=2,
        local_steps=1,
        class_names=tuple(f"a class with the number {number}" for number in range(200)),
    )
    path = write_report(write_fake_run(tmp_path / "run", fake))
    assert path.stat().st_size < 1_000_000
    assert "a class with the number 199" in read_page(path).text
