"""What the adapter section leaves open. Imports no torch."""

from cutlayer.config.schema import AdapterSection
from cutlayer.spec import Task


def trains_head(section: AdapterSection, task: Task) -> bool:
    """Whether the head is trained; unless said, where it is a classifier's."""
    return task != "causal-lm" if section.head is None else section.head
