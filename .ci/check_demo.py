"""The newest demo run did its job: it learned, it compressed, and its phases sum to its delay."""

import json
import math
from pathlib import Path

newest = max(Path("runs").glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
summary = json.loads(newest.read_text(encoding="utf-8"))
gain = summary["accuracy_final"] - summary["accuracy_first"]
assert gain >= 0.30, f"the demo gained {gain:.3f} accuracy, at least 0.30 was promised"
assert summary["uplink_bytes"] * 3 < summary["uncompressed_uplink_bytes"], "barely compressed"
phases = sum(summary["delay_by_phase_s"].values())
assert math.isclose(phases, summary["delay_s"], rel_tol=1e-9), (phases, summary["delay_s"])
assert summary["device_peak_bytes"] < summary["model_bytes"] < summary["unsplit_peak_bytes"]
print(f"demo: accuracy +{gain:.3f} ({newest.parent})")
