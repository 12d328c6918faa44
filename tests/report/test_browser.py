"""The page in a real browser: it fits a phone, follows the colour scheme and shows what it says."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interpretgan.diagnosis.result import Diagnosis
from interpretgan.report import compare_runs, write_comparison, write_report
from tests.report.samples import explanation_of, finished, lenet_diagnosis, with_baselines, with_branches, with_let_in

pytestmark = pytest.mark.needs_browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESKTOP = 390, 1280


class Browser:
    """A headless Chromium driven through the two pipes of its debugging protocol."""

    def __init__(self, program: str, profile: Path) -> None:
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_child, from_child)]

        def place() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        flags += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=place,  # noqa: PLW1509  (no threads here, and the two pipes must become 3 and 4)
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_child, from_child, *ends):
            os.close(end)
        self._buffer, self._count, self._session = b"", 0, None
        target = next(info for info in self._call("Target.getTargets")["targetInfos"] if info["type"] == "page")[
            "targetId"
        ]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def _call(self, method: str, **parameters: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                chunk = os.read(self._in, 1 << 20)
                assert chunk, "the browser closed its pipe"
                self._buffer += chunk
            line, _, self._buffer = self._buffer.partition(b"\0")
            reply = json.loads(line)
            if reply.get("id") == self._count:
                assert "error" not in reply, reply["error"]
                return reply["result"]

    def open(self, page: Path, *, width: int, scheme: str) -> None:
        """Load a page at a width in CSS pixels, in the light or the dark colour scheme."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844 if width == PHONE else 900,
            deviceScaleFactor=1,
            mobile=width == PHONE,
        )
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + 60
        while self.run("location.href + ' ' + document.readyState") != f"{page.as_uri()} complete":
            assert time.monotonic() < deadline, "the page did not load within a minute"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        reply = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def picture(self, *, full: bool = False) -> bytes:
        """What is on the screen, or the whole page, as a PNG file."""
        reply = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=full, **self._clip(full))
        return base64.b64decode(reply["data"])

    def _clip(self, full: bool) -> dict[str, Any]:
        if not full:
            return {}
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert program is not None, "these tests need Chromium"
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def page(diagnosis: Diagnosis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of seven or of twenty-five layers."""
    folder = tmp_path_factory.mktemp("report")
    return write_report(with_baselines(diagnosis), folder, explanation_of(diagnosis, count=2))


@pytest.fixture(scope="session")
def comparison(diagnosis: Diagnosis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three runs of seven or of twenty-five layers, one with a long name."""
    folder = tmp_path_factory.mktemp("comparison")
    names = ("first", "second", "a-run-with-a-name-that-is-longer-than-others")
    found = [
        with_let_in(diagnosis, diagnosis.layers[2].name),
        diagnosis,
        with_branches(diagnosis, diagnosis.layers[1].name),
    ]
    runs = [
        finished(folder / name, each, 3 + place) for place, (name, each) in enumerate(zip(names, found, strict=True))
    ]
    (runs[0] / "config.json").write_text(json.dumps({"generator": {"layers": [row.name for row in diagnosis.layers]}}))
    return write_comparison(compare_runs(runs), folder / "table.csv")


@pytest.fixture(params=["report", "comparison"])
def any_page(request: pytest.FixtureRequest, page: Path, comparison: Path) -> Path:
    """Both pages."""
    return page if request.param == "report" else comparison


def pixels(file: bytes) -> Any:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(file)).convert("L"), dtype=np.float64)


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_follows_the_colour_scheme(browser: Browser, any_page: Path, width: int, scheme: str) -> None:
    browser.open(any_page, width=width, scheme=scheme)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    box = browser.run("(({left, right, top, bottom}) => [left, right, top, bottom])"
                      "(document.querySelector('h1').getBoundingClientRect())")  # fmt: skip
    assert 0 <= box[0] < box[1] <= width
    assert 0 <= box[2] < box[3] <= 844
    assert ("vulnerability of" if any_page.name == "report.html" else "differ from first") in browser.run(
        "document.querySelector('h1').innerText"
    )
    seen = pixels(browser.picture())
    assert seen.std() > 5
    assert (np.median(seen) > 200) == (scheme == "light")


def test_nothing_sticks_out_of_the_phone_but_what_scrolls(browser: Browser, any_page: Path) -> None:
    browser.open(any_page, width=PHONE, scheme="light")
    outside = browser.run(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('svg')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    table = ".pictures" if any_page.name == "report.html" else "#figures table"
    assert browser.run(f"(e => e.scrollWidth > e.clientWidth)(document.querySelector('{table}').parentNode)")


def test_row_labels_stay_in_sight_while_the_pictures_scroll(browser: Browser, page: Path) -> None:
    browser.open(page, width=PHONE, scheme="light")
    left = browser.run(
        "(() => { const table = document.querySelector('.pictures'); table.parentNode.scrollLeft = 150;"
        " return table.querySelector('.natural th').getBoundingClientRect().left })()"
    )
    assert 0 <= left < 40


def test_names_and_values_do_not_overlap(browser: Browser, any_page: Path) -> None:
    for width in (PHONE, DESKTOP):
        browser.open(any_page, width=width, scheme="light")
        clashes = browser.run(
            "[...document.querySelectorAll('.bars li')].filter(row => { const [name, value] ="
            " ['.name', '.value'].map(s => row.querySelector(s).getBoundingClientRect());"
            " const inside = name.bottom <= row.getBoundingClientRect().bottom + 1"
            " && name.top >= row.getBoundingClientRect().top - 1;"
            " return name.height && (name.right > value.left + 1 || !inside) }).map(row => row.innerText)"
        )
        assert clashes == [], width


def test_text_contrast_is_at_least_four_and_a_half(browser: Browser, page: Path) -> None:
    luminance = (
        "const part = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;"
        "const lum = ([r, g, b]) => .2126 * part(r / 255) + .7152 * part(g / 255) + .0722 * part(b / 255);"
        "const rgb = name => { const e = document.createElement('i'); e.style.color = `var(--${name})`;"
        " document.body.append(e); const c = getComputedStyle(e).color; e.remove();"
        " return lum(c.match(/[\\d.]+/g).map(Number)) };"
        "const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);"
    )
    for scheme in ("light", "dark"):
        browser.open(page, width=DESKTOP, scheme=scheme)
        for ink in ("ink", "quiet", "adv", "nat", "good"):
            for ground in ("ground", "raised", "tint"):
                script = f"(() => {{ {luminance} return ratio(rgb('{ink}'), rgb('{ground}')) }})()"
                assert browser.run(script) >= 4.5, (scheme, ink, ground)


def test_the_page_asks_the_network_for_nothing(browser: Browser, any_page: Path) -> None:
    browser.open(any_page, width=DESKTOP, scheme="light")
    assert browser.run("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    broken = "[...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).length"
    assert browser.run(broken) == 0


def test_the_picture_of_the_charts_shows_in_both_schemes(browser: Browser, page: Path) -> None:
    for scheme in ("light", "dark"):
        browser.open(page.parent / "figures" / "vulnerability.svg", width=DESKTOP, scheme=scheme)
        assert pixels(browser.picture()).std() > 5


def test_a_head_sorts_a_name_shows_its_pictures_and_a_cell_its_images(browser: Browser, tmp_path: Path) -> None:
    lenet = lenet_diagnosis()
    explanation = explanation_of(lenet, count=2) | {"indices": np.array([3, 5])}
    shown = np.zeros((8, 6), dtype=np.int64)  # the images 3 and 5, a 7 and a 1, are shown as a 0 at every row
    page = write_report(lenet, tmp_path, explanation, {"labels": np.array([0, 1, 2, 7, 4, 1]), "adversarial": shown})
    browser.open(page, width=DESKTOP, scheme="light")
    names = "[...document.querySelectorAll('#figures tbody')[0].rows].map(r => r.querySelector('.name').textContent)"
    lost = [row.vulnerability.value for row in lenet.layers]
    assert browser.run(names) == [row.name for row in lenet.layers]
    head = "document.querySelector('#figures th:nth-child(6)')"
    browser.run(f"{head}.querySelector('button').click()")
    most = [lenet.layers[place].name for place in np.argsort([-value for value in lost[1:]], kind="stable") + 1]
    assert browser.run(names) == [*most, "image"]  # which has no vulnerability
    assert browser.run(f"{head}.getAttribute('aria-sort')") == "descending"

    browser.run("[...document.querySelectorAll('#layers .name[role=button]')].find(b => b.innerText === 'fc1').click()")
    chosen = "[...document.querySelectorAll('.chosen')]"
    assert browser.run(f"{chosen}.map(cell => cell.tagName)") == ["TH", *["TD"] * 6]
    assert browser.run(f"{chosen}[0].textContent") == "fc1"

    browser.run("document.querySelectorAll('#classes details').forEach(d => d.open = true)")
    cell = "document.querySelector('table.heat[data-layer=fc1] td[data-cases=\"3\"]')"
    browser.run(f"{cell}.click()")
    text = browser.run("document.querySelector('.cases').innerText")
    assert "7 shown as 0 at fc1" in text
    assert "--images 3" in text
    assert browser.run("document.querySelectorAll('.cases img').length") == 4


def test_branches_stay_below_their_block_and_every_name_shows_its_own_pictures(
    browser: Browser, tmp_path: Path
) -> None:
    lenet = with_branches(with_baselines(lenet_diagnosis()), "fc1")
    browser.open(write_report(lenet, tmp_path, explanation_of(lenet, count=2)), width=DESKTOP, scheme="light")
    layers = [row.name for row in lenet.layers]
    for list_ in ("#layers", "#figures table", "#blocks table", "#blocks ol", "#baselines"):
        shown = browser.run(
            f"[...document.querySelectorAll('{list_} .name[role=button]')].map(name => {{ name.click();"
            " return [name.textContent, document.querySelector('.pictures .chosen').textContent] })"
        )
        assert shown, list_
        assert all(name == picture and name in layers for name, picture in shown), list_

    browser.run("document.querySelectorAll('#figures th button')[5].click()")
    names = browser.run(
        "[...document.querySelectorAll('#figures tbody')[0].rows].map(r => r.querySelector('.name').textContent)"
    )
    block = names.index("fc1")
    assert names[block + 1 : block + 4] == [branch.name for branch in lenet.layers[layers.index("fc1")].branches]
    assert names[:block] + names[block + 4 :] != layers[:-1]


def test_no_two_rows_overlap_at_any_width(browser: Browser, any_page: Path) -> None:
    for width in (360, 520, 700, 832, 1000, 1600):
        browser.open(any_page, width=width, scheme="dark")
        clashes = browser.run(
            "[...document.querySelectorAll('ol.bars, .curve ol, table.numbers tbody')].flatMap(list => {"
            " const boxes = [...list.children].map(row => [...row.querySelectorAll('.name, .value, td, small')]"
            ".map(e => e.getBoundingClientRect()).filter(b => b.height));"
            " return boxes.slice(1).flatMap((row, at) => row.filter(b => boxes[at].some(a =>"
            " a.bottom > b.top + 1 && a.top < b.bottom - 1 && a.left < b.right - 1 && a.right > b.left + 1))"
            ".map(b => [list.className || 'table', at, b.top])) })"
        )
        assert clashes == [], width
        last = browser.run(
            "[...document.querySelectorAll('.scroll')].filter(box => { box.scrollLeft = 1e6; const row ="
            " box.querySelector('table').rows[1] || box.querySelector('table').rows[0];"
            " return row.cells[row.cells.length - 1].getBoundingClientRect().right"
            " > box.getBoundingClientRect().right + 1 && box.getBoundingClientRect().width }).length"
        )
        assert last == 0, width


def test_differences_stand_beside_the_run_that_differs(browser: Browser, comparison: Path) -> None:
    browser.open(comparison, width=DESKTOP, scheme="light")
    places = browser.run(
        "[...document.querySelectorAll('#layers .groups > li')].map(layer => [...layer.querySelectorAll('ol')].map("
        "list => [...list.children].map(row => Math.round(row.querySelector('.value').getBoundingClientRect().top))))"
    )
    assert all(runs[1:] == gaps for runs, gaps in places)
    browser.run("document.querySelectorAll('#figures th button')[4].click()")  # second - first
    shown = browser.run("[...document.querySelectorAll('#figures tbody tr')].map(r => r.cells[4].textContent)")
    found = [float(cell.split("[")[0].replace("−", "-")) for cell in shown]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]
