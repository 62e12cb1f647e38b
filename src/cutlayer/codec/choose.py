"""The codecs by the names under which a configuration chooses them."""

from cutlayer.codec.codec import Codec
from cutlayer.codec.paper import PaperCodec
from cutlayer.codec.raw import RawCodec

CODECS: dict[str, type[Codec]] = {PaperCodec.name: PaperCodec, RawCodec.name: RawCodec}
