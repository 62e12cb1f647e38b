"""A lab's network as the commands that make it and take it away: values, nothing is run here.

One namespace for the server and one for each device; a veth pair from the server's to each of them,
shaped at both ends. Nothing is in the machine's own namespace, so addresses are the same in every
lab, and with the namespaces all is gone. Names have the process id of their lab: two labs do not
get in each other's way.

The channel's rate is for payload, as on the timeline; the kernel's token bucket (tc's tbf) counts
whole Ethernet frames. So the bucket gets more, by what headers take of a long transfer: Ethernet,
IPv4 and TCP with time stamps in each packet, and TLS 1.3 in each record of 16 KiB. The
acknowledgements of the other direction are left out: while one end of a link sends payload, the
other waits.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cutlayer.channel.rates import LinkRates
from cutlayer.units import BITS_PER_BYTE, KIB

Command = tuple[str, ...]

_LAB = "cutlayer-lab"
_NAME = re.compile(rf"{_LAB}-(\d+)-\w+")
# the device's end of its link; the server's have numbers
_DEVICE_END = "uplink"
_PER_BYTE = 256

_MTU_BYTES = 1500
# as the bucket sees a frame: without preamble and checksum
_ETHERNET_BYTES = 14
# IPv4, TCP, TCP's time stamps
_PACKET_BYTES = 20 + 20 + 12
FRAME_BYTES = _MTU_BYTES + _ETHERNET_BYTES
# of a stream of bytes over TCP
WIRE_PER_STREAM = FRAME_BYTES / (_MTU_BYTES - _PACKET_BYTES)
# TLS 1.3's record with its type and tag
_RECORD_BYTES = 5 + 1 + 16
_RECORD_PAYLOAD_BYTES = 16 * KIB
WIRE_PER_PAYLOAD = WIRE_PER_STREAM * (1 + _RECORD_BYTES / _RECORD_PAYLOAD_BYTES)

# a timer of the kernel may be so late without a loss of rate
_LATE_S = 0.5e-3
_QUEUE_S = 1.0
_LEAST_QUEUE_BYTES = 64 * KIB


@dataclass(frozen=True)
class LabNetwork:
    """The network of the lab that process `owner` runs, with a link for each device."""

    owner: int
    links: Sequence[LinkRates]

    @property
    def server(self) -> str:
        """The server's namespace."""
        return lab_name(self.owner, "server")

    def device(self, number: int) -> str:
        """A device's namespace."""
        return lab_name(self.owner, str(number))

    def namespaces(self) -> list[str]:
        """All of them, the server's first."""
        return [self.server, *(self.device(number) for number in range(len(self.links)))]

    def server_host(self, number: int) -> str:
        """The server's address on the link of a device."""
        return _address(number, 1)

    def building(self) -> Iterator[Command]:
        """What makes the network, in this order."""
        for namespace in self.namespaces():
            yield ("ip", "netns", "add", namespace)
            yield ("ip", "-n", namespace, "link", "set", "dev", "lo", "up")
        for number, link in enumerate(self.links):
            yield from self._laying(number, link)

    def _laying(self, number: int, link: LinkRates) -> Iterator[Command]:
        server, device, end = self.server, self.device(number), f"downlink{number}"
        pair = ("type", "veth", "peer", "name", _DEVICE_END, "netns", device)
        yield ("ip", "link", "add", end, "netns", server, *pair)
        yield from _plugging(server, end, _address(number, 1), link.downlink_bit_per_s)
        yield from _plugging(device, _DEVICE_END, _address(number, 2), link.uplink_bit_per_s)


def in_namespace(namespace: str) -> Command:
    """What goes before a command that is to run in a namespace."""
    return ("ip", "netns", "exec", namespace)


def deleting_namespace(namespace: str) -> Command:
    """What takes a namespace away, with its ends of links."""
    return ("ip", "netns", "del", namespace)


def _plugging(namespace: str, end: str, address: str, payload_bit_s: float) -> Iterator[Command]:
    yield ("ip", "-n", namespace, "addr", "add", f"{address}/30", "dev", end)
    yield ("ip", "-n", namespace, "link", "set", "dev", end, "up")
    shaping = payload_filter(payload_bit_s).words()
    yield ("tc", "-n", namespace, "qdisc", "add", "dev", end, "root", *shaping)


def _address(number: int, host: int) -> str:
    """A network of two addresses for each link."""
    return "10.{}.{}.{}".format(*divmod(number, _PER_BYTE), host)


@dataclass(frozen=True)
class TokenBucketFilter:
    """tbf's settings: `limit_bytes` may wait; `burst_bytes` may go at once after a pause."""

    rate_bit_s: int
    burst_bytes: int
    limit_bytes: int

    def words(self) -> tuple[str, ...]:
        """As `tc qdisc add ... root` takes them."""
        rate, burst, limit = self.rate_bit_s, self.burst_bytes, self.limit_bytes
        return ("tbf", "rate", f"{rate}bit", "burst", f"{burst}b", "limit", f"{limit}b")


def payload_filter(payload_bit_s: float) -> TokenBucketFilter:
    """Lets payload through at `payload_bit_s`.

    The burst is one frame, the least that lets any through, and what comes while a timer is late:
    what goes at once after a pause shortens small transfers. Segments that the kernel has not cut
    yet are cut by the bucket. The queue holds a second: TCP fills it and seldom has to send again.
    """
    rate_bit_s = WIRE_PER_PAYLOAD * payload_bit_s
    byte_s = rate_bit_s / BITS_PER_BYTE
    return TokenBucketFilter(
        rate_bit_s=round(rate_bit_s),
        burst_bytes=FRAME_BYTES + math.ceil(_LATE_S * byte_s),
        limit_bytes=max(_LEAST_QUEUE_BYTES, math.ceil(_QUEUE_S * byte_s)),
    )


def lab_name(owner: int, what: str) -> str:
    """The name of something that the lab in process `owner` makes."""
    return f"{_LAB}-{owner}-{what}"


def orphaned_names(names: Iterable[str], alive: Callable[[int], bool]) -> list[str]:
    """Those that labs have made whose process is not `alive`."""
    found = ((name, _NAME.fullmatch(name)) for name in names)
    return [name for name, own in found if own is not None and not alive(int(own[1]))]
