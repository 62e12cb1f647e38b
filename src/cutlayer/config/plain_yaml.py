"""YAML whose numbers are what they look like.

YAML 1.1, which PyYAML reads, takes 010 for eight and 12:30 for 750: both are texts here, so that a
file and the command line mean the same by them.
"""

import re

import yaml

_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader with these numbers."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        letter: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in resolvers]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
