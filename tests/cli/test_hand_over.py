"""`cutlayer export`, `merge` and `push`: what was trained, handed on whole, and nothing else
touched."""

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cutlayer.cli.main import main
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError, StorageError
from cutlayer.jobs.facts import open_trained, read_facts
from cutlayer.jobs.hand_over import export_trained
from cutlayer.jobs.train import start
from cutlayer.model.peft_format import load_adapter

ONE = {"rounds": 1, "local_steps": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model over a base that the server held in bfloat16."""
    folder = tmp_path_factory.mktemp("handed")
    model = tiny.text_model(folder / "model", "llama")
    config = tiny.config(
        model,
        tiny.corpus(folder / "data"),
        adapter={"alpha": 64},
        training={"rounds": 2, "local_steps": 1},
        server={"base": "bfloat16"},
    )
    return start(config, folder / "runs").path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_is_the_adapter_with_all_that_belongs_to_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run)]) == 0
    name = f"{run.name}-adapter"
    assert capsys.readouterr().out == f"{name}\n"
    assert contents(tmp_path / name) == contents(run / "adapter")
    assert main(["export", str(run), "--output", "far/away", "--round", "best"]) == 0
    assert contents(tmp_path / "far" / "away") == contents(run / "adapter-best")
    # an exported one is a run's adapter to all commands
    capsys.readouterr()
    assert main(["generate", "far/away", "good", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out


def test_a_run_that_goes_on_has_something_to_hand_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is when it was killed: no summary yet. Before its first round there is nothing."""
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert main(["export", str(killed), "--output", str(tmp_path / "out")]) == 2
    assert "has nothing trained yet: wait until its first round" in capsys.readouterr().err
    export_trained(open_trained(run), killed / "adapter")
    assert main(["export", str(killed), "--output", str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out") == contents(run / "adapter")


def test_a_merged_model_is_a_model_to_everybody(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To transformers, to our own commands, and as the model of a new run."""
    to = tmp_path / "merged"
    assert main(["merge", str(run), str(to)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{to}\n"
    assert "the run held the base in float32 on devices and bfloat16 at the server" in err
    merged = AutoModelForCausalLM.from_pretrained(to)
    assert merged.dtype is torch.float32
    facts = open_trained(run).facts
    base = AutoModelForCausalLM.from_pretrained(facts.base.path, dtype=torch.float32)
    load_adapter(base, run / "adapter")
    ids = AutoTokenizer.from_pretrained(to)("good film a plot", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(merged(ids).logits, base(ids).logits)
    assert read_facts(to).merged == "float32"
    card = (to / "README.md").read_text()
    assert "merged into the base's own weights, in float32" in card
    assert "library_name: transformers" in card and "peft" not in card
    more = ("--max-new-tokens", "8", "--temperature", "2")  # the likeliest is no word
    assert main(["generate", str(to), "good film a plot", *more]) == 0
    answer = capsys.readouterr().out
    assert set(answer.split()) & set(tiny.WORDS)
    other = ("--numbers", "float32", *more)
    assert main(["generate", str(run), "good film a plot", *other]) == 0
    assert capsys.readouterr().out == answer
    values = open_trained(to).config.model_dump(exclude_unset=True)
    values |= {"model": {"name": str(to), "cut": 1}, "training": {**values["training"], **ONE}}
    again = start(Config.model_validate(values), tmp_path / "runs").path
    assert read_facts(again / "adapter").base.path == str(to)


def test_all_weights_are_copied(tmp_path: Path) -> None:
    values = tiny.config(
        tiny.vision_model(tmp_path / "model"), tiny.images(tmp_path / "data"), training=ONE
    ).model_dump(exclude_unset=True)
    values |= {"scheme": "fl-full", "codec": "none"}
    run = start(Config.model_validate(values), tmp_path / "runs").path
    assert main(["merge", str(run), str(tmp_path / "merged")]) == 0
    assert contents(tmp_path / "merged") == contents(run / "model")


def test_nothing_is_written_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("all of it")
    for words in (["export", str(run), "--output"], ["merge", str(run)]):
        assert main([*words, str(own)]) == 2
        assert "is there already: give a new folder" in capsys.readouterr().err
        assert contents(own) == {"thesis.txt": b"all of it"}
    with pytest.raises(StorageError, match="choose another folder"):
        export_trained(open_trained(run), Path("/proc/1/nothing"))
    with pytest.raises(ConfigError):
        export_trained(open_trained(run), own / "thesis.txt")


@dataclass
class StandIn:
    """A hub that takes what is pushed: repositories with how they were made, and their files."""

    address: str = ""
    refuses: int | None = None
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def private(self, name: str) -> bool:
        """Whether that repository was to be private; versions of the library say it differently."""
        made = self.made[name]
        return made.get("visibility") == "private" or bool(made.get("private"))

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuses is not None:
            return self.refuses, {"error": "not yours"}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.made[name] = asked
            return 200, {"url": f"{self.address}/{name}", "name": name}
        if path.endswith("/preupload/main"):
            rows = json.loads(body)["files"]
            return 200, {
                "files": [
                    {"path": row["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for row in rows
                ]
            }
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.told.append(line["value"]["summary"])
                else:
                    content = base64.b64decode(line["value"]["content"])
                    self.files[line["value"]["path"]] = content
            commit = {"commitUrl": f"{self.address}/c/{40 * 'a'}", "commitOid": 40 * "a"}
            return 200, {**commit, "pullRequestUrl": None}
        return 200, {"errors": [], "warnings": [], "sha": 40 * "a", "id": "me/mine"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._send(200, {})

        def do_GET(self) -> None:
            self._send(*stand_in.answer(self.path, b""))

        def do_POST(self) -> None:
            stand_in.tokens.add(self.headers.get("Authorization"))
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(*stand_in.answer(self.path, body))

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _send(self, status: int, value: dict[str, Any]) -> None:
            content = b"" if self.command == "HEAD" else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    stand_in.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", stand_in.address)
    # as its library has it that is imported once this is set
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", stand_in.address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield stand_in
    server.shutdown()
    server.server_close()


def test_the_hub_gets_all_of_it_and_keeps_it_private(
    run: Path, hub: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), "me/mine"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == f"{hub.address}/me/mine"
    assert hub.private("me/mine")
    assert hub.files == contents(run / "adapter")
    assert hub.told == ["cutlayer: round 2 of 2 on data"]
    assert hub.tokens == {"Bearer hf_secret"}
    # what only this machine has is told before others miss it
    assert "is on this machine alone" in err and "hf_secret" not in err
    more = ("--public", "--message", "look", "--round", "best")
    assert main(["push", str(run), "me/more", *more]) == 0
    assert not hub.private("me/more")
    assert hub.told[1:] == ["look"]


@pytest.mark.parametrize(("status", "told"), [(401, "run `hf auth login`"), (403, "may not write")])
def test_what_the_hub_refuses_is_told(
    run: Path, hub: StandIn, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses = status
    assert main(["push", str(run), "others/theirs"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "others/theirs was not pushed" in err and told in err
    assert "hf_secret" not in err and not hub.files


def test_without_network_token_or_name_nothing_is_tried(
    run: Path, hub: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: str) -> str:
        assert main(["push", str(run), *words]) == 2
        return capsys.readouterr().err

    assert "push: as what? give OWNER/NAME" in told()
    assert "is no name on the hub" in told("/tmp/folder/of/mine")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE keeps from asking" in told("me/mine")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "no answer from http://127.0.0.1:9: is there a network?" in told("me/mine")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "needs a token that may write: run `hf auth login`" in told("me/mine")
    assert not hub.made
