"""`python -m reproduction` as a user types it."""

import io
import math
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import tiny
from rich.console import Console

from reproduction.__main__ import claims_table, main
from reproduction.catalogue import FIGURES, figures
from reproduction.claims import Claim, Verdict


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, packaged: Path, tmp_path: Path) -> None:
    """An empty current directory, and no hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CUTLAYER_CACHE", str(packaged))
    monkeypatch.chdir(tmp_path)


def test_claims_and_files_on_stdout_progress_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fig7", "--quick"]) == 0
    out, err = capsys.readouterr()
    setting, *rest = out.splitlines()
    claims, files = rest[:4], rest[4:]
    assert setting.startswith("fig7: dinov2-small") and "the paper: ViT-B" in setting
    assert all(line.startswith("fig7: ") and "paper " in line for line in claims)
    assert "ours 12.31 times (+2.6 %): exact" in claims[2]
    assert files == [
        f"paper/fig7/{name}" for name in ("fig7.csv", "fig7-claims.csv", "fig7.png", "fig7.svg")
    ]
    assert all(Path(path).stat().st_size for path in files)
    assert "4 of 4" in err and "4 of 4" not in out


def test_other_data_another_model_another_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = tiny.images(tmp_path / "images"), tiny.vision_model(tmp_path / "model")
    words = ["--data", str(data), "--model", str(model), "--cut", "2", "--rounds", "2"]
    assert main(["fig7", "--quick", "--output", "out", *words]) == 0
    assert "model cut after block 2 on images, 4 devices, 2 x 2" in capsys.readouterr().out
    assert sorted(path.suffix for path in Path("out").iterdir()) == [".csv", ".csv", ".png", ".svg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fgi7"], "did you mean fig7?"),
        (["tabel3"], "did you mean table3?"),
        (["al"], "did you mean all?"),
        (["fig8", "--analytic"], "--analytic chooses among the figures of `all`"),
        (["fig8", "--workers", "2"], "--workers spreads the figures of `all`"),
        (["fig8", "--ray", "auto"], "--ray spreads the figures of `all`"),
        (["all", "--workers", "0"], "'0' is not a whole number"),
        (["fig7", "--seeds", "0"], "'0' is not a whole number"),
        (["fig7", "--rounds", "many"], "'many' is not a whole number"),
        (["fig7", "--cut", "99"], "1..7"),
        (["fig7", "--data", "no-such-data"], "no-such-data"),
        (["fig7", "--model", "no-such/model"], "no-such/model"),
        (["fig7", "--data", "123"], "123"),
        (["fig7", "--sed", "1"], "did you mean --seeds?"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words]) == 2
    errors = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("cutlayer: ")
    ]
    assert len(errors) == 1 and message in errors[0]
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_found_before_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("taken").write_text("", encoding="utf-8")
    assert main(["fig7", "--quick", "--output", "taken"]) == 2
    err = capsys.readouterr().err
    assert "cutlayer: taken: File exists" in err and "1 of 4" not in err


def test_help_names_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "fig7" in out and "sparsity" in out and "--quick" in out
    lines = {line.split()[0]: line for line in out.split("names:\n")[1].splitlines()}
    assert list(lines) == [*FIGURES, "all", "list"]
    assert "trains, about 10 minutes" in lines["fig7"] and "seconds" in lines["headline"]
    assert max(len(line) for line in lines.values()) <= 100


def test_all_goes_on_where_some_fail(capsys: pytest.CaptureFixture[str]) -> None:
    trained = sorted(set(figures()) - set(figures(analytic=True)))
    Path("paper").mkdir()
    Path("paper/table1").write_text("", encoding="utf-8")
    assert main(["all", "--quick", "--data", "no-such-data", "--workers", "2"]) == 2
    out, err = capsys.readouterr()
    settings, verdicts = out.split(" claims of the paper: ")
    made = [line.partition(":")[0] for line in settings.splitlines()[:-1]]
    assert made == [name for name in FIGURES if name not in {"table1", *trained}]
    assert "table2: system bandwidth: paper " in verdicts
    lost = [line for line in verdicts.splitlines() if "not made: " in line]
    assert [line.partition(":")[0] for line in lost] == ["table1", "fig4", "fig5", "fig7", "fig14"]
    assert "File exists" in lost[0] and all("no-such-data" in line for line in lost[1:])
    assert all(line in err for line in lost)
    assert all(line.partition(":")[0] in FIGURES for line in err.splitlines())
    rows = Path("paper/verdicts.csv").read_text(encoding="utf-8").splitlines()
    assert {row.partition(",")[0] for row in rows} == {"figure", *made}


def test_one_figure_without_any_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("table2: ") and "paper/table2/table2-claims.csv" in out


@pytest.mark.parametrize("words", [[], ["list"]])
def test_the_names_without_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    first, *names = capsys.readouterr().out.splitlines()
    assert first == "names:" and [name.split()[0] for name in names] == [*FIGURES, "all", "list"]


CLAIM = Claim("minutes of [SFT]", "81.4", Decimal("81.4"), 82.85, "min", Verdict.WITHIN, "Because.")


def test_a_row_has_both_numbers_and_the_verdict_and_no_reason() -> None:
    text = io.StringIO()
    unknown = replace(CLAIM, ours=math.nan)
    Console(file=text, width=100).print(claims_table([("fig8", CLAIM), ("fig9", unknown)]))
    _, _, row, other = text.getvalue().splitlines()
    assert row.split() == [
        *("fig8", "minutes", "of", "[SFT]", "81.4"),
        *("82.85", "min", "+1.8", "%", "within", "5", "%"),
    ]
    assert other.split()[-5:] == ["not", "computed", "within", "5", "%"]
    assert "Because" not in text.getvalue()
