"""Devices' identities made without a connection."""

import time

from cutlayer.net.identity.certificates import Signed, new_key, signing_request
from cutlayer.net.identity.device_keys import DeviceKeys, device_keys
from cutlayer.net.identity.run_keys import RunKeys


def enrolled(keys: RunKeys, name: str) -> DeviceKeys:
    """What the device `name` shows from now on."""
    token = keys.invite(name, 60.0, time.time())
    key = new_key()
    certificate = keys.enrol(name, token.secret, signing_request(key, name), time.time())
    return device_keys(Signed(key, certificate), keys.authority.certificate)
