"""What a server writes about each round that closes, and puts its checkpoint in place.

The keys are the trainer's, and seconds by phase are measured where the trainer's are simulated.
"""

from collections.abc import Callable
from typing import Any, final

from cutlayer.net.measured import MeasuredRound
from cutlayer.net.server_session import ServerSession
from cutlayer.net.server_worker import ServerWorker
from cutlayer.schemes.scheme import Phase
from cutlayer.train.evaluate import evaluate
from cutlayer.train.record import Record, event_line
from cutlayer.train.run import Observer
from cutlayer.train.run_directory import RunDirectory
from cutlayer.train.setup import Setup
from cutlayer.train.state import RunState

_UP = ("activation", "labels", "adapter_up")
_DOWN = ("model", "adapter_down", "gradient")


@final
class Recorder:
    """Evaluates, records and checkpoints the rounds of a networked run.

    Bytes of a round in which the server was started are those since its start, and its seconds,
    where nobody saw its beginning, too.
    """

    def __init__(
        self,
        setup: Setup,
        directory: RunDirectory,
        worker: ServerWorker,
        session: ServerSession,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._setup = setup
        self._directory = directory
        self._worker = worker
        self._tally = session.tally
        self._session = session
        self._shares = session.shares
        self._observer = observer
        self._clock = clock
        self._began_s = clock()

    def save(self, state: RunState, measured: MeasuredRound | None) -> None:
        """The trace, the record, then the checkpoint, of a round that has closed.

        Raises RunError.
        """
        now_s = self._clock()
        delay_s = now_s - self._began_s if measured is None else measured.delay_s
        evaluation = evaluate(self._setup, state)
        record = {
            "round": state.round,
            **evaluation.metric(self._setup.task),
            "eval_loss": evaluation.loss,
            "train_loss": self._worker.train_loss,
            "shares": list(self._shares),
            "delay_s": delay_s,
            **self._seconds(measured),
            "virtual_time_s": self._elapsed_s() + delay_s,
            **self._bytes(state.round),
            "wall_s": self._clock() - self._began_s,
        }
        events = () if measured is None else measured.events()
        self._directory.append("trace.jsonl", (event_line(state.round, each) for each in events))
        self._directory.append("rounds.jsonl", [record])
        self._directory.save(state)
        self._began_s, self._shares = self._clock(), self._session.shares
        self._observer.round_done(record)

    def _seconds(self, measured: MeasuredRound | None) -> Record:
        """Seconds by device and phase; None where they were not seen from end to end."""
        count = len(self._setup.devices)
        if measured is None:
            nothing = [None] * count
            return {
                "delay_by_phase_s": None,
                "slowest_device": None,
                "device_delay_s": nothing,
                "device_delay_by_phase_s": nothing,
            }
        phases = [_named(measured.phase_seconds(device)) for device in range(count)]
        return {
            "delay_by_phase_s": phases[measured.slowest_device],
            "slowest_device": measured.slowest_device,
            "device_delay_s": [measured.took_s.get(device) for device in range(count)],
            "device_delay_by_phase_s": phases,
        }

    def _elapsed_s(self) -> float:
        """The sum of all delays so far [s]."""
        return float(self._directory.records()[-1]["virtual_time_s"])

    def _bytes(self, round_number: int) -> dict[str, Any]:
        """What crossed this server's links since it was started."""
        counted = self._tally.of(round_number)
        up, down = (sum(counted.get(name, 0) for name in names) for names in (_UP, _DOWN))
        plain = self._worker.plain_bytes
        return {
            "uplink_bytes": up,
            "downlink_bytes": down,
            "uncompressed_uplink_bytes": up - counted.get("activation", 0) + plain,
            "uncompressed_downlink_bytes": down - counted.get("gradient", 0) + plain,
            "bytes_by_payload": counted,
        }


def _named(phases: dict[Phase, float] | None) -> dict[str, float] | None:
    return None if phases is None else {phase.value: spent for phase, spent in phases.items()}
