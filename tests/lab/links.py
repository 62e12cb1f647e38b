"""Links by their rates."""

from cutlayer.channel.rates import LinkRates


def link(uplink_bit_s: float, downlink_bit_s: float) -> LinkRates:
    """A link of its own: no bandwidth behind it."""
    return LinkRates(uplink_bit_s, downlink_bit_s, downlink_bit_s, uplink_bit_s, downlink_bit_s)
