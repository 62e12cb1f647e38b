"""A trained model's figures: those of its run on the run's own samples, and of its answers."""

import json
from pathlib import Path

import pytest
import tiny

from cutlayer.cli.main import main
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, DataError
from cutlayer.jobs.evaluate import Answers, try_trained
from cutlayer.jobs.facts import open_trained
from cutlayer.jobs.train import start
from cutlayer.jobs.use import load_trained
from cutlayer.report.run_reader import read_run

TEMPLATE = (
    "{% for turn in messages %}{{ turn['content'] }} [EOS] {% endfor %}"
    "{% if add_generation_prompt %}{% endif %}"
)
ANSWER = "great"
KINDS = ("vision", "bert", "llama")


def made(kind: str, folder: Path) -> Config:
    if kind == "vision":
        model, data = tiny.vision_model(folder / "model"), tiny.images(folder / "data")
    elif kind == "bert":
        model, data = tiny.text_model(folder / "model", "bert"), tiny.reviews(folder / "data")
    else:
        model, data = tiny.text_model(folder / "model", "llama"), tiny.corpus(folder / "data")
    return tiny.config(model, data, training={"rounds": 1}, server={"base": "int8"})


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_runs_own_samples_they_are_the_runs_own_figures(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(made(kind, tmp_path), tmp_path / "runs").path
    before, after = read_run(run).rounds
    assert main(["evaluate", str(run), "--base", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for figures, record in ((told["trained"], after), (told["base"], before)):
        assert figures["loss"] == pytest.approx(record.eval_loss, rel=1e-6)
        assert figures[record.score.measure] == pytest.approx(record.score.value, rel=1e-6)
        assert figures["exact_match"] is None
    assert told["trained"] != told["base"]
    # other data of the same kind, and some of them
    name = str(tmp_path / "data")
    assert main(["evaluate", str(run), name, "--samples", "4"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{name}: 4 samples") and second.startswith("round 1: ")


def test_labels_of_other_data_are_the_runs_classes(tmp_path: Path) -> None:
    """However they are numbered there, and though one of them is missing."""
    run = start(made("bert", tmp_path), tmp_path / "runs").path
    model = load_trained(open_trained(run), device="cpu")
    other = tmp_path / "other.csv"
    other.write_text("text,label\ngood film,pos\nthe plot,pos\n")
    only = try_trained(model, str(other))
    other.write_text("text,label\ngood film,pos\nthe plot,pos\na film,neg\n")
    both = try_trained(model, str(other))
    assert (only.samples, both.samples) == (2, 3)
    third = 3 * both.trained.loss - 2 * only.trained.loss
    other.write_text("text,label\na film,neg\n")
    assert try_trained(model, str(other)).trained.loss == pytest.approx(third, rel=1e-5)
    other.write_text("text,label\na film,strange\ngood,pos\n")
    with pytest.raises(DataError, match="1 of 2 classes that the run does not know"):
        try_trained(model, str(other))


def conversations(path: Path, count: int = 24) -> Path:
    """Whatever is said, the answer is one word."""
    path.mkdir()
    words = tiny.WORDS
    for split in ("train", "test"):
        lines = []
        for n in range(count):
            turns = [
                {"role": "user", "content": words[n % 10]},
                {"role": "assistant", "content": ANSWER},
                {"role": "user", "content": words[(n + 1) % 10]},
                {"role": "assistant", "content": ANSWER},
            ]
            lines.append(json.dumps({"messages": turns}))
        (path / f"{split}.jsonl").write_text("\n".join(lines))
    return path


def test_answers_of_conversations_are_compared_with_those_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before training none is right; what is learned by heart is right in every turn. The template
    is the run's own, and goes with the adapter."""
    model = tiny.text_model(tmp_path / "model", "llama")
    data = conversations(tmp_path / "data")
    config = tiny.config(
        model,
        data,
        adapter={"rank": 8, "alpha": 16},
        training={"rounds": 6, "local_steps": 12, "batch_size": 8},
        optimizer={"learning_rate": 0.03},
        devices={"count": 1},
        codec="none",
    )
    values = config.model_dump(exclude_unset=True)
    values["data"]["chat_template"] = TEMPLATE
    run = start(Config.model_validate(values), tmp_path / "runs").path
    assert main(["evaluate", str(run), "--base", "--json", "--round", "best"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["answers"]) == (24, 48)
    assert told["trained"]["exact_match"] > 0.8 > 0.2 > told["base"]["exact_match"]
    assert (run / "adapter" / "chat_template.jinja").read_text() == TEMPLATE
    assert main(["generate", str(run), "bad"]) == 0
    assert capsys.readouterr().out.strip() == ANSWER
    assert main(["evaluate", str(run), "--no-answers", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trained"]["exact_match"] is None
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": word, "completion": f" the {ANSWER}"} for word in tiny.WORDS]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    # nothing is as they have it, but the last word of it is
    assert main(["evaluate", str(run), str(pairs)]) == 0
    out = capsys.readouterr().out
    assert "10 samples" in out and "10 answers" in out and "exact match 0.0%" in out
    assert main(["evaluate", str(run), str(pairs), "--answer", "(\\w+)$"]) == 0
    assert "exact match 0.0%" not in capsys.readouterr().out
    # the merged model gives the same
    assert main(["merge", str(run), str(tmp_path / "merged"), "--round", "best"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "merged"), "--json"]) == 0
    merged = json.loads(capsys.readouterr().out)["trained"]
    assert merged["exact_match"] == told["trained"]["exact_match"]
    assert merged["loss"] == pytest.approx(told["trained"]["loss"], rel=1e-4)
    assert main(["evaluate", str(tmp_path / "merged"), "--base"]) == 2
    assert "no base beside it: evaluate the run" in capsys.readouterr().err


def test_what_is_compared_of_an_answer() -> None:
    assert Answers().key(" a  b\n") == "a b"
    assert Answers("[0-9]+").key("3 and 4 make 7.") == "7"
    assert Answers("= ([0-9]+)").key("3 = 3, so 4 + 3 = 7") == "7"
    assert Answers("[0-9]+").key("none") is None
    with pytest.raises(ConfigError, match="is no regular expression"):
        Answers("(")


def test_mistakes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = start(made("bert", tmp_path), tmp_path / "runs").path
    assert main(["evaluate"]) == 2
    assert main(["evaluate", str(run), "no/such/thing"]) == 2
    assert main(["evaluate", str(run), str(tiny.images(tmp_path / "images"))]) == 2
    assert main(["evaluate", str(run), "--answer", "("]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cutlayer: ")]
    assert "which run?" in told[0] and "no data set" in told[1]
    assert "is for image-classification, what was trained for text-classification" in told[2]
    assert "is no regular expression" in told[3]
