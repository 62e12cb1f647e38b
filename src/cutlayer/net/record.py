"""What a server writes about each round that closes, and puts its checkpoint in place.

The record has the trainer's names for what it measures, and leaves out what only a simulation
knows: seconds by phase.
"""

from collections.abc import Callable
from typing import Any, final

from cutlayer.net.server_worker import ServerWorker
from cutlayer.net.tally import Tally
from cutlayer.train.evaluate import evaluate
from cutlayer.train.record import Record
from cutlayer.train.run import Observer
from cutlayer.train.run_directory import RunDirectory
from cutlayer.train.setup import Setup
from cutlayer.train.state import RunState

_UP = ("activation", "labels", "adapter_up")
_DOWN = ("model", "adapter_down", "gradient")


@final
class Recorder:
    """Evaluates, records and checkpoints the rounds of a networked run.

    Seconds and bytes of a round in which the server was started are those since its start.
    """

    def __init__(
        self,
        setup: Setup,
        directory: RunDirectory,
        worker: ServerWorker,
        tally: Tally,
        shares: tuple[float, ...],
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._setup = setup
        self._directory = directory
        self._worker = worker
        self._tally = tally
        self._shares = shares
        self._observer = observer
        self._clock = clock
        self._began_s = clock()

    def save(self, state: RunState) -> None:
        """The record, then the checkpoint, of a round that has closed. Raises RunError."""
        delay_s = self._clock() - self._began_s
        evaluation = evaluate(self._setup, state)
        record = {
            "round": state.round,
            **evaluation.metric(self._setup.task),
            "eval_loss": evaluation.loss,
            "train_loss": self._worker.train_loss,
            "shares": list(self._shares),
            "delay_s": delay_s,
            **self._bytes(state.round),
            "wall_s": self._clock() - self._began_s,
        }
        self._directory.append("rounds.jsonl", [record])
        self._directory.save(state)
        self._began_s = self._clock()
        self._observer.round_done(record)

    def _bytes(self, round_number: int) -> dict[str, Any]:
        """What crossed this server's links since it was started."""
        counted = self._tally.of(round_number)
        return {
            "uplink_bytes": sum(counted.get(name, 0) for name in _UP),
            "downlink_bytes": sum(counted.get(name, 0) for name in _DOWN),
            "bytes_by_payload": counted,
        }


def net_totals(records: list[Record]) -> Record:
    """Sums over the rounds, and the metric before and after."""
    name = "perplexity" if "perplexity" in records[0] else "accuracy"
    summed = ("uplink_bytes", "downlink_bytes", "delay_s", "wall_s")
    return {
        "rounds": records[-1]["round"],
        f"{name}_first": records[0][name],
        f"{name}_final": records[-1][name],
        **{key: sum(record.get(key, 0) for record in records) for key in summed},
    }
