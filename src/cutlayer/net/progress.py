"""How far a device is in the round, as the server's session keeps it.

Knows a device's place and its last reply; decides nothing.
"""

from dataclasses import dataclass

from cutlayer.net.messages import Gradient

# what a device that loses its state may cost in one round: its steps so many times again
RESTARTS = 8


@dataclass(frozen=True)
class Progress:
    """How far a device is in the round: what it sends next, and the last reply that it was sent.

    `restarts`: how often what it had done was void.
    """

    step: int = 0
    micro: int = 0
    reply: Gradient | None = None
    done: bool = False
    restarts: int = 0

    @property
    def untouched(self) -> bool:
        """Whether nothing of the round is done."""
        return self.reply is None
