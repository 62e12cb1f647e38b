"""The one error tree. A message says what was wrong, the value, and what to do.

Knows nothing of where an error is raised. The command line turns each of these into one line and
exit code 2; anything else that escapes is a bug.
"""


class CutlayerError(Exception):
    """Any mistake that a user of cutlayer can mend."""


class ConfigError(CutlayerError):
    """A configuration value, key or file that cannot be used."""


class DataError(CutlayerError):
    """A data set, sample or partition that cannot be used."""


class AssetError(CutlayerError):
    """A model or data set that cannot be found, fetched, verified or converted."""


class ModelError(CutlayerError):
    """A pretrained model that cannot be split or adapted as asked."""


class UnsupportedModelError(ModelError):
    """An architecture that cutlayer cannot split; the message says why."""


class PacketError(CutlayerError):
    """Bytes that are not a valid packet of the expected shape."""


class FrameError(CutlayerError):
    """Bytes or a message that a peer of the network runtime must not send."""


class RunError(CutlayerError):
    """A run directory that cannot be written, read or resumed."""


class StorageError(RunError):
    """A file that cannot be written: a full disk, a folder of somebody else's."""


class IdentityError(CutlayerError):
    """Keys, a name, an invitation or a certificate that cannot be used; quotes no secret."""
