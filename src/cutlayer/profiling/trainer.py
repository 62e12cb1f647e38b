"""One setting trained from one seed, as a line of the log.

Knows how seeds share a job; not which settings are wanted, nor in how many processes.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cutlayer.config.fingerprint import model_digests
from cutlayer.config.read import config_yaml
from cutlayer.config.schema import Config
from cutlayer.data.digest import digest_of
from cutlayer.data.find import find_model
from cutlayer.logs import unheard
from cutlayer.profiling.grid import Setting, codecs_of
from cutlayer.profiling.log import Key, Line
from cutlayer.profiling.training import Start, start_of, train


@dataclass(frozen=True)
class Wanted:
    """A setting to train, and the seed to train it from."""

    setting: Setting
    seed: int

    @property
    def key(self) -> Key:
        """As `Line.key` has it."""
        return self.setting.codec, tuple(sorted(self.setting.values.items())), self.seed

    def __str__(self) -> str:
        return f"{self.setting}, seed {self.seed}"


def job_of(config: Config) -> Config:
    """The job whatever the codec and the planner, on one thread: what all trainings share."""
    default = Config()
    own = {"codec": default.codec, "planner": default.planner, "threads": 1}
    return config.model_copy(update=own)


def fingerprint(config: Config) -> str:
    """Changes with any setting of the job: results of one are not mistaken for another's."""
    return hashlib.sha256(config_yaml(job_of(config)).encode()).hexdigest()[:16]


def _with_inputs(settings: str, model: Path, start: Start) -> str:
    """What was trained on other samples, or from other weights, is another job's, too."""
    train, test = (digest_of(split) for split in (start.setup.train, start.setup.test))
    text = f"{settings} {train} {test} {sorted(model_digests(model).items())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@final
class Trainer:
    """The job of a configuration, kept ready for the seed that was trained last.

    The test samples are those of the configuration's own seed, for all. Raises CutlayerError for a
    job that cannot be prepared. `job`: the fingerprint of its settings, data and model.
    """

    def __init__(self, config: Config, *, quiet: bool = False) -> None:
        self._config = job_of(config)
        self._start = start_of(self._config, config.seed, quiet=quiet)
        with unheard():  # it was found just now
            model = find_model(config.model.name).path
        self.job = _with_inputs(fingerprint(config), model, self._start)

    @property
    def test_samples(self) -> int:
        """How many samples accuracies are of."""
        return len(self._start.setup.test)

    @property
    def compresses(self) -> bool:
        """Whether the job's scheme sends what a codec could make smaller."""
        return self._start.setup.scheme.compressed

    def train(self, wanted: Wanted) -> Line:
        """Train, both ways through real packets."""
        if self._start.seed != wanted.seed:
            self._start = start_of(self._config, wanted.seed, self._start.setup.test, quiet=True)
        trained = train(self._start, codecs_of(wanted.setting, self._start.packets))
        return Line(
            job=self.job,
            seed=wanted.seed,
            codec=wanted.setting.codec,
            settings=wanted.setting.values,
            accuracy=trained.accuracy_finished,
            rounds=trained.rounds,
            diverged=math.isnan(trained.accuracy),
            bits_up=_known(trained.bits_up),
            bits_down=_known(trained.bits_down),
            same_symbols_bits_up=_known(trained.bits_up_other),
            same_symbols_bits_down=_known(trained.bits_down_other),
            cpu_s=round(trained.cpu_s, 1),
        )


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
