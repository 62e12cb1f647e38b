"""The live page in a browser: what it shows of a run, what it makes of harm and of silence."""

import asyncio
import math
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Seen, look, needs_browser, picture
from net import watched
from PIL import Image, ImageColor

from cutlayer.net.operations.status import RunStatus
from cutlayer.net.operations.web import Answer, Operations
from cutlayer.net.wire.listener import LOOPBACK
from cutlayer.report import wording
from cutlayer.report.live_page import live_page
from cutlayer.training.records import RoundRecord, TrainedRound

ROOT = Path(__file__).parents[2]
Run = tuple[RunStatus, Sequence[RoundRecord]]


def operations(run: Run, page: Answer | None = None) -> Operations:
    """The port of a run that stands still."""
    status, history = run

    def after(number: int) -> list[RoundRecord]:
        return [one for one in history if one.round > number][:500]

    return Operations(page or live_page(), lambda: status, after)


def seen(run: Run, folder: Path, page: Answer | None = None, *, width: int = 1280) -> Seen:
    """The page of a run."""

    async def play() -> Seen:
        port = operations(run, page)
        try:
            number = await port.open(LOOPBACK, 0)
            return await look(f"http://{LOOPBACK}:{number}/", folder, width=width)
        finally:
            await port.close()

    return asyncio.run(play())


def pixels(run: Run, folder: Path, size: tuple[int, int], *, dark: bool = False) -> np.ndarray:
    """The page as it looks, (height, width, 3)."""

    async def play() -> Path:
        port = operations(run)
        try:
            number = await port.open(LOOPBACK, 0)
            return await picture(f"http://{LOOPBACK}:{number}/", folder, size, dark=dark)
        finally:
            await port.close()

    with Image.open(asyncio.run(play())) as image:
        return np.asarray(image.convert("RGB"))


def test_the_page_is_whole_and_asks_for_nothing_else() -> None:
    page = live_page().body.decode()
    assert "{{" not in page and "{%" not in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "innerHTML" not in page


def test_the_package_has_all_files_of_all_pages() -> None:
    package = ROOT / "src/cutlayer"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {
        path for pattern in settings["package-data"]["cutlayer"] for path in package.glob(pattern)
    }
    for folder in ("report/live", "report/templates"):
        assert packed >= set((package / folder).iterdir())


@needs_browser
def test_a_run_as_it_goes(tmp_path: Path) -> None:
    run = status, _ = watched.running(7)
    page = seen(run, tmp_path)
    assert page.complaints == ()
    for text in (
        status.run,
        status.title,
        "round 8 of 20",
        "73.3 %",
        "+63.1 points since round 0",
        "for 21 s, deadline 15 min 00 s",
        "2 of 3",
        "pi-1 (device 0)",
        "away for 47 s",
        "5 of 10",
        "10 of 10, adapter sent",
        "612 MiB",
        "3.00 MiB of at most 90.0 MiB for frames",
        "up 1 h 12 min",
        "88.0 MiB",
        "overhead",
        "not observed",
    ):
        assert text in page.text, text
    phases = watched.phases(1, 1)
    for phase in phases:
        assert wording.PHASES[phase].label in page.text
    # six of seven rounds are known by phase, of one the sum alone
    filled = page.html.count('<rect class="fill"') + page.html.count('<rect class="fill wait"')
    assert filled == 6 * len(phases) + 1
    # rounds 0 to 7: a dot each of the accuracy and both losses, but for a loss before training
    assert page.html.count("<circle") == 8 + 8 + 7


@needs_browser
def test_a_run_that_waits(tmp_path: Path) -> None:
    page = seen(watched.waiting(), tmp_path)
    assert page.complaints == ()
    assert "waiting for devices" in page.text
    assert "No round has finished yet." in page.text and "nothing sent yet" in page.text
    assert page.text.count("not connected yet") == 3
    assert "NaN" not in page.html and "undefined" not in page.text and "null" not in page.text


@needs_browser
def test_a_run_that_has_ended_or_failed(tmp_path: Path) -> None:
    status, history = watched.ended()
    page = seen((status, history), tmp_path)
    assert "finished" in page.text and "all rounds closed" in page.text
    failed = status.process.model_copy(update={"failure": "cannot write runs: no space left"})
    status = status.model_copy(update={"finished": False, "process": failed})
    page = seen((status, history), tmp_path)
    assert "failed: cannot write runs: no space left" in page.text


@needs_browser
def test_a_name_is_never_html(tmp_path: Path) -> None:
    status, history = watched.besieged()
    named = {"run": watched.HOSTILE, "title": watched.HOSTILE}
    page = seen((status.model_copy(update=named), history), tmp_path)
    assert page.complaints == ()
    assert page.text.count(watched.HOSTILE) >= 4  # the window's title, run, title, device
    assert "<img" not in page.html


def without(values: dict[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in values.items() if key != name}


@needs_browser
def test_a_perplexity_and_losses_that_are_not_finite(tmp_path: Path) -> None:
    scores = [40.0, 39.0, math.nan, 37.0, 36.0]
    history = [
        type(one).model_validate(
            {**without(one.written(), "accuracy"), "perplexity": score, "eval_loss": math.inf}
        )
        for one, score in zip(watched.rounds(4), scores, strict=True)
    ]
    page = seen((watched.status(history, (watched.device(0, 4),)), history), tmp_path)
    assert page.complaints == ()
    assert "Perplexity" in page.text and "36.0" in page.text
    assert "40.0 before training" in page.text and "NaN" not in page.html


@needs_browser
def test_rounds_that_were_not_evaluated_and_a_run_that_ended_early(tmp_path: Path) -> None:
    """The score is that of the last round that has one."""
    history = [
        one
        if one.round in (0, 1, 2)
        else type(one).model_validate(without(without(one.written(), "accuracy"), "eval_loss"))
        for one in watched.rounds(4)
    ]
    status = watched.status(history, (watched.device(0, 4),))
    early = {"finished": True, "round": 4, "rounds": 9}
    page = seen((status.model_copy(update=early), history), tmp_path)
    assert page.complaints == ()
    score = history[2].accuracy
    assert score is not None and f"{100 * score:.1f}" in page.text
    assert "ended early" in page.text and "4 of 9" in page.text
    assert "NaN" not in page.text and "undefined" not in page.text


@needs_browser
def test_more_rounds_than_one_answer_has(tmp_path: Path) -> None:
    page = seen(watched.running(1203, of=2000), tmp_path)
    assert page.complaints == ()
    assert "of 1203 rounds." in page.text
    (table,) = (part for part in page.html.split("<tbody") if part.startswith(' id="rounds"'))
    assert table.count("<tr>") == 1204


def extended(script: str) -> Answer:
    """The page with a script that runs after its own has drawn, and no policy against it."""
    own, end = live_page(), b"</script>\n</body>"
    assert end in own.body
    late = f"setTimeout(() => {{ {script} }}, 2000);".encode()
    return replace(own, body=own.body.replace(end, late + end), policy="")


@needs_browser
def test_what_a_script_does_wrong_would_be_seen(tmp_path: Path) -> None:
    """The checks above could fail: an error is told, and so is a script without leave."""
    run = watched.waiting()
    assert any("Uncaught" in one for one in seen(run, tmp_path, extended("gone();")).complaints)
    strange = replace(extended(""), policy=live_page().policy)
    assert any("violates" in one for one in seen(run, tmp_path, strange).complaints)


@needs_browser
def test_a_narrow_window_is_wide_enough(tmp_path: Path) -> None:
    script = "document.title = `${innerWidth} ${document.documentElement.scrollWidth}`;"
    page = seen(watched.running(30, 20), tmp_path, extended(script), width=520)
    title = page.html.split("<title>")[1].split("</title>")[0]
    window, content = map(int, title.split())
    assert content <= window <= 520


@needs_browser
def test_a_round_is_looked_at_with_the_keys(tmp_path: Path) -> None:
    page = extended(
        'document.querySelector("#delays svg").dispatchEvent('
        'new KeyboardEvent("keydown", { key: "ArrowLeft" }));'
    )
    run = _, history = watched.running(5)
    before, after = seen(run, tmp_path), seen(run, tmp_path, page)
    last = history[5]
    assert isinstance(last, TrainedRound)
    delay_s = last.delay_s
    assert f"round 5 {delay_s:.1f} s" not in before.text
    assert f"round 5 {delay_s:.1f} s" in after.text


@needs_browser
def test_a_page_that_is_looked_at_again_asks_once(tmp_path: Path) -> None:
    status, _ = watched.running(3)
    heard = 0

    def ask() -> RunStatus:
        nonlocal heard
        heard += 1
        return status

    again = 'for (let n = 0; n < 50; n++) document.dispatchEvent(new Event("visibilitychange"));'

    async def play() -> None:
        port = Operations(extended(again), ask, lambda _: ())
        try:
            number = await port.open(LOOPBACK, 0)
            await look(f"http://{LOOPBACK}:{number}/", tmp_path)
        finally:
            await port.close()

    asyncio.run(play())
    # every 1.5 s of 3, and once more for all fifty
    assert 2 <= heard <= 5


@needs_browser
def test_a_server_that_goes_away(tmp_path: Path) -> None:
    """The page keeps what it has, and says since when that is old."""
    status, history = watched.running(3)

    async def play() -> Seen:
        loop, heard = asyncio.get_running_loop(), 0

        def ask() -> RunStatus:
            nonlocal heard
            heard += 1
            if heard == 2:
                loop.call_soon(lambda: closing.append(loop.create_task(port.close())))
            return status

        closing: list[asyncio.Task[None]] = []
        port = Operations(live_page(), ask, lambda number: history[number + 1 :])
        number = await port.open(LOOPBACK, 0)
        page = await look(f"http://{LOOPBACK}:{number}/", tmp_path, virtual_ms=12_000)
        await asyncio.gather(*closing)
        return page

    page = asyncio.run(play())
    assert "lost contact" in page.text and "next try in" in page.text
    assert "pi-1" in page.text


@needs_browser
@pytest.mark.parametrize("devices", [3, 20])
def test_how_it_looks(devices: int, tmp_path: Path) -> None:
    """Drawn in the report's colours, light and dark."""
    run = watched.running(12, devices)
    light = pixels(run, tmp_path, (1280, 1700))
    dark = pixels(run, tmp_path, (1280, 1700), dark=True)
    assert light[2, 2].min() > 200 and dark[2, 2].max() < 60
    for word in ("device_forward", "device_backward", "activation_up", "server_compute"):
        colour = ImageColor.getrgb(wording.PHASES[word].colour)
        # a column of twelve is wider than ten pixels, a phase of it higher than three
        assert (light == colour).all(axis=2).sum() > 12 * 10 * 3, word
    assert light.std() > 10 and dark.std() > 10
