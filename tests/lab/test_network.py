"""The commands that make a lab's network."""

from ipaddress import ip_interface, ip_network

from cutlayer.lab.network import LabNetwork, deleting_namespace, in_namespace, payload_filter
from lab.links import link

NETWORK = LabNetwork(41, (link(1e6, 2e6), link(3e6, 4e6)))
SERVER, FIRST, SECOND = NETWORK.namespaces()


def test_a_pair_between_the_server_and_a_device_shaped_both_ways() -> None:
    lines = [" ".join(words) for words in LabNetwork(41, NETWORK.links[:1]).building()]
    up, down = (" ".join(payload_filter(rate).words()) for rate in (1e6, 2e6))
    assert lines == [
        f"ip netns add {SERVER}",
        f"ip -n {SERVER} link set dev lo up",
        f"ip netns add {FIRST}",
        f"ip -n {FIRST} link set dev lo up",
        f"ip link add downlink0 netns {SERVER} type veth peer name uplink netns {FIRST}",
        f"ip -n {SERVER} addr add 10.0.0.1/30 dev downlink0",
        f"ip -n {SERVER} link set dev downlink0 up",
        f"tc -n {SERVER} qdisc add dev downlink0 root {down}",
        f"ip -n {FIRST} addr add 10.0.0.2/30 dev uplink",
        f"ip -n {FIRST} link set dev uplink up",
        f"tc -n {FIRST} qdisc add dev uplink root {up}",
    ]


def test_each_lab_and_each_device_has_names_of_its_own() -> None:
    other = LabNetwork(42, NETWORK.links)
    assert len({SERVER, FIRST, SECOND, *other.namespaces()}) == 6


def test_each_link_is_a_network_of_its_own() -> None:
    """Three hundred of them, in the addresses for private use."""
    network = LabNetwork(1, (link(1e6, 1e6),) * 300)
    hosts = [ip_interface(f"{network.server_host(n)}/30") for n in range(300)]
    assert len({host.network for host in hosts}) == 300
    assert all(host.network.subnet_of(ip_network("10.0.0.0/8")) for host in hosts)  # type: ignore[arg-type]
    assert all(host.ip in host.network.hosts() for host in hosts)


def test_what_goes_before_a_command() -> None:
    assert in_namespace(FIRST) == ("ip", "netns", "exec", FIRST)
    assert deleting_namespace(FIRST) == ("ip", "netns", "del", FIRST)
