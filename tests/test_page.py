"""The report of a comparison, looked at as a reader does: in a browser, by its own network and its own eyes."""

import os
import re
import shutil

import numpy as np
import pytest
from compared import fake_run
from PIL import Image
from runs import call

from saltseg import compare

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two networks, one of which has a name that would be HTML."""
    top = tmp_path_factory.mktemp("page")
    runs = [
        fake_run(top / str(k), model=model, down=down, noise=0.15)
        for k, (model, down) in enumerate((("resnet18", 4), ("<b>bold</b>", 0), ("resnet50", 2)))
    ]
    call(compare.main, f"runs=[{','.join(map(str, runs))}]", f"hydra.run.dir={top / 'out'}")
    return top / "out" / "report.html"


def test_the_page_is_one_file_of_reasonable_size(page):
    text = page.read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href)=["'](?!data:)\S+""", own) == []
    assert "&lt;b&gt;bold&lt;/b&gt;" in own
    assert "<b>bold" not in own
    assert own.count('src="data:image/png;base64,') == 8  # those with salt; of those without all are wrong alike
    assert page.stat().st_size < 8e6


@pytest.fixture(scope="module")
def chromium():
    """A real browser, headless."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # which root can't have
        browser = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, page):
    """Opens the report; gives the tab, and fails if it asked the network for anything or complained."""
    wrong, tabs = [], []

    def open_in(**options):
        tab = chromium.new_page(**options)
        tab.set_default_timeout(120_000)  # the file is large, the machine may be small and busy
        tab.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url))
        tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: wrong.append(str(e)))
        tab.goto(page.as_uri())
        tab.wait_for_selector("#against .point")  # the last chart
        tabs.append(tab)
        return tab

    yield open_in
    assert wrong == []
    for tab in tabs:
        tab.close()


def screenshot(tab, path):
    tab.screenshot(path=path)
    return np.asarray(Image.open(path).convert("L"), float)


def test_charts_answer_to_the_pointer(opened):
    tab = opened(viewport={"width": 1200, "height": 900})
    tab.locator("#means .point").first.hover(force=True)
    tab.wait_for_selector("#means .hoverlayer .hovertext")
    assert re.search(r"resnet18.*\d\.\d{4} \[", tab.locator("#means .hoverlayer").text_content())


def test_tables_are_sorted_by_a_click_on_a_head(opened):
    tab = opened(viewport={"width": 1200, "height": 900})
    head = tab.locator("#images thead button").nth(2)
    cells = tab.locator("#images tbody td:nth-child(3)")
    for direction in (-1, 1):
        head.click()
        shares = [int(text.strip("%")) for text in cells.all_text_contents()]
        assert len(set(shares)) > 3
        assert shares == sorted(shares, reverse=direction < 0)
    assert tab.locator("#images thead th").nth(2).get_attribute("aria-sort") == "ascending"


def test_light_dark_phone_and_paper(opened, tmp_path):
    light, dark = (
        screenshot(opened(viewport={"width": 1200, "height": 900}, color_scheme=scheme), tmp_path / f"{scheme}.png")
        for scheme in ("light", "dark")
    )
    assert np.median(light) > 240
    assert np.median(dark) < 40
    for shown in (light, dark):
        assert np.mean(np.abs(shown - np.median(shown)) > 60) > 0.01  # text and lines stand out in both
    phone = opened(viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    for chart in phone.locator(".js-plotly-plot .main-svg").all():
        assert chart.bounding_box()["width"] <= 390
    paper = tmp_path / "paper.pdf"
    phone.pdf(path=paper)
    assert paper.read_bytes().startswith(b"%PDF")
