"""A device's part in a networked run: its terms made into tools, its links dialled anew.

Knows the server's address, the device's identity and its data. All else comes from the server.
"""

import asyncio
import logging
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, final

import numpy as np
import torch
from torch import Tensor

from cutlayer.config.schema import Config
from cutlayer.config.section import CODECS, PluginSection
from cutlayer.data.assets.catalogue import cache_root
from cutlayer.data.partition import BatchPlan
from cutlayer.data.samples import digest_of
from cutlayer.errors import ConfigError, IdentityError, RunError, UnavailableError
from cutlayer.files import alone
from cutlayer.jobs.build import make_adapter
from cutlayer.jobs.dataset import OwnData, check_own, own_samples
from cutlayer.jobs.plugins import check_registered
from cutlayer.jobs.prepare import make_training
from cutlayer.logs import Heartbeat
from cutlayer.model.base import check_base
from cutlayer.model.load import device_tensors, load_device_part
from cutlayer.model.part_file import with_files
from cutlayer.model.placement import Placement, device_title, repeat_sums
from cutlayer.net.device.driver import DeviceDriver, DeviceStore, DeviceWatch, Ready
from cutlayer.net.device.worker import DeviceWorker
from cutlayer.net.identity.credentials import DeviceKeys, read_device_keys, read_token
from cutlayer.net.identity.enrolment import ask_outline, enrol
from cutlayer.net.wire.frames import bounds_of
from cutlayer.net.wire.link import Compute, ConnectionLimits, Link, LinkClosed, PacedLink, in_thread
from cutlayer.net.wire.messages import Opening, OwnSamples, Terms
from cutlayer.net.wire.part_files import LIMIT_BYTES, PartCache
from cutlayer.net.wire.tls_link import connect
from cutlayer.rounds.schemes import SFT, SFT_CACHED, SFT_FROZEN, Scheme
from cutlayer.spec import Base, MiniBatch
from cutlayer.training.state import DeviceSide

Answer = TypeVar("Answer")

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.25
_SOON_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
# of the time that a server has been away
_PAUSE_SHARE = 0.125
# no line is so fast: not paced
_UNPACED_BIT_S = 1e15


@dataclass(frozen=True)
class Joining:
    """Who joins what. `patience_s`: how long a server may be away, or hang up each time [s];
    `threads`: torch's, None: its choice; `device`: what computes here; `jitter`: from 0 to 1, so
    that devices do not all come back at once. `model`: a folder whose weights need not be fetched;
    `most_disk_bytes`: of parts in `cache`."""

    address: str
    keys: DeviceKeys
    own: OwnData
    state: Path
    cache: Path
    patience_s: float
    threads: int | None
    device: torch.device
    jitter: Callable[[], float]
    model: Path | None = None
    most_disk_bytes: int = LIMIT_BYTES


def identify(
    address: tuple[str, int], folder: Path, token: str | None, patience_s: float, own: OwnData
) -> DeviceKeys:
    """The identity in `folder`; if there is none, the one that `token` promises, kept there.

    Raises IdentityError without either, or if the server does not accept the token; DataError if
    `own` does not fit the run, which leaves the token as it is; RunError if there is no server for
    `patience_s`.
    """
    if folder.is_dir() and any(folder.iterdir()):
        return read_device_keys(folder)
    if token is None:
        raise IdentityError(
            f"{folder} has no identity: `cutlayer keys invite NAME` on the server prints a token"
            " that makes one",
            thing="token",
        )
    invited = read_token(token)
    outline = _patiently(address, patience_s, lambda: ask_outline(address, invited))
    check_own(own, outline.task, outline.class_names)
    keys = _patiently(address, patience_s, lambda: enrol(address, invited, folder))
    _LOG.info("enrolled as %s; the identity is in %s", keys.name, folder)
    return keys


def _patiently(address: tuple[str, int], patience_s: float, do: Callable[[], Answer]) -> Answer:
    """What `do` gives, tried again while there is nobody at the address."""
    start_s = time.monotonic()
    while True:
        try:
            return do()
        except (ConnectionError, TimeoutError) as error:
            away_s = time.monotonic() - start_s
            host, port = address
            nobody = f"no server at {host}:{port}: {error}"
            if away_s >= patience_s:
                raise UnavailableError(
                    f"{nobody}; is the address right, and is the server running?"
                ) from error
            _LOG.warning("%s; asked again for %.0f s", nobody, patience_s - away_s)
            # as long as it has been away already: pauses grow
            time.sleep(min(max(away_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S, patience_s - away_s))


def start(
    address: tuple[str, int],
    keys: DeviceKeys,
    own: OwnData,
    *,
    state: Path,
    patience_s: float,
    threads: int | None,
    device: torch.device,
    model: Path | None = None,
    most_disk_bytes: int = LIMIT_BYTES,
) -> None:
    """`join` from a process of its own."""
    host, port = address
    joining = Joining(
        address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        keys=keys,
        own=own,
        state=state,
        cache=cache_root() / "parts",
        patience_s=patience_s,
        threads=threads,
        device=device,
        jitter=random.random,
        model=model,
        most_disk_bytes=most_disk_bytes,
    )
    asyncio.run(join(joining, in_thread))


async def join(joining: Joining, compute: Compute) -> None:
    """Take part until the run ends, or SIGTERM comes, at which the step that is being computed is
    finished.

    Raises RunError if the server does not want this device, is on another run than the device's
    state, or is away for longer than `patience_s`, and if another process has the state; DataError
    for data that do not fit.
    """
    if joining.threads is not None:
        torch.set_num_threads(joining.threads)
    repeat_sums()
    own = partial(_own_tensors, joining=joining)
    parts, dialler = PartCache(joining.cache, joining.most_disk_bytes, own), Dialler(joining)
    taken = f"this identity is already in use, with {joining.state}: each device needs its own"
    with alone(joining.state.with_suffix(".lock"), taken):
        driver = DeviceDriver(
            DeviceStore(joining.state),
            lambda terms: _ready(terms, joining, parts),
            compute,
            DeviceWatch(time.monotonic),
            parts,
            dialler.opened,
            dialler.got_on,
            lambda terms: check_own(joining.own, terms.task, terms.class_names),
        )
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, driver.leave)
        with Heartbeat(lambda: driver.progress):
            await driver.take_part(dialler.dial)
        if driver.finished:
            joining.state.unlink(missing_ok=True)
            _LOG.info("the run has ended")
        else:
            _LOG.info("stopped: started again, this device goes on where it was")


@final
class Dialler:
    """Links to one server, each paced to the device's share; pauses grow until a round opens.

    A server that hangs up before anything got on has been away all the time, unless the link held
    for longer than any pause.
    """

    def __init__(self, joining: Joining) -> None:
        self._joining = joining
        self._rate_bit_s = _UNPACED_BIT_S
        self._tries = 0
        self._away_from_s: float | None = None
        self._linked_s = math.inf

    async def dial(self) -> Link:
        """The next link. Raises RunError when the server has been away too long."""
        now_s = _now_s()
        if self._away_from_s is None or now_s - self._linked_s > _LONGEST_PAUSE_S:
            self._away_from_s = now_s
        self._wait_on(self._away_from_s, "it hangs up each time")
        while True:
            await self._pause()
            try:
                link = await connect(self._joining.address, self._joining.keys, ConnectionLimits())
            except LinkClosed as closed:
                _LOG.warning("%s", closed)
                self._wait_on(self._away_from_s, str(closed))
            else:
                _LOG.info("connected to %s", self._joining.address)
                self._linked_s = _now_s()
                return PacedLink(link, lambda: self._rate_bit_s)

    def got_on(self) -> None:
        """Something is done that need not be done again: the server is not away."""
        self._away_from_s = None

    def opened(self, opening: Opening, terms: Terms) -> None:
        """A round begins: all is well, and this is the device's share of the way up."""
        self._tries = 0
        if terms.uplink_bit_s is not None:
            self._rate_bit_s = opening.share * terms.uplink_bit_s

    def _wait_on(self, away_from_s: float, reason: str) -> None:
        away_s = _now_s() - away_from_s
        if away_s > self._joining.patience_s:
            raise UnavailableError(
                f"no server for {away_s:.0f} s: {reason}; run this again when there is one; it"
                " resumes where it was"
            )

    async def _pause(self) -> None:
        if self._tries and self._away_from_s is not None:
            longest_s = longest_pause_s(self._tries, _now_s() - self._away_from_s)
            await asyncio.sleep(longest_s * (0.5 + 0.5 * self._joining.jitter()))
        self._tries += 1


def longest_pause_s(tries: int, away_s: float) -> float:
    """How long to wait, at most, before a server is dialled that did not answer so many times and
    has been away for so long [s]: a second while it may be starting again, an eighth of the time
    that it has been away from then on."""
    growing_s = min(_FIRST_PAUSE_S * 2.0 ** (min(tries, 8) - 1), _SOON_PAUSE_S)
    return min(max(growing_s, away_s * _PAUSE_SHARE), _LONGEST_PAUSE_S)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _own_tensors(terms: Terms, *, joining: Joining) -> Mapping[str, Tensor]:
    """What the device part of the model that lies here would be, with the small files beside it.
    Raises CutlayerError for a model that the terms do not fit."""
    if joining.model is None:
        return {}
    config = _config(terms, joining)
    tensors = device_tensors(
        joining.model,
        terms.task,
        config.model.cut,
        make_adapter(config.adapter, terms.task),
        classes=terms.classes,
        image_size=config.data.image_size,
        placement=Placement(base=Base(config.devices.base)),
    )
    return with_files(tensors, joining.model)


def _config(terms: Terms, joining: Joining) -> Config:
    """What the terms say. Raises RunError for those of another version of cutlayer."""
    try:
        config = Config.model_validate({**terms.settings, "threads": joining.threads})
        if isinstance(config.codec, PluginSection):
            check_registered("codec", config.codec, CODECS)
    except ConfigError as error:
        raise RunError(
            f"the server's terms cannot be read ({error}): run the same version on both ends"
        ) from error
    return config


def _ready(terms: Terms, joining: Joining, parts: PartCache) -> Ready:
    """The terms made into what the device computes with. Raises RunError for terms of another
    version of cutlayer."""
    config = _config(terms, joining)
    training = make_training(
        config,
        # what a network plays is these, with or without a codec
        _scheme(terms),
        terms.task,
        terms.classes,
        micro_batches=terms.micro_batches,
        rounds=terms.rounds,
        packets=terms.rounds * terms.local_steps,
    )
    if terms.frozen_from is not None and terms.frozen_from > 1:
        training = replace(training, warm_rounds=terms.frozen_from - 1)
    check_base(Base(config.devices.base))
    model = parts.model(terms)
    samples, batches = own_samples(joining.own, terms, config.data, model)
    place = device_title(joining.device)
    _LOG.info(
        "%d samples, device %d, %d rounds, on %s", len(samples), terms.device, terms.rounds, place
    )
    part = load_device_part(
        model,
        terms.task,
        config.model.cut,
        make_adapter(config.adapter, terms.task),
        classes=terms.classes,
        image_size=config.data.image_size,
        placement=Placement(joining.device, Base(config.devices.base)),
    )
    order = np.arange(len(samples))
    plan = BatchPlan(order, training.batch_size, training.seed, terms.device)
    device = DeviceSide(part, samples, batches, plan, terms.local_steps)
    bounds = bounds_of(
        MiniBatch(training.batch_size, terms.tokens),
        terms.width,
        part.adapted.layout.parameters,
        terms.local_steps * terms.micro_batches,
    )
    # the hash's beginning tells two sets of samples apart as well, and a person can compare it
    own = OwnSamples(len(samples), digest_of(samples)[:16])
    samples_text = f"{own.count} samples ({own.digest})"
    told = own if terms.cached else None
    return Ready(terms, DeviceWorker(training, device), bounds, samples_text, told)


def _scheme(terms: Terms) -> Scheme:
    """What the first round is played by."""
    if terms.cached:
        return SFT_CACHED
    return SFT_FROZEN if terms.frozen(1) else SFT
