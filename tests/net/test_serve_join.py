"""`cutlayer serve` and `cutlayer join` over TLS on loopback: the trainer's adapter, whatever is
killed on the way."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import plugin
import pytest
import tiny
from PIL import Image

from cutlayer.config.choices import NoCodec
from cutlayer.config.schema import Config, TwoTimescalePlanner
from cutlayer.config.section import PluginSection
from cutlayer.config.training import EvaluationSection
from cutlayer.errors import ConfigError, DataError, RunError
from cutlayer.files import alone
from cutlayer.jobs.join import Joining
from cutlayer.jobs.network import check_net, open_net
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.serve import ListenAddresses, Service, resume
from cutlayer.jobs.train import new_directory, start
from cutlayer.net.identity.run_keys import RunKeys
from cutlayer.net.wire.frames import Wire, device_limits
from cutlayer.net.wire.link import ConnectionLimits, Link, LinkClosed, in_place
from cutlayer.net.wire.messages import Ask, Message, Refused, Welcome
from cutlayer.net.wire.tls_link import connect
from cutlayer.report.run_reader import read_record
from cutlayer.training.records import Observer, RoundRecord, Silent
from cutlayer.training.run_directory import RunDirectory
from net.devices import (
    Process,
    joining,
    names,
    own_images,
    take_part,
    write_config,
)
from net.ends import PATIENCE_S, enrolled, run_keys, serving
from net.harness import Run
from net.recompute import Presence, absent, final
from net.served import begun, payloads, same

DEVICES = 2
SERVE = ("serve", "--keys", "keys", "--operators", "127.0.0.1:0")


@pytest.fixture(scope="module")
def config(vision: tuple[Path, Path]) -> Config:
    return tiny.config(
        *vision,
        codec="paper",
        adapter_codec="best",
        devices={"count": DEVICES},
        training={"rounds": 3, "local_steps": 2, "batch_size": 4},
        net={
            "devices": names(DEVICES),
            "farewell_s": 5.0,
            "uplink_bit_s": 1e9,
            "downlink_bit_s": 1e9,
        },
    )


@pytest.fixture(scope="module")
def trained(config: Config, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """What `cutlayer train` makes of the configuration, a device at a time."""
    alone = config.model_copy(update={"server": config.server.model_copy(update={"group": 1})})
    return start(alone, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def keys(tmp_path: Path) -> RunKeys:
    return run_keys(tmp_path / "keys")


@pytest.fixture
def data(config: Config, tmp_path: Path) -> list[Path]:
    """Each device's samples in a folder of its own."""
    prepared = prepare(config).prepared
    return [
        own_images(
            tmp_path / f"data-{n}", prepared.data.train, part, tuple(prepared.data.class_names)
        )
        for n, part in enumerate(prepared.parts)
    ]


def final_accuracy(directory: Path) -> float:
    return float(json.loads((directory / "summary.json").read_text())["accuracy_final"])


def played(
    config: Config, keys: RunKeys, data: list[Path], tmp_path: Path, model: Path | None = None
) -> Service:
    """The service of a run that has ended, with its devices in this process, too."""
    directory = new_directory(config, tmp_path)
    service = Service(
        open_net(prepare(config), directory, Silent(), in_place), keys, ("127.0.0.1", 0)
    )

    async def play() -> bool:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(service.run(asyncio.Event(), port.set_result))
        joined = [joining(tmp_path, keys, n, await port, data[n]) for n in range(DEVICES)]
        await asyncio.gather(*(take_part(replace(each, model=model)) for each in joined))
        return await serving

    assert asyncio.run(play())
    service.conclude()
    return service


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]


def test_a_run_that_stops_early_does_so_over_a_network(
    config: Config, keys: RunKeys, tmp_path: Path
) -> None:
    """Evaluated now and then, on a validation split of the server's: as the trainer decides."""
    rarely = config.model_copy(
        update={
            "training": config.training.model_copy(update={"rounds": 9}),
            "optimizer": config.optimizer.model_copy(update={"learning_rate": 1e-9}),
            "evaluation": EvaluationSection(
                every=2,
                samples=12,
                validation_fraction=0.25,
                patience=2,
                figures=("macro-f1", "devices"),
            ),
            "codec": NoCodec(),
        }
    )
    alone = rarely.model_copy(update={"server": config.server.model_copy(update={"group": 1})})
    trained = start(alone, tmp_path / "trained")
    prepared = prepare(rarely).prepared
    data = [
        own_images(
            tmp_path / f"data-{n}", prepared.data.train, part, tuple(prepared.data.class_names)
        )
        for n, part in enumerate(prepared.parts)
    ]
    service = played(rarely, keys, data, tmp_path)
    assert service.status().finished and service.status().round == 4
    (directory,) = map(RunDirectory, tmp_path.glob("*-001"))
    same(directory.path, trained.path)
    kept = ("round", "accuracy", "eval_loss", "train_loss", "macro_f1", "device_scores")
    lines = [
        [{key: line[key] for key in kept if key in line} for line in _records(path)]
        for path in (directory.path, trained.path)
    ]
    assert lines[0] == lines[1]
    assert [line["round"] for line in lines[0] if "accuracy" in line] == [0, 1, 2, 4]
    ours, theirs = (read_record(path).summary for path in (directory.path, trained.path))
    assert [line["round"] for line in lines[0] if len(line) == len(kept)] == [1, 2, 4]
    details = [(path / "evaluation.json").read_bytes() for path in (directory.path, trained.path)]
    assert details[0] == details[1]
    assert ours.stopped_early == theirs.stopped_early is not None
    assert ours.test_scores == theirs.test_scores is not None
    assert (ours.evaluated_on, ours.evaluated_samples) == ("validation", 12)


def test_a_run_of_joined_devices_is_the_trainers(
    config: Config, trained: RunDirectory, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    service = played(config, keys, data, tmp_path)
    (directory,) = map(RunDirectory, tmp_path.glob("*-001"))
    same(directory.path, trained.path)
    assert payloads(directory.path) == payloads(trained.path)
    summary = json.loads((directory.path / "summary.json").read_text())
    assert (
        summary["accuracy_final"]
        == json.loads((trained.path / "summary.json").read_text())["accuracy_final"]
    )
    status = service.status()
    assert status.finished and status.round == status.rounds == 3
    assert tuple(device.name for device in status.devices) == names(DEVICES)
    assert all(device.away_s is not None for device in status.devices)
    assert status.last is not None and status.last.accuracy == summary["accuracy_final"]
    assert status.process.failure is None and status.process.refused_connections == 0
    assert status.run == directory.path.name and " on " in status.title
    # each device fetched its part, whole, once
    first = json.loads((directory.path / "rounds.jsonl").read_text().splitlines()[1])
    simulated = json.loads((trained.path / "rounds.jsonl").read_text().splitlines()[1])
    size = simulated["bytes_by_payload"]["weights"]
    assert first["bytes_by_payload"]["weights"] == DEVICES * size
    # what was measured reads as what is simulated does
    run, simulated = read_record(directory.path), read_record(trained.path)
    assert run.summary.clock == "measured" and simulated.summary.clock == "virtual"
    assert run.summary.samples_per_device == simulated.summary.samples_per_device
    assert (directory.path / "report.html").exists()
    # the model and the adapters went to each device by itself
    own_up = run.summary.uncompressed_uplink_bytes
    assert own_up == simulated.summary.uncompressed_uplink_bytes
    for record in run.trained:
        assert "unobserved" not in record.delay_by_phase_s
        assert record.delay_by_phase_s["server_compute"] > 0
        assert record.delay_s == max(record.device_delay_s)
    kinds = {step.phase for step in run.last_round_steps}
    assert {"device_forward", "activation_up", "gradient_down", "adapter_up"} <= kinds


def test_devices_that_have_the_model_fetch_none_of_it(
    config: Config,
    vision: tuple[Path, Path],
    trained: RunDirectory,
    keys: RunKeys,
    data: list[Path],
    tmp_path: Path,
) -> None:
    service = played(config, keys, data, tmp_path, model=vision[0])
    (directory,) = tmp_path.glob("*-001")
    same(directory, trained.path)
    sent = _records(directory)[1]["bytes_by_payload"]["weights"]
    (terms, *_) = service._net.plan.terms
    assert sent == DEVICES * terms.manifest_bytes


def test_mini_batches_share_passes_where_the_configuration_says_so(
    config: Config, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    """Each device waits for the others that are here; the page says how many share a pass."""
    server = config.server.model_copy(update={"batch": "arrivals", "coalesce_ms": 60_000.0})
    service = played(config.model_copy(update={"server": server}), keys, data, tmp_path)
    status = service.status()
    assert status.finished
    assert sum(int(size) * count for size, count in status.passes.items()) == 12
    # who is first does not wait in the first round for one that has not joined yet
    assert status.passes[str(DEVICES)] >= 4


def test_shares_follow_what_was_measured(
    config: Config, trained: RunDirectory, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    """Whatever they are, they change when bytes come, and not which."""
    planner = TwoTimescalePlanner()
    service = played(config.model_copy(update={"planner": planner}), keys, data, tmp_path)
    (directory,) = tmp_path.glob("*-001")
    same(directory, trained.path)
    shares = [json.loads(line).get("shares") for line in _lines(directory / "rounds.jsonl")[1:]]
    assert shares
    assert all(sum(each) == pytest.approx(1.0) for each in shares)
    # the first are of what the cost model expects, the next of what was measured
    assert shares[1] != shares[0]
    assert service.status().finished


def test_shares_that_nothing_holds_devices_to_are_not_planned(config: Config) -> None:
    unpaced = config.model_copy(
        update={
            "planner": TwoTimescalePlanner(),
            "net": config.net.model_copy(update={"downlink_bit_s": None}),
        }
    )
    with pytest.raises(ConfigError, match=r"set net\.uplink_bit_s and net\.downlink_bit_s"):
        check_net(prepare(unpaced))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


async def _serve(folder: Path, *words: str) -> tuple[Process, int]:
    server = Process(folder, "server", *SERVE, *words)
    return server, int((await server.says(r"listening on port (\d+)"))[1])


@pytest.mark.slow("a server killed and started again")
@pytest.mark.promise
def test_a_server_that_was_killed_goes_on(
    config: Config, trained: RunDirectory, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    """SIGKILL within a round, `--resume`."""
    path = write_config(tmp_path / "config.yaml", config)

    async def play() -> None:
        server, port = await _serve(tmp_path, str(path), "--listen", "127.0.0.1:0")
        devices = [
            asyncio.create_task(take_part(joining(tmp_path, keys, n, port, data[n])))
            for n in range(DEVICES)
        ]
        run = tmp_path / "runs"
        while not any(run.glob("*/round-000002.journal")):
            await asyncio.sleep(0.005)
        server.kill()
        (directory,) = run.iterdir()
        again = ("--resume", str(directory), "--listen", f"127.0.0.1:{port}")
        server = Process(tmp_path, "again", *SERVE, *again)
        await asyncio.gather(*devices)
        assert await server.ends() == 0, server.text()

    asyncio.run(play())
    (directory,) = (tmp_path / "runs").iterdir()
    same(directory, trained.path)


@pytest.mark.slow("processes of server and device, killed and started again")
@pytest.mark.promise
def test_a_device_that_was_killed_comes_back(
    config: Config, trained: RunDirectory, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    """From its token to the end, with a SIGKILL between; and the server stops once on SIGTERM."""
    path = write_config(tmp_path / "config.yaml", config)

    def device(port: int, *words: str) -> Process:
        own = ("--data", str(data[0]), "--identity", "pi-0", "--threads", "1", *words)
        return Process(tmp_path, "device", "join", f"127.0.0.1:{port}", *own)

    async def play() -> None:
        server, port = await _serve(tmp_path, str(path), "--listen", "127.0.0.1:0")
        token = keys.invite("pi-0", 600.0, time.time()).text()
        first = device(port, "--token", token)
        other = asyncio.create_task(take_part(joining(tmp_path, keys, 1, port, data[1])))
        run = tmp_path / "runs"
        while not any(run.glob("*/round-000002.journal")):
            assert first.popen.poll() is None, first.text()
            await asyncio.sleep(0.005)
        first.kill()
        server.popen.terminate()
        assert await server.ends() == 0, server.text()
        assert "stopped" in server.text()
        again = (str(path), "--go-on", "--listen", f"127.0.0.1:{port}")
        server = Process(tmp_path, "again", *SERVE, *again)
        second = device(port)
        await other
        assert await second.ends() == 0, second.text()
        assert await server.ends() == 0, server.text()
        assert token.split(".")[2] not in first.text() + server.text()

    asyncio.run(play())
    (directory,) = (tmp_path / "runs").iterdir()
    same(directory, trained.path)


class FullDisk(Observer):
    """Fails as a disk does that has room for what comes before the first round."""

    def round_begins(self, number: int, rounds: int) -> None:
        """Nothing."""

    def step_done(self, round_number: int, done: int, total: int) -> None:
        """Nothing."""

    def round_done(self, record: RoundRecord) -> None:
        if record.round > 0:
            raise RunError("cannot write runs: no space left")


def test_a_run_that_fails_says_so(
    config: Config, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    net = open_net(prepare(config), new_directory(config, tmp_path), FullDisk(), in_place)
    service = Service(net, keys, ("127.0.0.1", 0))

    async def play() -> None:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(service.run(asyncio.Event(), port.set_result))
        joined = [joining(tmp_path, keys, n, await port, data[n]) for n in range(DEVICES)]
        devices = [asyncio.create_task(take_part(one)) for one in joined]
        with pytest.raises(RunError, match="no space left"):
            await serving
        for device in devices:
            device.cancel()
        await asyncio.gather(*devices, return_exceptions=True)

    asyncio.run(play())
    assert service.status().process.failure == "cannot write runs: no space left"


def test_a_run_directory_is_one_servers(config: Config, keys: RunKeys, tmp_path: Path) -> None:
    directory = new_directory(config, tmp_path)
    doors = ListenAddresses(("127.0.0.1", 0), None)
    with (
        alone(directory.path / "server.lock", "nobody else is here"),
        pytest.raises(RunError, match="another server runs in"),
    ):
        resume(directory.path, tmp_path / "keys", doors)
    assert not (directory.path / "rounds.jsonl").exists()


def test_a_server_that_only_hangs_up_is_given_up(
    keys: RunKeys, data: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is there and lets the device in; nothing gets on."""

    async def hang_up(_: Link) -> None:
        return

    async def play() -> None:
        async with serving(keys, hang_up) as served, asyncio.timeout(PATIENCE_S):
            one = replace(joining(tmp_path, keys, 0, served.port, data[0]), patience_s=0.2)
            with pytest.raises(RunError, match="it hangs up each time"):
                await take_part(one)

    asyncio.run(play())
    assert any(record.levelname == "WARNING" for record in caplog.records)


def test_an_identity_takes_part_once(keys: RunKeys, data: list[Path], tmp_path: Path) -> None:
    one = joining(tmp_path, keys, 0, 1, data[0])
    with (
        alone(one.state.with_suffix(".lock"), "nobody else is here"),
        pytest.raises(RunError, match="is already in use"),
    ):
        asyncio.run(take_part(one))


def test_data_of_other_classes_are_found_before_a_part_is_fetched(
    config: Config, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    """By a device that has an identity already."""
    net = open_net(prepare(config), new_directory(config, tmp_path), Silent(), in_place)
    service, stop = Service(net, keys, ("127.0.0.1", 0)), asyncio.Event()
    (tmp_path / "own" / "purple").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "own" / "purple" / "0.png")

    async def play() -> Joining:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(service.run(stop, port.set_result))
        one = joining(tmp_path, keys, 0, await port, tmp_path / "own")
        with pytest.raises(DataError, match=r"'purple'; it knows red, green"):
            await take_part(one)
        stop.set()
        await serving
        return one

    assert not asyncio.run(play()).cache.exists()


def test_the_number_of_a_revoked_device_goes_to_the_next(
    vision: tuple[Path, Path], keys: RunKeys, tmp_path: Path
) -> None:
    config = tiny.config(*vision, codec="none", devices={"count": 1})
    net = open_net(prepare(config), new_directory(config, tmp_path), Silent(), in_place)
    service, stop = Service(net, keys, ("127.0.0.1", 0)), asyncio.Event()

    async def answer(name: str, port: int) -> Message:
        """Asked again, as a device does: who is refused may be hung up on before it has asked."""
        own = enrolled(keys, name)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                link = await connect(f"127.0.0.1:{port}", own, ConnectionLimits())
                wire = Wire(device_limits(None))
                try:
                    await link.send(wire.outgoing(Ask()))
                    return wire.incoming(await link.receive())
                except LinkClosed:
                    continue
                finally:
                    await link.close()

    async def play() -> None:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(service.run(stop, port.set_result))
        assert isinstance(await answer("pi-0", await port), Welcome)
        assert isinstance(await answer("pi-1", await port), Refused)
        keys.revoke("pi-0", time.time())
        assert isinstance(await answer("pi-2", await port), Welcome)
        stop.set()
        await serving

    asyncio.run(play())
    assert net.registry.name(0) == "pi-2"


def test_a_device_too_many_is_refused(
    config: Config, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    """It has a certificate, and no place in the run."""
    net = open_net(prepare(config), new_directory(config, tmp_path), Silent(), in_place)
    service, stop = Service(net, keys, ("127.0.0.1", 0)), asyncio.Event()

    async def play() -> bool:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(service.run(stop, port.set_result))
        with pytest.raises(RunError, match="refuses this device"):
            await take_part(joining(tmp_path, keys, DEVICES, await port, data[0]))
        stop.set()
        return await serving

    assert not asyncio.run(play())


def test_a_round_closes_without_a_device_that_never_comes(
    config: Config, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    """At each deadline, with the quorum: the adapter is that of a run of those who are there."""
    rule = {"quorum": 1, "deadline_s": 0.2, "farewell_s": 0.0}
    config = config.model_copy(update={"net": config.net.model_copy(update=rule)})
    directory = new_directory(config, tmp_path)
    net = open_net(prepare(config), directory, Silent(), in_place)

    async def play() -> bool:
        service, port = begun(net, keys)
        serving = asyncio.create_task(service.run(asyncio.Event(), port.set_result))
        await take_part(joining(tmp_path, keys, 1, await port, data[1]))
        return await serving

    assert asyncio.run(play())
    run = Run(prepare(config).setup, tmp_path / "check", rounds=3)
    run.directory = directory
    alone = Presence((1,), frozenset())
    assert final(run).same(absent(run, [alone] * run.rounds))


def test_a_server_gives_up_and_goes_on_when_the_device_is_there(
    config: Config, trained: RunDirectory, keys: RunKeys, data: list[Path], tmp_path: Path
) -> None:
    """It names who is missing; what was trained before is not trained again."""
    patient, directory = prepare(config), new_directory(config, tmp_path)
    rule, passed_s = {"give_up_s": 3600.0}, [0.0]
    hasty = prepare(config.model_copy(update={"net": config.net.model_copy(update=rule)}))

    async def play() -> bool:
        net = open_net(hasty, directory, Silent(), in_place)
        port = asyncio.get_running_loop().create_future()
        service = Service(net, keys, ("127.0.0.1", 0), clock=lambda: passed_s[0])
        serving = asyncio.create_task(service.run(asyncio.Event(), port.set_result))
        first = asyncio.create_task(take_part(joining(tmp_path, keys, 0, await port, data[0])))
        async with asyncio.timeout(60):
            while not net.session.progress[0].done:
                await asyncio.sleep(0.01)
        passed_s[0] = 3601.0
        with pytest.raises(RunError, match=r"pi-1 \(away, 0 of 2 local steps\)"):
            await serving
        done = net.session.progress[0].step
        net = open_net(patient, directory, Silent(), in_place)
        assert net.session.progress[0].step == done
        service, again = begun(net, keys, port.result())
        serving = asyncio.create_task(service.run(asyncio.Event(), again.set_result))
        await asyncio.gather(first, take_part(joining(tmp_path, keys, 1, await again, data[1])))
        ended = await serving
        service.conclude()
        return ended

    assert asyncio.run(play())
    same(directory.path, trained.path)


def test_a_codec_of_another_package_is_the_trainers_too(
    config: Config,
    keys: RunKeys,
    data: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin.install(monkeypatch, tmp_path / "site")
    server = config.server.model_copy(update={"group": 1})
    own = {"codec": PluginSection(name="truncated", options={"kept": 3}), "server": server}
    config = config.model_copy(update=own)
    trained = start(config, tmp_path / "trained")
    played(config, keys, data, tmp_path / "served")
    (directory,) = (tmp_path / "served").glob("*-001")
    same(directory, trained.path)


def test_a_codec_that_nobody_registers_is_not_played(config: Config) -> None:
    job = prepare(config)
    unknown = PluginSection(name="cutlayer.codec.raw:RawCodec")
    other = replace(job, config=config.model_copy(update={"codec": unknown}))
    with pytest.raises(ConfigError, match=r"RawCodec is registered in .* by no package"):
        check_net(other)
