"""The values that a device preset stands for in a configuration's section.

They are filled in as the section is read, so that whoever looks at it finds numbers, and a
configuration that was written out reads back to the same values.
"""

from collections.abc import Mapping
from typing import Any

from cutlayer.config.hardware import find_preset
from cutlayer.errors import ConfigError
from cutlayer.units import MIB


def device_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `devices.preset` says of the other keys; nothing without one.

    Raises ConfigError: a name that nobody knows, a list of another length than a given count, an
    efficiency without a preset.
    """
    preset, efficiency = given.get("preset"), _efficiency("devices", given)
    if isinstance(preset, str):
        one = find_preset(preset)
        return {
            "flops_per_s": efficiency * one.flops_per_s,
            "flops_spread": 0.0,
            "memory_mib": one.memory_bytes / MIB,
        }
    if isinstance(preset, list | tuple) and all(isinstance(name, str) for name in preset):
        each = [find_preset(name) for name in preset]
        if _number(given.get("count", len(each))) != len(each):
            raise ConfigError(
                f"devices.preset lists {len(each)} names for devices.count {given['count']}: leave"
                " the count out"
            )
        return {
            "count": len(each),
            "flops_per_s": tuple(efficiency * one.flops_per_s for one in each),
            "flops_spread": 0.0,
            "memory_mib": tuple(one.memory_bytes / MIB for one in each),
        }
    return {}  # without one, or of a type that the section refuses


def server_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same of `server.preset`."""
    preset, efficiency = given.get("preset"), _efficiency("server", given)
    if not isinstance(preset, str):
        return {}
    return {"flops_per_s": efficiency * find_preset(preset).flops_per_s}


def _efficiency(section: str, given: Mapping[str, Any]) -> float:
    """What to multiply a peak by; the section refuses one that is no part of it."""
    efficiency = _number(given.get("efficiency", 1.0))
    if efficiency is None:
        return 1.0
    if efficiency != 1.0 and given.get("preset") is None:
        raise ConfigError(
            f"{section}.efficiency {efficiency} is of a preset's peak rate, and {section}.preset is"
            f" null: give a preset, or {section}.flops_per_s as it is reached"
        )
    return efficiency


def _number(value: Any) -> float | None:
    """A number as the section will read it, also of a text such as 3e-1, which YAML takes for one;
    None: the section refuses it."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
