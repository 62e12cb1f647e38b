"""`cutlayer generate` and `chat`: what was trained answers, once or in turns."""

import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    TextStreamer,
)

from cutlayer.cli.main import main
from cutlayer.cli.use import talk_on
from cutlayer.errors import DataError, ModelError
from cutlayer.jobs.facts import open_trained
from cutlayer.jobs.train import start
from cutlayer.jobs.use import (
    Reading,
    Sampling,
    Talk,
    UsableModel,
    generated,
    load_trained,
    prompt_ids,
    turn_ids,
)
from cutlayer.model.peft_format import load_adapter

TEMPLATE = (
    "{% for turn in messages %}{{ turn['content'] }} [EOS] {% endfor %}"
    "{% if add_generation_prompt %}the {% endif %}"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model whose tokenizer has a chat template, trained for two rounds."""
    folder = tmp_path_factory.mktemp("use")
    model = tiny.text_model(folder / "model", "llama")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 64}))
    config = tiny.config(model, tiny.corpus(folder / "data"), adapter={"alpha": 64})
    return start(config, folder / "runs").path


@pytest.fixture(scope="module")
def model(run: Path) -> UsableModel:
    return load_trained(open_trained(run), device="cpu")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return capsys.readouterr().out


def theirs(run: Path, text: str, new: int) -> str:
    """What transformers writes, with the adapter merged."""
    settings = json.loads((run / "adapter" / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(
        settings["base_model_name_or_path"], dtype=torch.float32
    )
    load_adapter(base, run / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(run / "adapter")
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    out = base.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False
    )
    answer: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return answer


def test_a_prompt_goes_through_the_chat_template(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what comes is what transformers writes with the trained weights, greedily."""
    answer = said(capsys, "generate", str(run), "good film", "--max-new-tokens", "9")
    assert answer.strip() == theirs(run, "good film [EOS] the", 9) != ""
    raw = said(capsys, "generate", str(run), "good film", "--max-new-tokens", "9", "--raw")
    assert raw.strip() == theirs(run, "good film", 9)
    system = ("--system", "a plot", "--max-new-tokens", "9")
    answer = said(capsys, "generate", str(run), "good film", *system)
    assert answer.strip() == theirs(run, "a plot [EOS] good film [EOS] the", 9)


def test_many_prompts_of_a_file_are_answered_as_each_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of any length, in the file's order."""
    prompts = ["a", "the plot was great and poor", "good film"]
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(prompts) + "\n\n")
    more = ("--max-new-tokens", "6", "--json")
    rows = [
        json.loads(line)
        for line in said(capsys, "generate", str(run), "--file", str(path), *more).splitlines()
    ]
    assert [row["prompt"] for row in rows] == prompts
    alone = [json.loads(said(capsys, "generate", str(run), text, *more)) for text in prompts]
    assert rows == alone
    turns = [{"role": "user", "content": text} for text in ("a", "film", "good film")]
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": "a"}), json.dumps({"messages": turns})]
    path.write_text("\n".join(lines))
    plain = said(capsys, "generate", str(run), "--file", str(path), "--max-new-tokens", "6")
    first, second = plain.strip().split("\n\n")
    assert first == f"> a\n{alone[0]['answer']}"
    asked = "a [EOS] film [EOS] good film [EOS] the"
    assert second == f"> good film\n{theirs(run, asked, 6)}"


def test_what_is_drawn_is_drawn_from_the_seed(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = ("--temperature", "3", "--top-p", "0.9", "--max-new-tokens", "12")
    before = torch.get_rng_state()
    answers = [said(capsys, "generate", str(run), "good", *drawn, "--seed", seed) for seed in "112"]
    assert answers[0] == answers[1] != answers[2]
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(sys, "stdin", io.StringIO("good\n"))
    assert said(capsys, "generate", str(run), *drawn, "--seed", "2") == answers[2]


def test_a_talk_remembers_until_it_is_reset(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["good film", "", "a plot", "/help", "/reset", "a plot", "/exit", "never read"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", str(run), "--max-new-tokens", "5"]) == 0
    out, err = capsys.readouterr()
    assert "known: /reset, /exit, /quit" in err
    first = theirs(run, "good film [EOS] the", 5)
    second = theirs(run, f"good film [EOS] {first} [EOS] a plot [EOS] the", 5)
    third = theirs(run, "a plot [EOS] the", 5)
    assert [line.strip() for line in out.splitlines()] == [first, second, third]


def test_a_talk_goes_on_after_an_answer_that_says_nothing(
    model: UsableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(model, Sampling(max_new_tokens=3))
    with monkeypatch.context() as patched:
        patched.setattr("cutlayer.jobs.use.generated", lambda *args, **more: [""])
        assert talk.answer("good film") == ""
    assert talk.answer("a plot") and len(talk.turns) == 4


def test_what_slides_or_is_empty_is_read_anew() -> None:
    """Blocks that forget what lies beyond a window cannot go back to the middle of it."""
    ids, reading = [5, 6, 7, 8], Reading()
    kept = DynamicCache(config=LlamaConfig(num_hidden_layers=2))
    for layer in range(2):
        kept.update(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4), layer)
    reading.keep(ids, kept)
    assert reading.take([4, *ids]) is None
    reading.keep(ids, kept)
    assert reading.take([5, 6, 9]) is kept and kept.get_seq_length() == 2
    assert reading.take([5, 6, 9]) is None  # until these are read
    reading.keep([5, 6], kept)
    assert reading.take([5, 6]) is kept and kept.get_seq_length() == 1
    sliding = MistralConfig(num_hidden_layers=2, sliding_window=2)
    for cache in (DynamicCache(config=sliding), None):
        reading.keep(ids, cache)
        assert reading.take(ids) is None


def test_ctrl_c_takes_back_what_was_asked_or_ends(
    model: UsableModel, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Talk(model, Sampling(max_new_tokens=3))

    @dataclass
    class Shown(TextStreamer):
        """Somebody presses Ctrl-C as the first token of the first answer comes."""

        first: bool

        def __post_init__(self) -> None:
            super().__init__(model.tokenizer, skip_prompt=True, skip_special_tokens=True)

        def put(self, value: torch.Tensor) -> None:
            super().put(value)
            if self.first and value.numel() == 1:
                raise KeyboardInterrupt

    firsts = iter([True, False])

    def typed() -> Iterator[str]:
        yield "good film"
        assert talk.turns == ()
        yield "a plot"
        raise KeyboardInterrupt

    talk_on(talk, typed(), lambda: Shown(next(firsts)))
    out, err = capsys.readouterr()
    assert "(interrupted)" in err
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"]
    interrupted, answer = out.splitlines()
    assert len(interrupted.split()) <= 1  # a token may be less than a word
    assert answer.strip() == talk.turns[1]["content"].strip()


def test_a_talk_that_is_too_long_forgets_its_beginning(model: UsableModel) -> None:
    limit = model.whole.adapted.model.config.max_position_embeddings
    talk = Talk(model, Sampling(max_new_tokens=limit // 2))
    for text in ("good film", "a plot", "the film"):
        talk.answer(text)
    assert [turn["content"] for turn in talk.turns[-2:-1]] == ["the film"]
    assert len(talk.turns) < 6
    with pytest.raises(ModelError, match="lower max_new_tokens"):
        talk.answer("good " * limit)


def test_over_other_weights_it_does_not_run_unasked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What lies where the base was may have changed since."""
    facts = open_trained(run).facts
    base = Path(facts.base.path)
    other = tmp_path / "other"
    other.mkdir()
    for path in base.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert said(capsys, "generate", str(run), "a", "--model", str(other), "--max-new-tokens", "2")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    assert main(["generate", str(run), "a", "--model", str(other), "--max-new-tokens", "2"]) == 0
    assert "warning: the weights in" in capsys.readouterr().err
    text = (run / "adapter" / "cutlayer.json").read_text()
    try:
        (run / "adapter" / "cutlayer.json").write_text(text.replace(facts.base.name, str(other)))
        assert main(["generate", str(run), "a"]) == 2
    finally:
        (run / "adapter" / "cutlayer.json").write_text(text)
    err = capsys.readouterr().err
    assert "model.safetensors differ" in err and err.rstrip().endswith("(--model)")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("generate", "generate: which run? give its directory"),
        ("chat", "chat: which run?"),
        ("generate RUN/nothing a", "no such run directory"),
        ("generate MODEL a", "is no run (it has no config.yaml), and nothing that `cutlayer"),
        ("generate RUN a --file b", "a prompt and --file: give one of them"),
        ("generate RUN a --raw --system b", "leave one of them out"),
        ("generate RUN --file no.txt", "no.txt cannot be read"),
        ("generate RUN a --temperature -1", "temperature is -1.0"),
        ("generate RUN a --temperature 1e-300", "or 0.001 or more"),
        ("generate RUN a --temperature nan", "temperature is nan"),
        ("generate RUN a --top-p 0", "top_p is 0.0"),
        ("generate RUN a --max-new-tokens 63", "more than the model's 64"),
        ("generate RUN a --device cuda:9", "device is cuda:9"),
        ("generate RUN", "stdin was empty"),
    ],
)
def test_a_mistake_is_one_line(
    run: Path,
    words: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    places = {"RUN": str(run), "MODEL": open_trained(run).facts.base.path}
    typed = [
        next((word.replace(key, place) for key, place in places.items() if key in word), word)
        for word in words.split()
    ]
    assert main(typed) == 2
    err = capsys.readouterr().err
    assert told in err.splitlines()[-1]


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "a"}', '{"messages": ["a"]}'])
def test_a_line_without_a_prompt_is_named(
    run: Path, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'"a"\n{line}\n')
    assert main(["generate", str(run), "--file", str(path)]) == 2
    assert "prompts.jsonl line 2 " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([{"role": "wizard", "content": "a"}], "turn 1 has the role 'wizard': known are system"),
        ([{"role": "user", "content": 3}], "turn 1 (user): its 'content' is a number, not a text"),
        ([{"role": "user", "content": None}], "turn 1 (user): it has no text"),
        ([{"role": "user", "content": "stop"}], "the chat template refuses these turns: no stop"),
    ],
)
def test_turns_are_read_as_those_of_data(
    model: UsableModel, turns: list[Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no data could teach is not asked in silence; and what a template refuses is told."""
    refuses = "{% if messages[0]['content'] == 'stop' %}{{ raise_exception('no stop') }}{% endif %}"
    monkeypatch.setattr(model.tokenizer, "chat_template", refuses + TEMPLATE)
    with pytest.raises((DataError, ModelError), match=re.escape(told)):
        prompt_ids(model, turns, None)
    parts = [{"type": "text", "text": "good"}, {"type": "text", "text": " film"}]
    asked = prompt_ids(model, [{"role": "user", "content": parts}], None)
    assert asked == prompt_ids(model, "good film", None)


def test_a_file_of_turns_is_not_raw(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}]}))
    assert main(["generate", str(run), "--raw", "--file", str(path)]) == 2
    assert "--raw has no turns" in capsys.readouterr().err


def test_a_classifier_and_a_model_without_template_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"rounds": 1, "local_steps": 1}
    data, texts = tiny.reviews(tmp_path / "reviews"), tiny.corpus(tmp_path / "corpus")
    bert = tiny.text_model(tmp_path / "bert", "bert")
    classifier = start(tiny.config(bert, data, training=one), tmp_path / "runs").path
    for command in ("generate", "chat"):
        assert main([command, str(classifier)]) == 2
        assert "is for text-classification (neg, pos), and writes no text" in (
            capsys.readouterr().err
        )
    llama = tiny.text_model(tmp_path / "llama", "llama")
    plain = start(tiny.config(llama, texts, training=one), tmp_path / "runs").path
    assert main(["chat", str(plain)]) == 2
    assert "has no chat template" in capsys.readouterr().err
    answer = said(capsys, "generate", str(plain), "good film", "--max-new-tokens", "4")
    assert answer.strip() == theirs(plain, "good film", 4)


@pytest.mark.parametrize("numbers", ["bfloat16", "int8", "nf4"])
def test_it_answers_over_the_numbers_that_it_was_trained_over(
    tmp_path: Path, numbers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where devices and server have others, over both."""
    model = tiny.text_model(tmp_path / "llama", "llama")
    config = tiny.config(
        model,
        tiny.corpus(tmp_path / "corpus"),
        training={"rounds": 1, "local_steps": 1},
        server={"base": numbers},
    )
    run = start(config, tmp_path / "runs").path
    usable = load_trained(open_trained(run), device="cpu")
    inner = usable.whole.adapted.model.model.layers
    kinds = [type(inner[n].mlp.up_proj.base.weight).__name__ for n in range(tiny.BLOCKS)]
    assert kinds == ["Parameter", "Parameter", "PackedWeight", "PackedWeight"]
    assert said(capsys, "generate", str(run), "good", "--max-new-tokens", "2")


def test_a_talk_reads_only_what_is_new(model: UsableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And answers as if it read all that was said anew each turn; so after it was interrupted,
    where the beginning is forgotten, and after a reset."""
    inner, sampling = model.whole.adapted.model, Sampling(max_new_tokens=5)
    forward, read, stops = inner.forward, [], False

    def counting(*args: object, **given: Any) -> object:
        if stops:
            raise KeyboardInterrupt
        read.append(given["input_ids"].shape[1])
        return forward(*args, **given)

    def anew(turns: Sequence[Any]) -> tuple[list[int], str]:
        asked = turn_ids(model, turns, "a plot")
        return asked, generated(model, [asked], sampling)[0]

    monkeypatch.setattr(inner, "forward", counting)
    talk = Talk(model, sampling, "a plot")
    before: list[int] = []
    for text in ("good film", "the plot was great", "poor"):
        read.clear()
        answer = talk.answer(text)
        new = read[0]
        asked, wanted = anew(talk.turns[:-1])
        assert answer == wanted
        # what the template puts before an answer is the last of what was asked
        assert new <= len(asked) - max(len(before) - 1, 0)
        before = asked
    stops = True
    with pytest.raises(KeyboardInterrupt):
        talk.answer("bad")
    stops = False
    for text in ("good", *["a plot was great"] * 6):
        answer = talk.answer(text)
        assert answer == anew(talk.turns[:-1])[1]
    assert len(talk.turns) < 20
    talk.reset()
    assert talk.answer("good film") == anew([{"role": "user", "content": "good film"}])[1]
