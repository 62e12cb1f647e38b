"""Where a lab runs: what namespaces need, and that they are gone at the end whatever happens."""

import os
import shutil
import subprocess
import sys

import pytest

from cutlayer.lab.environment import (
    NoNamespacesError,
    delete_orphans,
    loopback,
    network_namespaces,
    run_command,
    why_no_namespaces,
)
from cutlayer.lab.network import Command, lab_name, payload_filter
from lab.links import link

LINKS = (link(1e6, 2e6), link(3e6, 4e6))


def which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


LACKING = why_no_namespaces(sys.platform, os.geteuid(), which)
needs_namespaces = pytest.mark.skipif(LACKING is not None, reason=f"no namespaces: {LACKING}")


@pytest.mark.parametrize(
    ("platform", "user", "tools", "reason"),
    [
        ("darwin", 0, ("ip", "tc"), "this is darwin"),
        ("linux", 1000, ("ip", "tc"), "only root"),
        ("linux", 0, ("ip",), "tc of iproute2 not found"),
        ("linux", 0, (), "ip and tc of iproute2 not found"),
    ],
)
def test_what_is_lacking_is_named(
    platform: str, user: int, tools: tuple[str, ...], reason: str
) -> None:
    found = why_no_namespaces(platform, user, lambda tool: tool if tool in tools else None)
    assert found is not None and reason in found


def test_nothing_is_lacking() -> None:
    assert why_no_namespaces("linux", 0, lambda tool: tool) is None


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(NoNamespacesError, match=r"`sh -c .*` failed: no link"):
        run_command(("sh", "-c", "echo no link >&2; exit 1"))
    with pytest.raises(NoNamespacesError, match="no-such-tool"):
        run_command(("no-such-tool",))


def test_on_loopback_the_processes_pace_themselves() -> None:
    environment = loopback(2, "asked for")
    assert environment.title.endswith("asked for")
    assert not environment.shaped
    assert environment.server == () and environment.devices == ((), ())
    assert set(environment.hosts) == {environment.listen} == {"127.0.0.1"}


def test_only_orphans_are_deleted() -> None:
    alive, gone = lab_name(1, "server"), lab_name(2, "server")
    done: list[Command] = []

    def run(words: Command) -> str:
        done.append(words)
        return f"{alive} (id: 0)\n{gone} (id: 1)\nvpn\n" if words[-1] == "list" else ""

    assert delete_orphans(run, {1}.__contains__) == [gone]
    assert done[1:] == [("ip", "netns", "pids", gone), ("ip", "netns", "del", gone)]


@needs_namespaces
def test_a_device_reaches_the_server_over_a_shaped_link() -> None:
    """The bucket is in place with its rate, and a byte comes through."""
    with network_namespaces(LINKS) as environment:
        assert environment.shaped
        for number, rates in enumerate(LINKS):
            shown = subprocess.run(
                [*environment.devices[number], which("tc") or "", "-d", "qdisc", "show"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            # tc rounds to kilobits
            kilobit = payload_filter(rates.uplink_bit_per_s).rate_bit_s // 1000
            assert "tbf" in shown and f"rate {kilobit}Kbit" in shown
            listen = (
                "import socket; s = socket.create_server(('', 5000)); print('ready', flush=True)"
            )
            answer = "c, _ = s.accept(); c.sendall(b'x')"
            server = subprocess.Popen(
                [*environment.server, sys.executable, "-c", f"{listen}; {answer}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert server.stdout is not None
            with server, server.stdout as ready:
                assert ready.readline() == "ready\n"
                dial = f"socket.create_connection(('{environment.hosts[number]}', 5000), 10)"
                subprocess.run(
                    [
                        *environment.devices[number],
                        sys.executable,
                        "-c",
                        f"import socket; assert {dial}.recv(1) == b'x'",
                    ],
                    check=True,
                )


@needs_namespaces
def test_namespaces_are_deleted_with_what_runs_in_them() -> None:
    """After an error, with a process that nobody stopped."""
    sleep = "import time; print('ready', flush=True); time.sleep(600)"
    before = run_command(("ip", "netns", "list"))
    with pytest.raises(KeyboardInterrupt), network_namespaces(LINKS) as environment:
        left = subprocess.Popen(
            [*environment.devices[0], sys.executable, "-c", sleep],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert left.stdout is not None and left.stdout.readline() == "ready\n"
        assert lab_name(os.getpid(), "server") in run_command(("ip", "netns", "list"))
        raise KeyboardInterrupt
    with left, left.stdout:
        assert left.wait() < 0
    assert lab_name(os.getpid(), "") not in run_command(("ip", "netns", "list"))
    assert lab_name(os.getpid(), "") not in before
