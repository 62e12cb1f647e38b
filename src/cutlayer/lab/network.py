"""A lab's network as the commands that make it and take it away: values, nothing is run here.

One namespace for the server and one for each device; a veth pair from the server's to each of
them, shaped at both ends. Nothing is in the machine's own namespace, so addresses are the same in
every lab, and with the namespaces all is gone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cutlayer.channel.rates import LinkRates
from cutlayer.lab.names import lab_name
from cutlayer.lab.shaping import payload_filter

Words = tuple[str, ...]

# the device's end of its link; the server's have numbers
_DEVICE_END = "uplink"
_PER_BYTE = 256


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

    def building(self) -> Iterator[Words]:
        """What makes the network, in this order."""
        for namespace in self.namespaces():
            yield ("ip", "netns", "add", namespace)
            yield ("ip", "-n", namespace, "link", "set", "dev", "lo", "up")
        for number, link in enumerate(self.links):
            yield from self._laying(number, link)

    def _laying(self, number: int, link: LinkRates) -> Iterator[Words]:
        server, device, end = self.server, self.device(number), f"downlink{number}"
        pair = ("type", "veth", "peer", "name", _DEVICE_END, "netns", device)
        yield ("ip", "link", "add", end, "netns", server, *pair)
        yield from _plugging(server, end, _address(number, 1), link.downlink_bit_per_s)
        yield from _plugging(device, _DEVICE_END, _address(number, 2), link.uplink_bit_per_s)


def inside(namespace: str) -> Words:
    """What goes before a command that is to run in a namespace."""
    return ("ip", "netns", "exec", namespace)


def deleting(namespace: str) -> Words:
    """What takes a namespace away, with its ends of links."""
    return ("ip", "netns", "del", namespace)


def _plugging(namespace: str, end: str, address: str, payload_bit_s: float) -> Iterator[Words]:
    yield ("ip", "-n", namespace, "addr", "add", f"{address}/30", "dev", end)
    yield ("ip", "-n", namespace, "link", "set", "dev", end, "up")
    shaping = payload_filter(payload_bit_s).words()
    yield ("tc", "-n", namespace, "qdisc", "add", "dev", end, "root", *shaping)


def _address(number: int, host: int) -> str:
    """A network of two addresses for each link."""
    return "10.{}.{}.{}".format(*divmod(number, _PER_BYTE), host)
