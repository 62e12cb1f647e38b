"""cutlayer: split fine-tuning of transformers on devices too small to hold the model.

This is all that programs need: functions that do what the commands do, the values that they take
and give, and the contracts that a codec, channel, allocation, scheme or aggregation of your own
keeps. Mistakes that a user can correct are raised as a `CutlayerError`, and nothing is printed:
progress goes to `logging.getLogger("cutlayer")`. Each name is imported when it is first used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from cutlayer.version import __version__

if TYPE_CHECKING:
    from cutlayer.channel.rates import Channel, LinkRates, ProportionalRates, RateCurve, RateCurves
    from cutlayer.codec.codec import Codec, CodecState, Decoded, Encoded
    from cutlayer.codec.packet import PacketFrame
    from cutlayer.config.read import read_config
    from cutlayer.config.schema import Config
    from cutlayer.errors import (
        AssetError,
        ConfigError,
        CutlayerError,
        DataError,
        IdentityError,
        ModelError,
        PacketError,
        RunError,
        StorageError,
    )
    from cutlayer.jobs.api import (
        chat,
        compare,
        evaluate,
        export,
        generate,
        join,
        load_adapter,
        merge,
        push,
        resume,
        serve,
        train,
    )
    from cutlayer.jobs.compare import Compared
    from cutlayer.jobs.evaluate import Evaluated, Figures
    from cutlayer.jobs.plan import Planned, plan
    from cutlayer.jobs.sweep import Swept, sweep
    from cutlayer.jobs.use import Talk
    from cutlayer.model.optimizer import Aggregation
    from cutlayer.planner.allocation import Allocation, ObservedRound, Shares
    from cutlayer.report.run_reader import Run, read_run
    from cutlayer.rounds.result import TimelineEvent
    from cutlayer.rounds.schemes import (
        SCHEMES,
        DeviceOrder,
        Phase,
        Place,
        Scheme,
        ServerOrder,
        Step,
    )
    from cutlayer.spec import Trained
    from cutlayer.training.records import FirstRound, Observer, Summary, TrainedRound

__all__ = [
    "SCHEMES",
    "Aggregation",
    "Allocation",
    "AssetError",
    "Channel",
    "Codec",
    "CodecState",
    "Compared",
    "Config",
    "ConfigError",
    "CutlayerError",
    "DataError",
    "Decoded",
    "DeviceOrder",
    "Encoded",
    "Evaluated",
    "Figures",
    "FirstRound",
    "IdentityError",
    "LinkRates",
    "ModelError",
    "ObservedRound",
    "Observer",
    "PacketError",
    "PacketFrame",
    "Phase",
    "Place",
    "Planned",
    "ProportionalRates",
    "RateCurve",
    "RateCurves",
    "Run",
    "RunError",
    "Scheme",
    "ServerOrder",
    "Shares",
    "Step",
    "StorageError",
    "Summary",
    "Swept",
    "Talk",
    "TimelineEvent",
    "Trained",
    "TrainedRound",
    "__version__",
    "chat",
    "compare",
    "evaluate",
    "export",
    "generate",
    "join",
    "load_adapter",
    "merge",
    "plan",
    "push",
    "read_config",
    "read_run",
    "resume",
    "serve",
    "sweep",
    "train",
]

# where each name is defined
_HOMES = {
    "Config": "config.schema",
    "read_config": "config.read",
    "train": "jobs.api",
    "resume": "jobs.api",
    "read_run": "report.run_reader",
    "compare": "jobs.api",
    "sweep": "jobs.sweep",
    "plan": "jobs.plan",
    "load_adapter": "jobs.api",
    "generate": "jobs.api",
    "chat": "jobs.api",
    "evaluate": "jobs.api",
    "export": "jobs.api",
    "merge": "jobs.api",
    "push": "jobs.api",
    "serve": "jobs.api",
    "join": "jobs.api",
    "Run": "report.run_reader",
    "Compared": "jobs.compare",
    "Swept": "jobs.sweep",
    "Planned": "jobs.plan",
    "Evaluated": "jobs.evaluate",
    "Figures": "jobs.evaluate",
    "Talk": "jobs.use",
    "Summary": "training.records",
    "FirstRound": "training.records",
    "TrainedRound": "training.records",
    "TimelineEvent": "rounds.result",
    "Observer": "training.records",
    "CutlayerError": "errors",
    "ConfigError": "errors",
    "ModelError": "errors",
    "PacketError": "errors",
    "AssetError": "errors",
    "DataError": "errors",
    "IdentityError": "errors",
    "RunError": "errors",
    "StorageError": "errors",
    "Codec": "codec.codec",
    "Encoded": "codec.codec",
    "Decoded": "codec.codec",
    "CodecState": "codec.codec",
    "PacketFrame": "codec.packet",
    "Channel": "channel.rates",
    "RateCurves": "channel.rates",
    "RateCurve": "channel.rates",
    "ProportionalRates": "channel.rates",
    "LinkRates": "channel.rates",
    "Allocation": "planner.allocation",
    "ObservedRound": "planner.allocation",
    "Shares": "planner.allocation",
    "Scheme": "rounds.schemes",
    "SCHEMES": "rounds.schemes",
    "Step": "rounds.schemes",
    "Phase": "rounds.schemes",
    "Place": "rounds.schemes",
    "DeviceOrder": "rounds.schemes",
    "ServerOrder": "rounds.schemes",
    "Trained": "spec",
    "Aggregation": "model.optimizer",
}

# a library says nothing unless the program asks for it
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cutlayer' has no attribute {name!r}")
    from cutlayer.errors import needing

    with needing(f"cutlayer.{name}", "train"):
        value: object = getattr(import_module(f"cutlayer.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name[0] == "_"), *__all__})
