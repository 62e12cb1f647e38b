"""What a new basis would save: the same rows at the same error, coded with it and without it.

On rows that the basis was not learned from: on its own rows any basis looks good.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from cutlayer.codec.kernels.arrays import Array, dot
from cutlayer.codec.segments import Segments
from cutlayer.codec.stages.pipeline import Pipeline, Transformed
from cutlayer.codec.stages.quantiser import Quantised
from cutlayer.codec.stages.step import FIXED

# whole samples up to about so many rows tell enough
ENOUGH_ROWS = 1024
WIDEST_MOVE = math.log(32.0)
HALVINGS = 9


@dataclass(frozen=True, eq=False)
class Trial:
    """The rows of a packet, and the step's ratio that the present pipeline codes them with."""

    values: Float32[Array, "row width"]
    segments: Segments
    ratio: float

    def bytes_saved(self, present: Pipeline, proposed: Pipeline) -> float:
        """Of the packet [bytes]; infinite for a quantiser that has no step to compare at."""
        if present.quantiser.step_rule is FIXED:
            return math.inf
        some, segments = self._some()
        before = present.transform(some, segments)
        now = present.quantise(before, self.ratio, _generator())
        error = _error(some, present, now, segments)
        after = proposed.transform(some, segments)
        ratio = self._ratio_of_error(error, some, proposed, after)
        then = proposed.quantise(after, ratio, _generator())
        saved = present.code(now).bytes - proposed.code(then).bytes
        return saved * len(self.values) / len(some)

    def _some(self) -> tuple[Float32[Array, "row width"], Segments]:
        rows = np.cumsum(self.segments.lengths)
        samples = min(int(np.searchsorted(rows, ENOUGH_ROWS)) + 1, len(rows))
        _, token, width = self.segments.shape
        segments = Segments((samples, token, width), self.segments.lengths[:samples])
        return self.values[: segments.rows], segments

    def _ratio_of_error(
        self,
        goal: float,
        values: Float32[Array, "row width"],
        pipeline: Pipeline,
        transformed: Transformed,
    ) -> float:
        """The largest ratio whose error is at most `goal`, or the smallest tried: then the saving
        is negative."""
        low, high = -WIDEST_MOVE, WIDEST_MOVE
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            quantised = pipeline.quantise(transformed, self.ratio * math.exp(middle), _generator())
            if _error(values, pipeline, quantised, transformed.segments) <= goal:
                low = middle
            else:
                high = middle
        return self.ratio * math.exp(low)


def _error(
    values: Float32[Array, "row width"],
    pipeline: Pipeline,
    quantised: Quantised,
    segments: Segments,
) -> float:
    arrays = pipeline.kernels.arrays
    lost = arrays.wide(values - pipeline.restore(quantised, segments))
    return math.sqrt(dot(lost, lost, arrays))


def _generator() -> np.random.Generator:
    """A trial draws nothing from the packet's own stream."""
    return np.random.default_rng(0)
