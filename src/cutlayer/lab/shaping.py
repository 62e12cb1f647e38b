"""A rate of the channel made into what the kernel's token bucket (tc's tbf) is told.

The channel's rate is for payload, as on the timeline; the bucket counts whole Ethernet frames. So
the bucket gets more, by what headers take of a long transfer: Ethernet, IPv4 and TCP with time
stamps in each packet, HTTP/2, gRPC and TLS 1.3 in each record of 16 KiB. The acknowledgements of
the other direction are left out: while one end of a link sends payload, the other waits.

Knows numbers; no device and no command.
"""

import math
from dataclasses import dataclass

from cutlayer.units import BITS_PER_BYTE, KIB

_MTU_BYTES = 1500
# as the bucket sees a frame: without preamble and checksum
_ETHERNET_BYTES = 14
# IPv4, TCP, TCP's time stamps
_PACKET_BYTES = 20 + 20 + 12
FRAME_BYTES = _MTU_BYTES + _ETHERNET_BYTES
# of a stream of bytes over TCP
WIRE_PER_STREAM = FRAME_BYTES / (_MTU_BYTES - _PACKET_BYTES)
# HTTP/2's frame, gRPC's message, TLS 1.3's record with its type and tag
_RECORD_BYTES = 9 + 5 + 5 + 1 + 16
_RECORD_PAYLOAD_BYTES = 16 * KIB
WIRE_PER_PAYLOAD = WIRE_PER_STREAM * (1 + _RECORD_BYTES / _RECORD_PAYLOAD_BYTES)

# a timer of the kernel may be so late without a loss of rate
_LATE_S = 0.5e-3
_QUEUE_S = 1.0
_LEAST_QUEUE_BYTES = 64 * KIB


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
