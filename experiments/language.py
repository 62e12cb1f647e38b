"""What is left of a language model's gain, split over a coded link?

Two examples of the package, SmolLM2-135M with LoRA on real conversations:

* `arithmetic`: word problems with worked answers. Exact match of the final answer (`#### 42`), by
  greedy generation, before training and after: split with the codec `best`, federated (`fl-lora`),
  and unsplit in transformers and peft. All begin with the same adapter and see the same samples in
  the same order; unsplit, a step's mini-batch is that of all devices together. A federated round
  computes what a split one without a codec does, to the bit: the difference is the codec's.
  The devices merge after every local step. Other learning rates than the example's are tried with
  one seed: more than how often is merged, or the codec, decides how far so few steps come.
* `chitchat`: chats of people, each person on one device. Perplexity of the answerer's tokens.

    nice python experiments/language.py            # what is not there yet, all of seed 0 first
    python experiments/language.py --table > experiments/language.md

Wall time: two to three minutes of one core a run; every result is appended to `language.jsonl` at
once. Expected numbers: the committed `language.md`. Test samples are the same for all seeds.
"""

import argparse
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import torch
import yaml
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from cutlayer.config.schema import Config
from cutlayer.data.assets.catalogue import CATALOGUE, cache_root, get_asset
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.model.peft_format import save_adapter
from cutlayer.spec import IGNORED_LABEL
from cutlayer.training.evaluation import evaluate
from cutlayer.training.expected import initial_state
from cutlayer.training.round import Round
from cutlayer.training.state import RunState

Result: TypeAlias = dict[str, Any]
Messages: TypeAlias = list[dict[str, str]]

RESULTS = Path(__file__).with_suffix(".jsonl")
SEEDS = (0, 1, 2)
BEFORE = "before training"
SPLIT = "split, codec best, as the example sets it"
FEW_BITS = "split, codec best, 0.7 + 0.4 bits"
FEDERATED = "federated, fl-lora"
UNSPLIT = "unsplit, peft"
OTHER_RATES = ("3e-3", "8e-3")
SPLIT_AT = {rate: f"split, codec best, learning rate {rate}" for rate in OTHER_RATES}
UNSPLIT_AT = {rate: f"unsplit, peft, learning rate {rate}" for rate in OTHER_RATES}
EVERY_TWO = "split, codec best, learning rate 3e-3, two local steps a round"


def at_rate(rate: str, factor: float = 0.9147) -> dict[str, Any]:
    """The example's optimiser at another learning rate."""
    schedule = {"name": "decay", "factor": factor}
    return {"name": "adamw", "learning_rate": float(rate), "schedule": schedule}


METHODS: dict[str, dict[str, Any]] = {
    BEFORE: {"codec": "none"},
    SPLIT: {},
    FEW_BITS: {"codec": "best"},
    FEDERATED: {"scheme": "fl-lora", "codec": "none"},
    UNSPLIT: {"codec": "none"},
    **{SPLIT_AT[rate]: {"optimizer": at_rate(rate)} for rate in OTHER_RATES},
    EVERY_TWO: {
        "training": {"rounds": 8, "local_steps": 2, "batch_size": 4},
        "optimizer": at_rate("3e-3", 0.8367),
    },
    **{UNSPLIT_AT[rate]: {"codec": "none", "optimizer": at_rate(rate)} for rate in OTHER_RATES},
}
_UNSPLIT = (UNSPLIT, *UNSPLIT_AT.values())
# the model is the same before training, whatever the seed; the others were tried, no more
_ONCE = (BEFORE, FEW_BITS, EVERY_TWO, *SPLIT_AT.values(), *UNSPLIT_AT.values())
GOAL_POINTS = 2.0
TESTED = 96
MOST_TOKENS = 80
AT_ONCE = 48
_NUMBERS = re.compile(r"\d+")


def settings_of(example: str, method: str = UNSPLIT) -> dict[str, Any]:
    """The example's settings, as this method takes them."""
    text = files("cutlayer").joinpath(f"examples/{example}.yaml").read_text(encoding="utf-8")
    return {**yaml.safe_load(text), "threads": 1, **METHODS[method]}


def fingerprint(example: str, method: str) -> str:
    """Changes with any setting, so that results of old settings are not mistaken for new ones."""
    settings = settings_of(example, method)
    settings.pop("evaluation", None)  # of the command's rounds, which are not played here
    text = json.dumps([settings, TESTED, MOST_TOKENS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def prepared(example: str, method: str, seed: int) -> Job:
    """The example, ready to train."""
    return prepare(Config.model_validate({**settings_of(example, method), "seed": seed}))


def run(example: str, method: str, seed: int) -> Result:
    """One line of the results."""
    begun_s = time.process_time()
    measured = RUNS[example](method, seed)
    known = {"example": example, "method": method, "seed": seed}
    cpu_s = round(time.process_time() - begun_s, 1)
    return {**known, "settings": fingerprint(example, method), **measured, "cpu_s": cpu_s}


# --- word problems -------------------------------------------------------------------------------


def arithmetic(method: str, seed: int) -> Result:
    """Train by this method, if it is one, and answer the test problems."""
    job = prepared("arithmetic", method, seed)
    state = initial_state(job.setup)
    measured: Result = {}
    if method not in (BEFORE, *_UNSPLIT):
        bytes_up, bytes_down, losses = 0, 0, []
        for _ in range(job.config.training.rounds):
            outcome = Round(job.setup, state).play()
            state = outcome.state
            sent = outcome.round_costs.byte_counts()
            bytes_up += sent["uplink_bytes"]
            bytes_down += sent["downlink_bytes"]
            losses.append(round(outcome.train_loss, 4))
        measured = {"bytes_up": bytes_up, "bytes_down": bytes_down, "losses": losses}
    trained_s = time.process_time()
    model = as_peft(job, state)
    if method in _UNSPLIT:
        measured["losses"] = train_unsplit(job, model)
    answers = answer(job, model)
    return {**measured, "answer_s": round(time.process_time() - trained_s, 1), **answers}


def as_peft(job: Job, state: RunState) -> PeftModel:
    """Base and adapter as transformers and peft have them, trainable."""
    device, server = (part.adapted.layout for part in job.setup.parts)
    named = {**device.named(state.device.row), **server.named(state.server.row)}
    base = str(job.found.path)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with TemporaryDirectory() as folder:
        save_adapter(Path(folder), named, job.adapter, base, "causal-lm")
        return PeftModel.from_pretrained(model, folder, is_trainable=True)


def train_unsplit(job: Job, model: PeftModel) -> list[float]:
    """As many steps as the devices', with the samples of all in each; the loss of each step."""
    setup, training = job.setup, job.config.training
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    losses = []
    model.train()
    for number in range(1, training.rounds + 1):
        steps = setup.devices[0].local_steps
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = setup.training.rate_of(number, step, steps)
            batches = [device.batch(device.indices(number, step)) for device in setup.devices]
            loss = joint_loss(model, batches)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(round(loss.item(), 4))
    model.eval()
    return losses


def joint_loss(model: PeftModel, batches: Sequence[Any]) -> torch.Tensor:
    """The mean over devices of each one's mean loss over its tokens that count."""
    width = max(batch.labels.shape[1] for batch in batches)

    def joined(arrays: list[np.ndarray], fill: int) -> torch.Tensor:
        wide = [
            np.pad(each, ((0, 0), (0, width - each.shape[1])), constant_values=fill)
            for each in arrays
        ]
        return torch.from_numpy(np.concatenate(wide))

    ids = joined([batch.inputs["input_ids"] for batch in batches], 0)
    mask = joined([batch.inputs["attention_mask"] for batch in batches], 0)
    labels = joined([batch.labels for batch in batches], IGNORED_LABEL)[:, 1:]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    rows = [len(batch.labels) for batch in batches]
    return torch.stack(
        [
            functional.cross_entropy(own.flatten(0, 1), wanted.flatten())
            for own, wanted in zip(
                torch.split(logits, rows), torch.split(labels, rows), strict=True
            )
        ]
    ).mean()


@torch.no_grad()
def answer(job: Job, model: PeftModel) -> Result:
    """Exact match of the final answer, of all test problems and by their number of animals; and how
    many would be right if the last number were taken, whatever it stands behind."""
    tokenizer = AutoTokenizer.from_pretrained(str(job.found.path), padding_side="left")
    template = job.config.data.chat_template
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.eval()
    right: dict[str, list[bool]] = {}
    close: list[bool] = []
    rows = test_problems()
    for first in range(0, len(rows), AT_ONCE):
        part = rows[first : first + AT_ONCE]
        prompts = [
            tokenizer.apply_chat_template(
                row["messages"][:1],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
            )
            for row in part
        ]
        given = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        made = model.generate(  # type: ignore[no-untyped-call]
            **given,
            max_new_tokens=MOST_TOKENS,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        texts = tokenizer.batch_decode(
            made[:, given["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for row, text in zip(part, texts, strict=True):
            wanted = row["messages"][1]["content"]
            right.setdefault(row["animals"], []).append(final(text) == final(wanted))
            close.append(last_number(text) == final(wanted))
    matches = [match for found in right.values() for match in found]
    return {
        "exact_match": mean(map(float, matches)),
        "last_number_match": mean(map(float, close)),
        "by_animals": {animals: mean(map(float, found)) for animals, found in right.items()},
        "tested": len(matches),
    }


def final(text: str) -> str | None:
    """What an answer comes to: the text after the last `####`."""
    _, mark, result = text.rpartition("####")
    return result.strip() if mark else None


def last_number(text: str) -> str | None:
    """What an answer in any form comes to: the last number in it."""
    found: list[str] = _NUMBERS.findall(text)
    return found[-1] if found else None


def test_problems() -> list[dict[str, Any]]:
    """The first of the test split."""
    path = get_asset(CATALOGUE["arithmetic"], cache_root()) / "test.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:TESTED]
    return [json.loads(line) for line in lines]


# --- chats ---------------------------------------------------------------------------------------


def chitchat(method: str, seed: int) -> Result:
    """Perplexity of the answerer's tokens, before training and after."""
    job = prepared("chitchat", method, seed)
    first = job if seed == SEEDS[0] else prepared("chitchat", method, SEEDS[0])
    server = first.setup.server
    state = initial_state(job.setup)
    before = evaluate(job.setup.training, server, state)
    losses = []
    for _ in range(job.config.training.rounds):
        outcome = Round(job.setup, state).play()
        state = outcome.state
        losses.append(outcome.train_loss)
    after = evaluate(job.setup.training, server, state)
    return {"before": math.exp(before.loss), "after": math.exp(after.loss), "losses": losses}


RUNS: dict[str, Callable[[str, int], Result]] = {"arithmetic": arithmetic, "chitchat": chitchat}
WHICH = {
    "arithmetic": tuple(METHODS),
    "chitchat": (SPLIT,),
}


# --- the queue and the tables --------------------------------------------------------------------


def read_results(path: Path) -> list[Result]:
    """Results of the present settings."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        line for line in lines if line["settings"] == fingerprint(line["example"], line["method"])
    ]


def missing(results: Sequence[Result], examples: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """What is still to run, all of seed 0 first."""
    done = {(result["example"], result["method"], result["seed"]) for result in results}
    for seed in SEEDS:
        for example in examples:
            for method in WHICH[example]:
                once = method in _ONCE and seed != SEEDS[0]
                if (example, method, seed) not in done and not once:
                    yield example, method, seed


def tables(results: Sequence[Result]) -> str:
    """Markdown: mean over the seeds (lowest to highest), and what the goal comes to."""
    by_method = {
        (example, method): [
            result
            for result in results
            if (result["example"], result["method"]) == (example, method)
        ]
        for example, methods in WHICH.items()
        for method in methods
    }
    parts = [_arithmetic_table(by_method), _chitchat_table(by_method)]
    rest = [
        f"{example}, {method}, seed {seed}"
        for example, method, seed in missing(results, list(WHICH))
    ]
    if rest:
        parts.append("Not run yet:\n\n" + "\n".join(f"* {one}" for one in rest))
    return "\n\n".join(parts)


Found: TypeAlias = dict[tuple[str, str], list[Result]]


def _arithmetic_table(found: Found) -> str:
    lines = [
        "## arithmetic",
        "",
        "| method | exact match [%] | last number right [%] | up [MB] | down [MB] | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for method in WHICH["arithmetic"]:
        rows = found["arithmetic", method]
        if not rows:
            continue
        sent = [
            f"{mean(row[way] for row in rows) / 1e6:.2f}" if way in rows[0] else ""
            for way in ("bytes_up", "bytes_down")
        ]
        match, close = (
            spread([100 * row[name] for row in rows], 1)
            for name in ("exact_match", "last_number_match")
        )
        lines.append(f"| {method} | {match} | {close} | {sent[0]} | {sent[1]} | {len(rows)} |")
    verdicts = [
        _difference(found, SPLIT, UNSPLIT, GOAL_POINTS),
        *(_difference(found, SPLIT_AT[rate], UNSPLIT_AT[rate]) for rate in OTHER_RATES),
        _difference(found, SPLIT, FEDERATED),
        _difference(found, FEW_BITS, FEDERATED),
        _difference(found, FEDERATED, UNSPLIT),
    ]
    return "\n".join([*lines, "", *(f"* {verdict}" for verdict in verdicts if verdict)])


def _difference(found: Found, one: str, other: str, goal: float | None = None) -> str | None:
    """In points of exact match, seed by seed."""
    beside = {row["seed"]: row["exact_match"] for row in found["arithmetic", other]}
    points = [
        100 * (row["exact_match"] - beside[row["seed"]])
        for row in found["arithmetic", one]
        if row["seed"] in beside
    ]
    if not points:
        return None
    each = ", ".join(f"{point:+.1f}" for point in points)
    text = f"{one}, against {other}: {mean(points):+.1f} points ({each})"
    if goal is None:
        return text
    verdict = "met" if mean(points) >= -goal else "not met"
    return f"{text} (goal: no more than {goal:g} below): {verdict}"


def _chitchat_table(found: Found) -> str:
    lines = [
        f"| {method} | {row['seed']} | {row['before']:.2f} | {row['after']:.2f} |"
        for method in WHICH["chitchat"]
        for row in sorted(found["chitchat", method], key=lambda row: row["seed"])
    ]
    heads = [
        "## chitchat",
        "",
        "| method | seed | perplexity before | after |",
        "|---|---|---|---|",
    ]
    return "\n".join([*heads, *lines])


def spread(values: Sequence[float], digits: int) -> str:
    """Mean (lowest to highest)."""
    low, high = min(values), max(values)
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    """Run what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--table", action="store_true", help="print the tables; run nothing")
    parser.add_argument("--example", choices=WHICH, action="append")
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    results = read_results(given.output)
    if given.table:
        print(tables(results))
        return
    for example, method, seed in missing(results, given.example or list(WHICH)):
        if method in (given.method or METHODS) and seed in (given.seed or SEEDS):
            print(f"{example}, {method}, seed {seed}", flush=True)
            with given.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run(example, method, seed)) + "\n")


if __name__ == "__main__":
    main()
