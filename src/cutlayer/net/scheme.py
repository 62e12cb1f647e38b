"""Which schemes the network runtime can play. Knows no scheme by name."""

from cutlayer.errors import ConfigError
from cutlayer.schemes.scheme import DeviceOrder, Scheme, ServerOrder
from cutlayer.spec import Trained


def check_scheme(scheme: Scheme) -> None:
    """Raises ConfigError unless devices train adapters of a split model in parallel, a micro-batch
    at a time, on a server that takes what has arrived."""
    fits = (
        scheme.splits
        and scheme.devices is DeviceOrder.PARALLEL
        and scheme.server is ServerOrder.ARRIVAL
        and scheme.trained is Trained.ADAPTERS
        and not scheme.shared_server
        and not scheme.pipelined
    )
    if not fits:
        raise ConfigError(
            f"scheme {scheme.name} cannot be played over a network; set scheme.name to sft or"
            " sft-uncompressed"
        )
