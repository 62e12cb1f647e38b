"""What a server puts up with from strangers and from devices.

Knows numbers; `admission.py`, `gate.py` and `grpc_server.py` keep to them.
"""

from dataclasses import dataclass

from cutlayer.units import MIB


@dataclass(frozen=True)
class Limits:
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
    revocation_s: how often the register of devices is looked at for certificates revoked.
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
