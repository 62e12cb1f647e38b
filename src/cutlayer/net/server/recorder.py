"""What a server writes about each round that closes, and puts its checkpoint in place.

The keys are the trainer's, and seconds by phase are measured where the trainer's are simulated.
"""

from collections.abc import Callable, Mapping
from typing import Any, final

from cutlayer.net.server.session import ServerSession
from cutlayer.net.server.timing import MeasuredRound
from cutlayer.net.server.worker import ServerWorker
from cutlayer.rounds.schemes import Phase
from cutlayer.training.records import UNOBSERVED, Observer, TraceLine, TrainedRound
from cutlayer.training.run import evaluate
from cutlayer.training.run_directory import RunDirectory, check_finite
from cutlayer.training.state import RunState, ServerSide, Training

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
        training: Training,
        server: ServerSide,
        directory: RunDirectory,
        worker: ServerWorker,
        session: ServerSession,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._training = training
        self._server = server
        self._directory = directory
        self._worker = worker
        self._traffic = session.traffic
        self._session = session
        self._shares = session.shares
        self._observer = observer
        self._clock = clock
        self._began_s = clock()
        # the run's one clock is the state's
        self._elapsed_s = worker.state.virtual_time_s

    def save(self, state: RunState, measured: MeasuredRound | None) -> None:
        """The trace, the record, then the checkpoint, of a round that has closed.

        Raises RunError.
        """
        passed_s = state.virtual_time_s - self._elapsed_s
        delay_s = passed_s if measured is None else measured.delay_s
        evaluation = evaluate(self._training, self._server, state)
        record = TrainedRound(
            round=state.round,
            **evaluation.metric(self._training.task),
            eval_loss=evaluation.loss,
            train_loss=self._worker.train_loss,
            shares=tuple(self._shares),
            delay_s=delay_s,
            **self._seconds(measured, delay_s),
            virtual_time_s=state.virtual_time_s,
            **self._bytes(state.round),
            wall_s=self._clock() - self._began_s,
        )
        check_finite(self._directory.path, record, simulated=False)
        events = () if measured is None else measured.events()
        lines = (TraceLine(round=state.round, event=event) for event in events)
        self._directory.append("trace.jsonl", lines)
        self._directory.append("rounds.jsonl", [record])
        self._directory.save(state)
        self._began_s, self._elapsed_s = self._clock(), state.virtual_time_s
        self._shares = self._session.shares
        self._observer.round_done(record)

    def _seconds(self, measured: MeasuredRound | None, delay_s: float) -> dict[str, Any]:
        """Seconds by device and phase; of a device that did not make the round, all of it."""
        count = len(self._worker.samples)
        took_s: Mapping[int, float] = {} if measured is None else measured.took_s
        delays_s = [took_s.get(device, delay_s) for device in range(count)]
        seen = [None if measured is None else measured.phase_seconds(n) for n in range(count)]
        phases = [_named(own, total_s) for own, total_s in zip(seen, delays_s, strict=True)]
        slowest = 0 if measured is None else measured.slowest_device
        return {
            "delay_by_phase_s": phases[slowest],
            "slowest_device": slowest,
            "device_delay_s": tuple(delays_s),
            "device_delay_by_phase_s": tuple(phases),
        }

    def _bytes(self, round_number: int) -> dict[str, Any]:
        """What crossed this server's links since it was started."""
        counted = self._traffic.of(round_number)
        up, down = (sum(counted.get(name, 0) for name in names) for names in (_UP, _DOWN))
        plain = self._worker.plain_bytes
        return {
            "uplink_bytes": up,
            "downlink_bytes": down,
            "uncompressed_uplink_bytes": up - counted.get("activation", 0) + plain,
            "uncompressed_downlink_bytes": down - counted.get("gradient", 0) + plain,
            "bytes_by_payload": counted,
        }


def _named(phases: Mapping[Phase, float] | None, delay_s: float) -> dict[str, float]:
    if phases is None:
        return {UNOBSERVED: delay_s}
    return {phase.value: spent for phase, spent in phases.items()}
