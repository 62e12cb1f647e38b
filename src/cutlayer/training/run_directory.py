"""One run's directory: what is written when, and what a resumed run may believe.

A round is finished when its checkpoint is in place. Records and trace of later rounds, written by
a run that was killed before its checkpoint, are cut off on resuming.
"""

import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cutlayer.errors import RunError, reason
from cutlayer.files import json_text, storage_error, with_descriptor, write_atomically
from cutlayer.rounds.schemes import Phase
from cutlayer.training.exchange import streams_from_tensors, streams_to_tensors
from cutlayer.training.records import (
    Record,
    RoundRecord,
    TrainedRound,
    best_round,
    cut_after,
    parse_round,
    rounds_of,
    scored,
)
from cutlayer.training.state import (
    AdapterState,
    RunState,
    observed_from_tensors,
    observed_to_tensors,
)

_CHECKPOINT = "checkpoint.safetensors"
_LOGS = ("rounds.jsonl", "trace.jsonl")


@final
class RunDirectory:
    """Paths and files of a run. Make one with `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def create(parent: Path, name: str) -> "RunDirectory":
        """A new directory `name-001`, `name-002`, ... in `parent`; an old one is never reused."""
        try:
            parent.mkdir(parents=True, exist_ok=True)
            number = 1 + max(
                (int(tail) for old in parent.glob(f"{name}-*") if (tail := _tail(old)).isdigit()),
                default=0,
            )
            while True:
                path = parent / f"{name}-{number:03d}"
                try:
                    path.mkdir()
                    return RunDirectory(path)
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise storage_error(parent, error) from error

    @staticmethod
    def open(path: Path) -> "RunDirectory":
        """An existing run. Raises RunError if `path` does not hold one."""
        if not (path / "config.yaml").is_file():
            raise RunError(f"{path} is not a run directory: it has no config.yaml")
        return RunDirectory(path)

    @property
    def config_path(self) -> Path:
        """The configuration as read."""
        return self.path / "config.yaml"

    @property
    def fingerprint_path(self) -> Path:
        """What the run began with, by which it is known when it goes on."""
        return self.path / "fingerprint.json"

    def append(self, log: str, lines: Iterable[Record]) -> None:
        """Add JSON lines to `rounds.jsonl` or `trace.jsonl`, flushed to disk."""
        path = self.path / log
        try:
            with with_descriptor(lambda: path.open("a", encoding="utf-8")) as file:
                file.writelines(json_text(line.written()) + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(path, error) from error

    def save(self, state: RunState) -> None:
        """Put the checkpoint of a finished round in place of the one before."""
        tensors = {
            **state.device.tensors("device"),
            **state.server.tensors("server"),
            **observed_to_tensors(state.observed),
            **streams_to_tensors(state.streams),
            **{f"population.{name}": value for name, value in state.population.items()},
        }
        # one key: safetensors writes several in random order, and equal runs give equal bytes
        whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        about = {"round": state.round, "virtual_time_s": state.virtual_time_s}
        metadata = {"state": json.dumps({**about, "crc32": _checksum(whole)})}

        def write(path: Path) -> None:
            save_file(whole, path, metadata)

        write_atomically(self.path / _CHECKPOINT, write)

    def finished(self) -> int | None:
        """The last finished round, or None if none has finished, not even the evaluation before
        training.

        Raises RunError for a checkpoint that cannot be read.
        """
        path = self.path / _CHECKPOINT
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                return int(json.loads(file.metadata()["state"])["round"])
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise RunError(f"the checkpoint {path} cannot be read: {reason(error)}") from error

    def check_log(self) -> None:
        """Raise RunError for a log that lacks a finished round, or that tells of rounds without a
        checkpoint: somebody has cut or deleted a file."""
        path, finished = self.path / "rounds.jsonl", self.finished()
        logged = rounds_of(path)
        if finished is None and 1 in logged:
            raise RunError(
                f"{self.path} cannot be resumed: {path.name} lists finished rounds, but"
                f" {_CHECKPOINT} is missing: restore it, or start a new run"
            )
        for number in range(0 if finished is None else finished + 1):
            if number >= len(logged) or logged[number] != number:
                raise RunError(
                    f"{self.path} cannot be resumed: {path.name} has no line of round {number},"
                    " which has finished: restore it, or start a new run"
                )

    def load(self) -> RunState | None:
        """The last finished round's state, or None if none has finished.

        Raises RunError for a checkpoint that cannot be read.
        """
        path = self.path / _CHECKPOINT
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["state"])
                names: list[str] = list(file.keys())
                tensors: dict[str, torch.Tensor] = {n: file.get_tensor(n) for n in names}
            if about.get("crc32", checksum := _checksum(tensors)) != checksum:
                raise ValueError("its bytes have changed since they were written")
            population = {
                name.removeprefix("population."): value
                for name, value in tensors.items()
                if name.startswith("population.")
            }
            return RunState(
                round=about["round"],
                virtual_time_s=about["virtual_time_s"],
                device=AdapterState.from_tensors("device", tensors),
                server=AdapterState.from_tensors("server", tensors),
                observed=observed_from_tensors(tensors),
                streams=streams_from_tensors(tensors),
                devices=() if population else None,
                population=population,
            )
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise RunError(f"the checkpoint {path} cannot be read: {reason(error)}") from error

    def cut_after(self, finished: int) -> None:
        """Drop the lines of rounds that did not finish, and a last line that was cut short."""
        for log in _LOGS:
            try:
                cut_after(self.path / log, finished)
            except OSError as error:
                raise storage_error(self.path / log, error) from error

    def records(self) -> list[RoundRecord]:
        """The records of all rounds so far, the evaluation before training first.

        Raises RunError for a line that is none.
        """
        path = self.path / "rounds.jsonl"
        if not path.exists():
            return []
        return [
            parse_round(f"{path} line {number + 1}", line, number)
            for number, line in enumerate(path.read_bytes().splitlines())
        ]


def _checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    """CRC-32 of all values, in the order of their names."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def _tail(path: Path) -> str:
    return path.name.rpartition("-")[2]


# What is written about a round, and about a whole run: keys carry their units.


_LOSSES = {"train_loss": "its training loss", "eval_loss": "the loss on the test samples"}
_SUMMED = (
    "uplink_bytes",
    "downlink_bytes",
    "uncompressed_uplink_bytes",
    "uncompressed_downlink_bytes",
    "delay_s",
)


def check_finite(run: Path, record: RoundRecord, *, simulated: bool = True) -> None:
    """Raise RunError for a round whose loss is not finite, before anything of it is kept."""
    number = record.round
    for name, title in _LOSSES.items():
        loss = getattr(record, name, None)  # before training there is one of them
        if loss is not None and not math.isfinite(loss):
            if number == 0:
                raise RunError(
                    f"before training {title} is {loss}: the model's weights hold values"
                    " that are not finite, or too large ones; use another checkpoint of it"
                )
            raise diverged(run, number, f"{title} is {loss}", simulated=simulated)


def diverged(run: Path, number: int, why: str, *, simulated: bool = True) -> RunError:
    """What is said of a round that came to values that are not finite."""
    before = number - 1
    ends = f" resumed with training.rounds {before}, the run ends there;" if simulated else ""
    kept = (
        f"the state after round {before} is kept in {run}, and resuming from it diverges again;"
        f"{ends}"
        if before
        else "nothing was trained before it;"
    )
    return RunError(
        f"round {number} diverged: {why}; {kept} start a new run with a lower"
        " optimizer.learning_rate"
    )


def _best(best: TrainedRound | None) -> dict[str, Any]:
    if best is None or best.score is None:
        return {}
    return {"best_round": best.round, f"{best.score.measure}_best": best.score.value}


def totals(records: Sequence[RoundRecord]) -> dict[str, Any]:
    """Of a summary, the sums over the rounds, and the metric before and after."""
    trained = [record for record in records if isinstance(record, TrainedRound)]
    scores = [score for _, score in scored(records)]
    first, final, best = scores[0], scores[-1], best_round(records)
    phases: Counter[str] = Counter({phase.value: 0.0 for phase in Phase})
    for record in trained:
        phases.update(record.delay_by_phase_s)
    return {
        "rounds": records[-1].round,
        f"{first.measure}_first": first.value,
        f"{final.measure}_final": final.value,
        **_best(best),
        **{name: sum(getattr(record, name) for record in trained) for name in _SUMMED},
        "wall_s": sum(record.wall_s for record in records),
        "delay_by_phase_s": dict(phases),
    }
