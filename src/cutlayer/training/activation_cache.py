"""Each sample's activation, as it was sent once: coded, on disk, with its labels.

Where the device part is frozen a sample's activation is the same in every epoch, so whoever holds
its packet needs no device for it. An entry is what one packet held: the samples of a micro-batch
that the server did not have. Packets are decoded by what their stream's receiver knew before them,
which is stored once for all packets that it is the same for.

What is held stays: a full cache refuses what comes later, since epochs use every sample once, and
whatever is put out for a new sample is needed as soon as that one (of half the samples, least
recently used finds a third, this a half). What comes in a round is held until the round closes, on
top of the limit, and then as much of it as fits, in an order that does not depend on who was first.
So a server over a network holds what a simulated one does. Knows no device, no link and no step.
"""

import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
import torch
from safetensors.torch import load, save

from cutlayer.codec.codec import EMPTY, CodecState
from cutlayer.codec.raw import decode_targets
from cutlayer.errors import PacketError, RunError
from cutlayer.files import PRIVATE, storage_error
from cutlayer.training.server_batch import Served, in_order, joined, row_of
from cutlayer.training.state import CacheLimits, ServerSide, Training
from cutlayer.training.torch_codec import for_device

# of a run's directory
FILE = "activations.sqlite"
_TABLES = """
create table if not exists receiver (
    device integer, hash blob, content blob, primary key (device, hash)
);
create table if not exists device (device integer primary key, samples integer, digest text);
create table if not exists entry (
    id integer primary key, device integer, round integer, step integer, micro integer,
    samples blob, shape blob, packet blob, labels blob, receiver blob
);
"""
# without a word of these an entry cannot be read: what else sqlite writes is little
_NUMBER_BYTES = 8


@dataclass(frozen=True, eq=False)
class Coded:
    """What a device sent of some of its samples: `packet`, of a tensor of `shape`, and `labels`, a
    payload of `encode_targets`; `receiver`: what the packet's stream knew before it. `place`: local
    step and micro-batch."""

    device: int
    place: tuple[int, int]
    samples: tuple[int, ...]
    shape: tuple[int, int, int]
    packet: bytes
    labels: bytes
    receiver: CodecState = field(default_factory=lambda: EMPTY)


# `PacketError` for what cannot be read
Decode: TypeAlias = Callable[[Coded], Served]


@dataclass(frozen=True)
class CacheFigures:
    """A round's samples, each as often as it was used: `hits` were held, `misses` were sent; of
    those `evicted` did not fit as the round closed. `samples`, `held_bytes`: what is held then."""

    hits: int = 0
    misses: int = 0
    evicted: int = 0
    samples: int = 0
    held_bytes: int = 0


@dataclass(frozen=True)
class HeldOf:
    """What is held of a device."""

    device: int
    samples: int
    held_bytes: int


@final
class ActivationCache:
    """The cache in the file `path` (None: in memory), for one process at a time.

    Raises RunError for a file that is damaged or in use, and that cannot be written.
    """

    def __init__(self, path: Path | None, limits: CacheLimits, decode: Decode) -> None:
        self._path = path
        self._limits = limits
        self._decode = decode
        self._decoded: OrderedDict[int, Served] = OrderedDict()
        self._decoded_bytes = 0
        self._where: dict[int, dict[int, tuple[int, int]]] = {}
        self._round = 0
        self._figures = CacheFigures()
        with self._usable():
            if path is not None:
                path.touch(mode=PRIVATE)  # what devices sent is for the run's owner alone
            self._file = sqlite3.connect(
                ":memory:" if path is None else path,
                timeout=0,
                check_same_thread=False,
                isolation_level=None,
            )
            # a kill loses nothing, a power failure at most what came since `close_round`
            for setting in (
                *("locking_mode = exclusive", "journal_mode = wal", "synchronous = normal"),
                "secure_delete = on",
            ):
                self._file.execute(f"pragma {setting}")
            self._file.executescript(f"begin immediate; {_TABLES} commit;")
            self._index()

    def begin_round(self, number: int) -> None:
        """Round `number` begins, or begins again: what came in it before, or after it, is void."""
        self._round, self._figures = number, CacheFigures()
        with self._changed():
            self._file.execute("delete from entry where round >= ?", (number,))
            self._drop_receivers()
        self._index()

    def know(self, device: int, samples: int, digest: str) -> None:
        """A device says how many samples it has, and which. Raises PacketError if it had others."""
        with self._changed():
            self._file.execute(
                "insert or ignore into device values (?, ?, ?)", (device, samples, digest)
            )
            known = self._file.execute(
                "select samples, digest from device where device = ?", (device,)
            ).fetchone()
        if known != (samples, digest):
            raise PacketError(
                f"{samples} samples ({digest}), but it had {known[0]} ({known[1]}): stop the"
                f" server, let it forget those (`cutlayer cache RUN --forget {device}`), and start"
                " it again"
            )

    def count(self, device: int) -> int | None:
        """How many samples a device has, if it ever said so."""
        with self._usable():
            known = self._file.execute(
                "select samples from device where device = ?", (device,)
            ).fetchone()
        return None if known is None else int(known[0])

    def holds(self, device: int, sample: int) -> bool:
        """Whether a device need not send this sample."""
        return sample in self._where.get(device, {})

    def missing(self, device: int, samples: Sequence[int]) -> tuple[int, ...]:
        """Those that are not held, in their order."""
        return tuple(sample for sample in samples if not self.holds(device, sample))

    def add(self, coded: Coded, rows: Served) -> None:
        """Hold what came, which is `rows`; what is held already stays as it is."""
        device, (step, micro) = coded.device, coded.place
        self._figures = replace(self._figures, misses=self._figures.misses + len(coded.samples))
        if not self.missing(device, coded.samples):
            return
        content, digest = _frozen(coded.receiver)
        samples, shape = _numbers(coded.samples), _numbers(coded.shape)
        with self._changed():
            self._file.execute(
                "insert or ignore into receiver values (?, ?, ?)", (device, digest, content)
            )
            place = (device, self._round, step, micro)
            held = (samples, shape, coded.packet, coded.labels, digest)
            entry = self._file.execute(
                f"insert into entry values (null{', ?' * 9})", (*place, *held)
            ).lastrowid
        assert entry is not None
        self._enter(entry, device, coded.samples)
        self._remember(entry, rows)

    def serve(self, device: int, samples: Sequence[int], came: Served | None) -> Served:
        """A device's micro-batch, of which the samples that are missing, in their order, `came`
        (None: there are none)."""
        if came is None:
            return self.rows(device, samples)
        new = self.missing(device, samples)
        if len(new) == len(samples):
            return came
        held = [sample for sample in samples if sample not in set(new)]
        order = [*new, *held]
        both = joined([came, self.rows(device, held)])
        return in_order(both, [order.index(sample) for sample in samples])

    def hit(self, samples: int) -> None:
        """So many samples were used that were held."""
        self._figures = replace(self._figures, hits=self._figures.hits + samples)

    def rows(self, device: int, samples: Sequence[int]) -> Served:
        """These samples, all of them held, as one mini-batch in this order."""
        places = [self._where[device][sample] for sample in samples]
        # each entry once, whatever fits in memory
        found: dict[int, Served] = {}
        for entry, _ in places:
            if entry not in found:
                found[entry] = self._read(entry)
        return joined([row_of(found[entry], row) for entry, row in places])

    def close_round(self) -> CacheFigures:
        """Keep what fits of what came in the round, and put it on disk: before the checkpoint that
        builds on it."""
        with self._changed():
            evicted = self._evict()
            self._drop_receivers()
        if evicted:
            self._index()
        with self._usable():
            self._file.execute("pragma wal_checkpoint(truncate)").fetchone()
        held = self.held()
        self._figures = replace(
            self._figures,
            evicted=evicted,
            samples=sum(own.samples for own in held),
            held_bytes=sum(own.held_bytes for own in held),
        )
        return self._figures

    def held(self) -> list[HeldOf]:
        """What is held, by device."""
        with self._usable():
            sizes = dict(
                self._file.execute(
                    "select device, sum(size) from"
                    f" (select device, {_ENTRY_BYTES} as size from entry union all"
                    " select device, length(hash) + length(content) from receiver)"
                    " group by device"
                ).fetchall()
            )
        return [HeldOf(n, len(own), sizes[n]) for n, own in sorted(self._where.items()) if own]

    def forget(self, device: int) -> int:
        """Delete all that is held of a device, its bytes too; how many samples that were."""
        count = len(self._where.get(device, {}))
        with self._changed():
            self._file.execute("delete from entry where device = ?", (device,))
            self._file.execute("delete from device where device = ?", (device,))
            self._drop_receivers()
        with self._usable():
            self._file.execute("vacuum")
            self._file.execute("pragma wal_checkpoint(truncate)").fetchone()
        self._index()
        return count

    def close(self) -> None:
        """Let another process have the file."""
        self._file.close()

    def _evict(self) -> int:
        """Delete what does not fit, the oldest being there first; how many samples that are."""
        entries = self._file.execute(
            f"select id, {_ENTRY_BYTES}, length(samples), device, receiver from entry"
            " order by round, step, micro, device"
        ).fetchall()
        sizes = {
            (device, digest): size
            for device, digest, size in self._file.execute(
                "select device, hash, length(hash) + length(content) from receiver"
            )
        }
        total = evicted = 0
        known: set[tuple[int, bytes]] = set()
        for entry, entry_bytes, numbers, device, digest in entries:
            needed = entry_bytes + (0 if (device, digest) in known else sizes[device, digest])
            if total + needed > self._limits.disk_bytes:
                self._file.execute("delete from entry where id = ?", (entry,))
                evicted += numbers // _NUMBER_BYTES
            else:
                total += needed
                known.add((device, digest))
        return evicted

    def _read(self, entry: int) -> Served:
        known = self._decoded.get(entry)
        if known is not None:
            self._decoded.move_to_end(entry)
            return known
        with self._usable():
            device, step, micro, samples, shape, packet, labels, content = self._file.execute(
                "select entry.device, step, micro, samples, shape, packet, labels, content from"
                " entry join receiver on receiver.device = entry.device and hash = receiver"
                " where id = ?",
                (entry,),
            ).fetchone()
            batch, token, width = _read_numbers(shape)
            coded = Coded(
                device,
                (step, micro),
                _read_numbers(samples),
                (batch, token, width),
                packet,
                labels,
                _thawed(content),
            )
            rows = self._decode(coded)
        self._remember(entry, rows)
        return rows

    def _remember(self, entry: int, rows: Served) -> None:
        """Keep what was decoded, and let go of what was used longest ago."""
        self._decoded[entry] = rows
        self._decoded_bytes += rows.held_bytes
        while self._decoded_bytes > self._limits.memory_bytes:
            self._decoded_bytes -= self._decoded.popitem(last=False)[1].held_bytes

    def _drop_receivers(self) -> None:
        self._file.execute(
            "delete from receiver where not exists (select 1 from entry where"
            " entry.device = receiver.device and entry.receiver = hash)"
        )

    def _index(self) -> None:
        """Read anew where each sample is."""
        self._where.clear()
        with self._usable():
            entries = self._file.execute("select id, device, samples from entry order by id")
            found = {entry: (device, samples) for entry, device, samples in entries}
        for entry, (device, samples) in found.items():
            self._enter(entry, device, _read_numbers(samples))
        for entry in self._decoded.keys() - found.keys():
            self._decoded_bytes -= self._decoded.pop(entry).held_bytes

    def _enter(self, entry: int, device: int, samples: Sequence[int]) -> None:
        known = self._where.setdefault(device, {})
        for row, sample in enumerate(samples):
            known.setdefault(sample, (entry, row))

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """One transaction: all of it, or nothing."""
        with self._usable():
            self._file.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._file.execute("rollback")
                raise
            self._file.execute("commit")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """What goes wrong in here, in words."""
        path = self._path or Path(FILE)
        try:
            yield
        except (sqlite3.DatabaseError, PacketError) as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                raise RunError(f"{path} is in use: stop the run that has it first") from error
            if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANT", "SQLITE_IOERR")):
                raise storage_error(path, error) from error
            raise RunError(
                f"the cached activations in {path} cannot be read: {error}; delete the file:"
                " devices send what it held again"
            ) from error
        except OSError as error:
            raise storage_error(path, error) from error


_ENTRY_BYTES = (
    "length(samples) + length(shape) + length(packet) + length(labels) + length(receiver)"
)


def open_cache(
    training: Training, server: ServerSide, directory: Path | None
) -> ActivationCache | None:
    """The cache of a run in its `directory` (None: in memory); None for a scheme that keeps
    nothing. Raises RunError as `ActivationCache`."""
    if not training.scheme.cached:
        return None
    assert server.cache is not None, "what caches has limits"
    codec = for_device(training.codecs.up, server.part.adapted.device)

    def decode(coded: Coded) -> Served:
        decoded = codec.decode(coded.packet, coded.shape, coded.receiver)
        labelled = coded.shape[:2] if training.task == "causal-lm" else coded.shape[:1]
        targets = decode_targets(coded.labels, labelled, decoded.lengths, training.classes)
        return Served(decoded.tensor, decoded.lengths, targets)

    path = None if directory is None else directory / FILE
    return ActivationCache(path, server.cache, decode)


@contextmanager
def opened_cache(
    training: Training, server: ServerSide, directory: Path | None
) -> Iterator[ActivationCache | None]:
    """`open_cache`, for as long as a run goes on."""
    cache = open_cache(training, server, directory)
    with nullcontext() if cache is None else closing(cache):
        yield cache


@contextmanager
def idle_cache(directory: Path) -> Iterator[ActivationCache]:
    """The cache of a run that nobody trains now, to see what it holds and to forget it. Raises
    RunError where there is none, or somebody does."""
    path = directory / FILE
    if not path.is_file():
        raise RunError(
            f"{directory} has no cached activations ({FILE}): a run of scheme sft-cached has"
        )

    def decode(coded: Coded) -> Served:
        raise AssertionError("a run decodes, with its codec")

    with closing(ActivationCache(path, CacheLimits(0, 0), decode)) as cache:
        yield cache


def _numbers(values: Sequence[int]) -> bytes:
    return np.array(values, dtype="<i8").tobytes()


def _read_numbers(data: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(data, dtype="<i8").tolist())


def _frozen(state: CodecState) -> tuple[bytes, bytes]:
    """A receiver's state as bytes, and their hash."""
    tensors = {name: torch.as_tensor(array).cpu().contiguous() for name, array in state.items()}
    content = save(dict(sorted(tensors.items())))
    return content, hashlib.sha256(content).digest()


def _thawed(content: bytes) -> CodecState:
    return {name: tensor.numpy() for name, tensor in load(content).items()}
