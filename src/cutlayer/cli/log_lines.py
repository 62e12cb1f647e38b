"""Log lines of the network commands: one JSON object a line on standard error."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import final


@final
class JsonLines(logging.Formatter):
    """Time (UTC), level, where it was said, and what."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_lines(quiet: bool) -> None:
    """From here on, what cutlayer logs goes to standard error so; `quiet`: warnings alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("cutlayer")
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
