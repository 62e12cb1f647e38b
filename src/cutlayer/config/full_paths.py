"""Settings that name what lies on this machine, whatever folder they are read in later."""

from pathlib import Path

from cutlayer.config.channel_section import TracesSection
from cutlayer.config.schema import Config
from cutlayer.data.model_folder import holds_model


def with_full_paths(config: Config) -> Config:
    """The configuration with the full path of a model, data set or trace that is a local one.

    Names that nothing lies under stay: they are known ones, of the hub, or mistakes that are named
    later.
    """
    model, data, channel = config.model, config.data, config.channel
    if holds_model(Path(model.name).expanduser()):
        model = model.model_copy(update={"name": _full(model.name)})
    if Path(data.name).expanduser().exists():
        data = data.model_copy(update={"name": _full(data.name)})
    if isinstance(channel, TracesSection):
        ways = {key: tuple(map(_full, getattr(channel, key))) for key in ("uplink", "downlink")}
        channel = channel.model_copy(update=ways)
    return config.model_copy(update={"model": model, "data": data, "channel": channel})


def _full(name: str) -> str:
    return str(Path(name).expanduser().absolute())
