"""Who hears what is logged: nobody who did not ask, each line once, and as before at the end."""

import json
import logging
import resource
import subprocess
import sys
import warnings

import pytest

from cutlayer.cli.network import allow_descriptors
from cutlayer.cli.settings import log_lines
from cutlayer.logs import heard_through, lines_to, records_to, unheard

_ROOT = logging.getLogger("cutlayer")
_LOG = logging.getLogger("cutlayer.somewhere")


def test_lines_are_bare_and_a_warnings_says_so() -> None:
    said: list[str] = []
    with lines_to(said.append):
        _LOG.info("model %s", "tiny")
        _LOG.warning("100 % unknown")
        _LOG.debug("not for a person")
    assert said == ["model tiny", "warning: 100 % unknown"]


def test_quiet_leaves_warnings() -> None:
    said: list[str] = []
    with lines_to(said.append, quiet=True):
        _LOG.info("model tiny")
        _LOG.warning("odd")
    assert said == ["warning: odd"]


def test_the_innermost_hears_alone_and_all_is_as_before_at_the_end() -> None:
    before = _ROOT.handlers, _ROOT.level
    outer: list[str] = []
    inner: list[logging.LogRecord] = []
    with lines_to(outer.append, quiet=True):
        with pytest.raises(KeyError), records_to(inner.append):
            _LOG.info("inside")
            raise KeyError
        _LOG.info("quiet again")
        _LOG.warning("outside")
    assert [record.getMessage() for record in inner] == ["inside"]
    assert outer == ["warning: outside"]
    assert (_ROOT.handlers, _ROOT.level) == before


def test_what_is_heard_may_be_less_or_other() -> None:
    said: list[str] = []

    def named(record: logging.LogRecord) -> bool:
        record.msg = f"fig4: {record.msg}"
        return "%d" in record.msg

    with lines_to(said.append):
        with heard_through(named):
            _LOG.info("step %d", 3)
            _LOG.info("nothing new")
        with unheard():
            _LOG.warning("nothing new")
        _LOG.info("end")
    assert said == ["fig4: step 3", "end"]


def test_a_program_that_does_not_ask_hears_nothing() -> None:
    code = "import logging, cutlayer; logging.getLogger('cutlayer.x').warning('odd')"
    heard = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert heard.stderr == heard.stdout == b""


def test_a_services_standard_error_has_json_lines_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """asyncio's errors and libraries' warnings too, and no control character of a stranger's."""
    with log_lines(quiet=False):
        _LOG.info("a setting \u009b31m\u2028\x7f of a device\n")
        logging.getLogger("asyncio").error("socket.accept() out of system resource")
        warnings.simplefilter("default")
        warnings.warn("slow\nhere", RuntimeWarning, stacklevel=1)
    said = capsys.readouterr().err
    assert said.isascii() and said.replace("\n", "").isprintable()
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["level"] for line in lines] == ["info", "error", "warning"]
    assert lines[0]["message"] == "a setting \u009b31m\u2028\x7f of a device\n"
    assert lines[2]["message"] == "slow here"
    _LOG.warning("after")
    logging.getLogger("asyncio").info("after")
    assert "{" not in capsys.readouterr().err


def test_a_server_may_open_as_many_files_as_the_system_lets_it() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 512), before[1]))
    try:
        allow_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(before[1], 65_536), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
