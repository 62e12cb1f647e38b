"""The tables of presets and models in the documents are those of the code."""

from pathlib import Path

from cutlayer.config.presets import PRESETS, Cores, Preset
from cutlayer.data.find import KNOWN_MODELS
from cutlayer.units import GIB

DOCUMENTS = "\n".join(
    page.read_text(encoding="utf-8") for page in (Path(__file__).parents[2] / "docs").glob("*.md")
)


def row(preset: Preset) -> str:
    """A preset's line of the table."""
    cores = " + ".join(_cores(part) for part in preset.cores)
    return (
        f"| `{preset.name}` | {preset.processor} | {cores} | {preset.flops_per_s / 1e9:,.1f} |"
        f" {preset.memory_bytes // GIB} GB | {preset.source} |"
    )


def _cores(cores: Cores) -> str:
    hertz = cores.clock_hz
    clock = f"{hertz / 1e9:g} GHz" if hertz >= 1e9 else f"{hertz / 1e6:g} MHz"
    return f"{cores.count} x {clock} x {cores.flops_per_cycle}"


def test_every_preset_has_its_row() -> None:
    assert [preset.name for preset in PRESETS.values() if row(preset) not in DOCUMENTS] == []


def test_every_known_model_has_its_row() -> None:
    rows = {name: f"| `{name}` | {hub_id} |" for name, hub_id in KNOWN_MODELS.items()}
    assert [name for name, line in rows.items() if line not in DOCUMENTS] == []
