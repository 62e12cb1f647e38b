"""Adapter rows over a link, whole or as what changed, and what the two ends remember of them.

Without an adapter codec every row goes whole, as float32. With one, the first that a device gets is
whole (its keyframe, coded without loss), and from then on a packet holds a change:

* down, from what devices have of the server's row, which is what they began the last round with.
  What a packet loses is in the next one, since the server's own row does not lose it.
* up, from what the device began the round with, and with what its last packet lost, which the
  device remembers. The server adds it to its own row, not to the one that devices had.

Where devices keep their own adapters the server has a row of each, and what comes up is how far the
device's is from that.

Devices of several ranks hear the server's row in segments, components of the lowest rank first,
each device as many as it has: so every value is on the air once. What a device sends is of its own
rank.

Source: error feedback both ways, H. Tang et al., "DoubleSqueeze", arXiv:1905.05957.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cutlayer.codec.adapters import AdapterCodec, AdapterCodecs, decode_row, encode_row
from cutlayer.codec.codec import EMPTY, Segments, Sent
from cutlayer.codec.packet import packet_bytes, read_packet
from cutlayer.codec.raw import RawCodec
from cutlayer.errors import PacketError
from cutlayer.model.lora import RowLayout
from cutlayer.model.ranks import Components, segments
from cutlayer.training.state import AdapterState

_FLOAT_BYTES = 4
_RAW = RawCodec()


def pack_adapter(row: Float[Tensor, " parameter"]) -> bytes:
    """The packet of an adapter row: plain float32, bit for bit."""
    return _RAW.encode(row.detach().cpu().numpy(), EMPTY, np.random.default_rng(0)).packet


def unpack_adapter(packet: bytes, parameters: int) -> Float[Tensor, " parameter"]:
    """The row of `pack_adapter`, on the host. Raises PacketError: not a packet of so many finite
    values."""
    return torch.from_numpy(_RAW.decode(packet, (parameters,), EMPTY).tensor)


@dataclass(frozen=True, eq=False)
class CodedRow:
    """A packet, and what its receiver makes of it: a row, or a change of one."""

    packet: bytes
    received: Float32[Tensor, " parameter"]


@final
@dataclass(frozen=True)
class RowCodec:
    """The packets of one side's rows, which have this layout. Rows are the host's."""

    codec: AdapterCodecs | None
    layout: RowLayout

    def encode(self, change: Float32[Tensor, " parameter"]) -> CodedRow:
        """A change that goes up. Raises PacketError: values that are not finite."""
        assert self.codec is not None, "without a codec rows go whole"
        return self._coded(self.codec.up, change)

    def _coded(self, codec: AdapterCodec, change: Float32[Tensor, " parameter"]) -> CodedRow:
        packet = codec.encode(change.numpy(), self._shapes)
        # the receiver's own arithmetic, so that both ends know the same
        return CodedRow(packet, torch.from_numpy(codec.decode(packet, self._shapes)))

    @property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(slot.shape for slot in self.layout.slots)

    def whole(self, row: Float[Tensor, " parameter"]) -> bytes:
        """The packet of a row, to the bit, whatever its receiver holds: with a codec coded, unless
        that is longer. Raises PacketError: values that are not finite, of what is coded."""
        plain = pack_adapter(row)
        if self.codec is None or not self.layout.parameters:
            return plain
        coded = encode_row(on_host(row).numpy(), self._shapes, self.codec.kernels)
        return min(plain, coded, key=len)

    def opening(
        self,
        row: Float[Tensor, " parameter"],
        held: Float32[Tensor, " parameter"] | None,
    ) -> CodedRow:
        """The packet that brings devices from the row that they hold (None: none) to the server's,
        and the row that they hold then."""
        if self.codec is None or held is None:
            packet = self.whole(row)
            return CodedRow(packet, self.decode(packet, None))
        coded = self._coded(self.codec.down, on_host(row) - held)
        return CodedRow(coded.packet, held + coded.received)

    def decode(
        self, packet: bytes, known: Float32[Tensor, " parameter"] | None
    ) -> Float32[Tensor, " parameter"]:
        """The row after `packet`, of whoever knows that row (None: none); whole rows need none.

        Raises PacketError: no such packet, or a row that is not finite.
        """
        kind = read_packet(packet).kind
        if self.codec is None or kind == RawCodec.name:
            return unpack_adapter(packet, self.layout.parameters)
        if kind == "row":
            return torch.from_numpy(decode_row(packet, self._shapes, self.codec.kernels))
        if known is None:
            raise PacketError("an adapter's change, and no adapter here that it is the change of")
        # how many bits were asked for, a packet's reader need not know
        row = known + torch.from_numpy(self.codec.up.decode(packet, self._shapes))
        if not row.isfinite().all():
            raise PacketError("an adapter's change that makes it NaN or infinite")
        return row

    def sent(self, packet: bytes) -> Sent:
        """What a packet costs, and what the row would have cost whole."""
        values = self.layout.parameters
        whole = packet_bytes((values,), Segments.full((1, 1, values)), (_FLOAT_BYTES * values,))
        return Sent(len(packet), int(whole))


def on_host(row: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The values alone, on the host."""
    return row.detach().cpu()


@dataclass(frozen=True, eq=False)
class SentRow:
    """What a device remembers of what it sends: the row that its changes are from, and what its
    last packet lost (None: nothing)."""

    base: Float32[Tensor, " parameter"]
    lost: Float32[Tensor, " parameter"] | None = None

    def wanted(self, row: Float[Tensor, " parameter"]) -> Float32[Tensor, " parameter"]:
        """The change that the server should hear of."""
        change = on_host(row) - self.base
        return change if self.lost is None else change + self.lost

    def after(
        self, row: Float[Tensor, " parameter"], coded: CodedRow, *, merges: bool
    ) -> "SentRow":
        """Once the change of `row` is sent. What is merged begins anew with the next round's row,
        and only what was lost is remembered."""
        if merges:
            return SentRow(self.base, self.wanted(row) - coded.received)
        return SentRow(self.base + coded.received)

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a device's own state."""
        # a copy: others may hold it too, which a file of tensors does not take
        return {"base": self.base.clone(), **({} if self.lost is None else {"lost": self.lost})}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> "SentRow | None":
        """The inverse of `tensors`."""
        return SentRow(tensors["base"], tensors.get("lost")) if "base" in tensors else None


# what the server remembers of what devices hold; and of each device what its last packet lost, and
# the rows that devices go on from where these are not the server's
HELD = "held"
_LOST = "lost."
_OWN = "own"


def part_of_side(state: AdapterState, places: slice, devices: Sequence[int]) -> AdapterState:
    """What a side's state has of `devices`, which are at these places of all."""
    among = {f"{_LOST}{device}" for device in devices}
    coded = {
        name: value[places] if name == _OWN else value
        for name, value in state.coded.items()
        if name in among or not name.startswith(_LOST)
    }
    optimizer = {name: value[places] for name, value in state.optimizer.items()}
    return AdapterState(state.row if state.row.ndim == 1 else state.row[places], optimizer, coded)


def joined_sides(states: Sequence[AdapterState]) -> AdapterState:
    """The inverse, of all devices in their order. Of a row that is not one of several, the
    first's. Takes the optimiser states out of those that it is given: both together would be most
    of a population's memory."""
    first = states[0]
    if len(states) == 1:
        return first
    coded = {name: value for state in states for name, value in state.coded.items()}
    if _OWN in coded:
        coded[_OWN] = torch.cat([state.coded[_OWN] for state in states])
    optimizer = {
        name: _joined([state.optimizer.pop(name) for state in states])
        for name in tuple(first.optimizer)
    }
    row = first.row if first.row.ndim == 1 else torch.cat([state.row for state in states])
    return AdapterState(row, optimizer, coded)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """These one after another: what they are slices of, where that is this, and else a copy."""
    whole, at = parts[0]._base, 0
    for part in parts:
        if whole is None or part._base is not whole or part.data_ptr() != whole[at:].data_ptr():
            return torch.cat(list(parts))
        at += len(part)
    return whole if whole is not None and len(whole) == at else torch.cat(list(parts))


@dataclass(frozen=True, eq=False)
class HeardRow:
    """What `devices` have of the server's row once they have heard a packet, and what it cost."""

    devices: tuple[int, ...]
    row: Float32[Tensor, " parameter"]
    sent: Sent


@final
class RowExchange:
    """Both ends of the links of one side's rows during a round of `devices`, in one process.

    `state`: of the side as the round begins. `merges`: whether the next round begins with a row of
    the server's; else devices go on from their own. `ranks`: of each device's adapters (None: all
    are the layout's).
    """

    def __init__(
        self,
        rows: RowCodec,
        state: AdapterState,
        devices: Sequence[int],
        *,
        merges: bool,
        ranks: Sequence[int] | None = None,
    ) -> None:
        self._rows = rows
        self._devices = tuple(devices)
        self.merges = merges
        self._ranks = ranks
        self._own = {
            rank: Components(rows.layout, 0, rank) for rank in set(() if ranks is None else ranks)
        }
        self._state = state
        self._coded = dict(state.coded)
        # of each device: what it remembers, and the server's row that its change is added to
        self._sent: dict[int, SentRow] = {}
        self._known: dict[int, Tensor] = {}
        if rows.codec is not None and state.row.ndim == 2:
            for place, device in enumerate(devices):
                self._known[device] = self._take(device, on_host(state.row[place]))
                self._sent[device] = SentRow(self._known[device])

    @property
    def begins_with(self) -> Tensor:
        """The rows that devices have as the round begins, before anything is sent."""
        return self._coded.get(_OWN, self._state.row)

    def down(
        self,
        row: Float[Tensor, " parameter"],
        to: Sequence[int],
        link: str = "",
        holders: Sequence[int] | None = None,
    ) -> list[HeardRow]:
        """The server's row, sent to some devices at once over the link of that name: packet by
        packet what has come to whom. `holders`: those of all that hold the last one (None: all do);
        to the others it goes whole."""
        if holders is not None:
            heard = self._to_some(row, to, HELD + link, holders)
        elif self._ranks is None:
            received, sent = self._opening(self._rows, row, HELD + link)
            heard = [HeardRow(tuple(to), received, sent)]
        else:
            heard = list(self._in_segments(row, to, self._ranks, link))
        if self._rows.codec is not None:
            known = on_host(row).clone()  # the bank's own row steps
            for each in heard:
                for device in each.devices:
                    base, lost = each.row, self._coded.get(f"{_LOST}{device}")
                    self._known[device] = self._take(device, known)
                    self._sent[device] = SentRow(self._take(device, base), lost)
        return heard

    def _to_some(
        self, row: Float[Tensor, " parameter"], to: Sequence[int], name: str, holders: Sequence[int]
    ) -> list[HeardRow]:
        """As a change to those who hold the last one, whole to the others."""
        know = tuple(n for n in to if n in holders and name in self._coded)
        others = tuple(n for n in to if n not in know)
        if not know:
            self._coded.pop(name, None)
        received, sent = self._opening(self._rows, row, name)
        if not know or not others:
            return [HeardRow(tuple(to), received, sent)]
        whole = self._rows.sent(self._rows.whole(received))
        return [HeardRow(others, received, whole), HeardRow(know, received, sent)]

    def _in_segments(
        self, row: Float[Tensor, " parameter"], to: Sequence[int], ranks: Sequence[int], link: str
    ) -> Iterator[HeardRow]:
        """Each segment that one of the devices has."""
        heard = torch.zeros(self._rows.layout.parameters)
        for part in segments(self._rows.layout, ranks):
            devices = tuple(device for device in to if ranks[device] >= part.end)
            rows = RowCodec(self._rows.codec, part.own)
            # also for nobody here: other cohorts hear it, and all remember the same
            own, sent = self._opening(rows, part.take(row), f"{HELD}.{part.end}{link}")
            heard = part.put(own, heard)
            if devices:
                yield HeardRow(devices, heard, sent)

    def _opening(self, rows: RowCodec, row: Tensor, held: str) -> tuple[Tensor, Sent]:
        coded = rows.opening(row, self._coded.get(held))
        if rows.codec is not None:
            self._coded[held] = coded.received
        return coded.received, rows.sent(coded.packet)

    def up(
        self, device: int, row: Float[Tensor, " parameter"]
    ) -> tuple[Float32[Tensor, " parameter"], Sent]:
        """A device's row, as the server knows it then, and what it costs."""
        rows, row = self._rows, self._take(device, row)
        if self._ranks is not None:
            rows = RowCodec(rows.codec, self._own[self._ranks[device]].own)
        if rows.codec is None:
            coded = rows.opening(row, None)
            return self._put(device, coded.received), rows.sent(coded.packet)
        sent = self._sent[device]
        coded = rows.encode(sent.wanted(row))
        self._known[device] = self._known[device] + coded.received
        self._sent[device] = sent = sent.after(row, coded, merges=self.merges)
        if sent.lost is not None:
            self._coded[f"{_LOST}{device}"] = sent.lost
        return self._put(device, self._known[device]), rows.sent(coded.packet)

    def _take(self, device: int, row: Tensor) -> Tensor:
        """What the device has of a row, as it lies in a row of its own rank."""
        return row if self._ranks is None else self._own[self._ranks[device]].take(row)

    def _put(self, device: int, row: Tensor) -> Tensor:
        """The inverse of `_take`, zero where the device has nothing."""
        return row if self._ranks is None else self._own[self._ranks[device]].put(row)

    def kept(self, rows: Float[Tensor, "device parameter"]) -> AdapterState:
        """The side after a round in which devices came to `rows`, which they keep."""
        if self._rows.codec is None:
            return AdapterState(rows.clone(), {})
        known = torch.stack([self._put(device, self._known[device]) for device in self._devices])
        return AdapterState(known, {}, {**self._coded, _OWN: on_host(rows).clone()})

    @property
    def frozen(self) -> AdapterState:
        """The side after a round in which it was not trained. Nothing is sent of it any more, so
        the server's row is that which devices have."""
        if _OWN in self._coded:
            return AdapterState(self._state.row, {}, {_OWN: self._coded[_OWN]})
        if self._ranks is None:
            return AdapterState(self._coded.get(HELD, self._state.row), {})
        row = self._state.row
        for part in segments(self._rows.layout, self._ranks):
            held = self._coded.get(f"{HELD}.{part.end}")
            row = row if held is None else part.put(held, row)
        return AdapterState(row, {})

    @property
    def coded(self) -> dict[str, Tensor]:
        """What the ends remember after the round."""
        return self._coded
