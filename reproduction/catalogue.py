"""The tables and figures of the paper by name: what each shows, and what making it takes.

Imports none of them: torch and matplotlib take seconds.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One of the paper's. `training_minutes`: about how long its trainings take on one core at
    their default size, 0 where nothing is trained.
    """

    what: str
    training_minutes: int = 0

    @property
    def takes(self) -> str:
        """What making it takes, in words."""
        if self.training_minutes:
            return f"trains, about {self.training_minutes} minutes"
        return "computed in seconds"


FIGURES: dict[str, Figure] = {
    "table1": Figure("memory of devices and of models"),
    "table2": Figure("the setting: the table against the text and the results"),
    "table3": Figure("device memory by scheme, row by row"),
    "fig4": Figure("accuracy surface over sparsity and bits, its cubic fit", 7),
    "fig5": Figure("accuracy by round of every scheme, two partitions", 12),
    "fig6": Figure("device memory by blocks on the device"),
    "fig7": Figure("accuracy against sparsity and against bit width; 12x and 20x", 10),
    "fig8": Figure("volume by scheme and by way of compressing"),
    "fig9": Figure("convergence of the two-timescale algorithm"),
    "fig10": Figure("delay by allocation of bandwidth"),
    "fig11": Figure("delay by scheme on two data sets"),
    "fig12": Figure("delay by scheme with ViT-L"),
    "fig13": Figure("delay by scheme with 20 devices"),
    "fig14": Figure("accuracy by round with less data", 8),
    "theorem1": Figure("the convergence bound against SGD on quadratics"),
    "headline": Figure("every headline number, from one fitted constant"),
}


def figures(*, analytic: bool = False) -> tuple[str, ...]:
    """The names in the paper's order; `analytic`: without any training."""
    return tuple(
        name for name, figure in FIGURES.items() if not (analytic and figure.training_minutes)
    )
