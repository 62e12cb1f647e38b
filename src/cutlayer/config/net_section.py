"""The settings of a run over a network: what each means, its bounds and its default."""

from typing import Annotated

from pydantic import Field

from cutlayer.config.section import (
    MOST_DEVICES,
    BitRate,
    Number,
    Real,
    Seconds,
    Section,
    Text,
    Whole,
)


class NetSection(Section):
    """`cutlayer serve`: devices that are real, over a network."""

    devices: tuple[Text, ...] = Field(
        default=(),
        description="names of the devices in their order, which decides what each draws from the"
        " seed; empty: numbered as they first come",
    )
    quorum: Annotated[int, Field(ge=1, le=MOST_DEVICES), Number] | None = Field(
        default=None,
        description="devices that a round needs at its deadline; null: all",
    )
    deadline_s: Seconds | None = Field(
        default=None,
        description="a round closes after this long with the devices that made it [s]; null: with"
        " all of them, whenever that is",
    )
    give_up_s: Seconds | None = Field(
        default=None,
        description="a round that is open for so long and has too few adapters to close ends the"
        " run, to be resumed [s]; null: it waits, since nothing is lost by waiting",
    )
    uplink_bit_s: BitRate | None = Field(
        default=None,
        description="rate that the devices share on the way to the server [bit/s]; each keeps to"
        " its share; null: as fast as the line is",
    )
    downlink_bit_s: BitRate | None = Field(
        default=None, description="the same for the way back, kept by the server"
    )
    patience_s: Seconds = Field(
        default=60.0, description="a device that takes longer to read a frame is hung up on [s]"
    )
    farewell_s: Real = Field(
        default=60.0,
        ge=0,
        le=1e9,
        description="how long a server whose run has ended waits to tell devices that are away [s]",
    )
    connections: Whole = Field(
        default=280,
        ge=1,
        le=MOST_DEVICES,
        description="connections at a time, in all; three files each",
    )
