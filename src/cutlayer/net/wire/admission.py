"""Who may connect at all, and what a server puts up with from strangers and devices.

Knows numbers; `listener.py`, `grpc_server.py` and `driver.py` keep to them.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from cutlayer.net.wire.link import TokenBucket, full_bucket
from cutlayer.units import MIB

# what a device that reads may leave unread: an answer, its repetition, the next round's opening
OUTBOX_FRAMES = 4


@dataclass(frozen=True)
class ConnectionLimits:
    """The defaults let 200 devices behind one address come at once, on 1024 file descriptors.

    frame_bytes: the largest frame of a device. Its link holds two at most that nobody received.
    connections: in all, devices' and others'. Each takes three file descriptors.
    unproven: connections that have not shown a certificate or a token yet, in all. Where these two
        leave no room, the address with the most unproven ones gives way to one with fewer.
    unproven_by_address: the same, of one address (of IPv6, one network of 64 bits).
    arrivals_burst, arrivals_per_s: new connections of one address, at once and in the long run.
    sessions_burst, sessions_per_s: new links of one device, at once and in the long run.
    proof_s: how long a connection may stay unproven.
    keepalive_s: after so long without a byte the other end is asked whether it is there, and has
        as long again to answer.
    revocation_s: how often the device registry is looked at for certificates revoked.
    """

    frame_bytes: int = 64 * MIB
    connections: int = 280
    unproven: int = 240
    unproven_by_address: int = 220
    arrivals_burst: int = 400
    arrivals_per_s: float = 5.0
    sessions_burst: int = 40
    sessions_per_s: float = 1.0
    proof_s: float = 10.0
    keepalive_s: float = 20.0
    revocation_s: float = 1.0


# Who may connect at all: how many, and how often from one address.
#
# Knows counts and times, which are passed in; nothing of sockets.


# addresses that are remembered before those that are quiet again are forgotten
_REMEMBERED = 4096
_IPV6_NETWORK_BITS = 64


class Admission:
    """The connections that are there, by network; `arrive` decides about one more.

    Strangers do not fill the places that devices come back to: where there is no room, one of the
    network with the most connections that are unproven gives way to a network with fewer.

    evict: ends an unproven connection of a network, and `leave`s it at once.
    """

    def __init__(
        self, limits: ConnectionLimits, evict: Callable[[str], None] | None = None
    ) -> None:
        self._limits = limits
        self._evict = evict
        self._buckets: dict[str, TokenBucket] = {}
        self._unproven: dict[str, int] = {}
        self._connections = 0

    @property
    def remembered(self) -> int:
        """How many networks it keeps a count of arrivals for."""
        return len(self._buckets)

    def arrive(self, address: str, now_s: float) -> str | None:
        """Count a connection in, unproven; or say why it may not stay."""
        network = network_of(address)
        reason = self._flood(network, now_s)
        if reason is None:
            self._make_room(network)
            reason = self._full(network)
        if reason is None:
            self._connections += 1
            self._unproven[network] = self._unproven.get(network, 0) + 1
        return reason

    def prove(self, address: str) -> None:
        """One of this address's connections has shown who it is."""
        network = network_of(address)
        self._unproven[network] -= 1
        if not self._unproven[network]:
            del self._unproven[network]

    def leave(self, address: str, proven: bool) -> None:
        """A connection that `arrive` counted in has ended."""
        self._connections -= 1
        if not proven:
            self.prove(address)

    def _flood(self, network: str, now_s: float) -> str | None:
        limits = self._limits
        if network not in self._buckets and len(self._buckets) >= _REMEMBERED:
            self._forget_quiet(now_s)
        full = full_bucket(limits.arrivals_per_s, limits.arrivals_burst, now_s)
        bucket = self._buckets.get(network, full).at(now_s)
        if bucket.level < 1.0:
            self._buckets[network] = bucket
            return f"more than {limits.arrivals_burst} connections in a row from one address"
        self._buckets[network] = bucket.take(1.0)
        return None

    def _full(self, network: str) -> str | None:
        limits = self._limits
        if self._connections >= limits.connections:
            return f"{self._connections} connections already"
        if sum(self._unproven.values()) >= limits.unproven:
            return f"{limits.unproven} unauthenticated connections already"
        if self._unproven.get(network, 0) >= limits.unproven_by_address:
            return f"{limits.unproven_by_address} of its connections are unauthenticated"
        return None

    def _make_room(self, network: str) -> None:
        """End one connection, if that is what it takes and is fair."""
        own = self._unproven.get(network, 0)
        if self._evict is None or own >= self._limits.unproven_by_address:
            return
        loudest = max(self._unproven, key=self._unproven.__getitem__, default=network)
        # it still has as many as this one then, or more: two networks do not take turns for ever
        if self._unproven.get(loudest, 0) >= own + 2 and self._full(network) is not None:
            self._evict(loudest)

    def _forget_quiet(self, now_s: float) -> None:
        """Of all whose bucket is full again nothing is lost; else the oldest half goes."""
        buckets = {network: bucket.at(now_s) for network, bucket in self._buckets.items()}
        loud = {net: bucket for net, bucket in buckets.items() if bucket.level < bucket.burst}
        newest = list(loud.items())[-_REMEMBERED // 2 :]
        self._buckets = dict(newest)


def network_of(address: str) -> str:
    """What counts as one address: IPv4's own, of IPv6 the network of 64 bits that one host has."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, _IPV6_NETWORK_BITS), strict=False))
