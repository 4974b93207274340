"""report.html: one file without a network; every tab is clicked in a real browser, and says what the plan says."""

import json
import re
import shutil

import pytest

from moe_compiler.report.page import embedded
from moe_compiler.report.timeline import escaped, read_timeline
from tests.command import assert_refused, moec
from tests.conftest import write_tiny
from tests.decoded import decode

MOST_BYTES = 15e6
DRIVER = shutil.which("chromedriver")
TABS = ("overview", "timeline", "memory", "experts", "draft", "roofline", "energy", "passes", "search")


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    top = tmp_path_factory.mktemp("report")
    # Names of others are text, wherever they come from.
    write_tiny(top / "<b>tiny<script>alert(1)")
    common = ("--target", "elmoe3d-4gb", "--context", 64, "--time-limit", 0.5, "--draft-length", 2)
    room = ("--set", "memories.hb.capacity_gb=0.0003")
    done = moec("compile", top / "<b>tiny<script>alert(1)", *common, *room, "--report", "-o", top / "out")
    assert done.returncode == 0, done.stderr
    return top / "out"


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def browser():
    if DRIVER is None:
        pytest.skip("no chromedriver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    # Nothing is fetched: the page must not need a network.
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
    yield driver
    driver.quit()


def settled(browser):
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))")


def drawn(browser, name):
    script = (
        "const b = document.querySelector(`[data-figure=${arguments[0]}]`); return b.calcdata.map(bars => bars.length)"
    )
    return browser.execute_script(script, name)


def test_every_tab_is_drawn_and_the_console_stays_empty(browser, folder, page):
    browser.get((folder / "report.html").as_uri().replace("#", "%23"))
    assert "tiny" in browser.title
    tabs = browser.find_elements("css selector", "nav button")
    assert tuple(tab.get_attribute("data-tab") for tab in tabs) == TABS
    for tab in tabs:
        tab.click()
        settled(browser)
        shown = browser.find_elements("css selector", "section.shown")
        assert [section.get_attribute("id") for section in shown] == [tab.get_attribute("data-tab")]
        assert shown[0].text.strip() or shown[0].find_elements("css selector", ".figure svg")
        for figure in shown[0].find_elements("css selector", ".figure"):
            assert figure.find_elements("css selector", "svg.main-svg"), figure.get_attribute("data-figure")
    assert browser.get_log("browser") == []
    _, slices, _ = decode((folder / "timeline.perfetto-trace").read_bytes())
    assert sum(drawn(browser, "timeline")) == len(slices)


def test_a_search_finds_tasks_and_leads_to_the_timeline(browser, folder):
    browser.get((folder / "report.html").as_uri().replace("#", "%23"))
    browser.find_element("css selector", "[data-tab=search]").click()
    plan = json.loads((folder / "plan.json").read_text())
    loads = [task for task in plan["round"]["tasks"] if task["kind"] == "load" and task["layer"] == 1]
    browser.find_element("id", "query").send_keys("load L1 ")
    rows = browser.find_elements("css selector", "#found tr[data-task]")
    assert [int(row.get_attribute("data-task")) for row in rows] == [task["id"] for task in loads]
    rows[0].click()
    settled(browser)
    assert browser.find_element("css selector", "section.shown").get_attribute("id") == "timeline"
    script = "return document.querySelector('[data-figure=timeline]').layout.xaxis.range"
    low, high = browser.execute_script(script)
    start, length = loads[0]["start_seconds"] * 1e3, loads[0]["seconds"] * 1e3
    assert low < start < start + length < high
    # An operation of the model leads to its tasks.
    browser.find_element("css selector", "[data-tab=search]").click()
    box = browser.find_element("id", "query")
    box.clear()
    box.send_keys("@verify_step moe.experts")
    found = browser.find_elements("css selector", "#found tr[data-find]")
    assert len(found) == len(plan["layers"])
    found[-1].click()
    settled(browser)
    shown = browser.execute_script("return document.querySelector('[data-figure=timeline]').layout.annotations[0].text")
    assert f"expert L{plan['layers'][-1]['layer']}" in shown
    assert browser.get_log("browser") == []


def test_the_page_needs_nothing_and_is_small(page):
    assert len(page) < MOST_BYTES
    without_library = page[page.index("const FIGURES") :] + page[: page.index("<script>")]
    for words in ('src="http', "@import", "<link rel=stylesheet", "<iframe"):
        assert words not in without_library


def test_names_of_others_are_text(page):
    assert "<script>alert" not in page
    assert "<b>tiny" not in page
    assert "&lt;b&gt;tiny" in page
    assert embedded({"a": "</script><!--"}) == '{"a":"\\u003c/script>\\u003c!--"}'
    assert escaped("<a>&<br>b") == "&lt;a&gt;&amp;<br>b"


def test_figures_are_what_the_plan_says(folder, page):
    plan, cost = (json.loads((folder / f"{name}.json").read_text()) for name in ("plan", "cost"))
    figures = json.loads(re.search(r"const FIGURES = (.*), TASKS = ", page)[1])
    bars = {bar["name"]: bar["x"][0] for bar in figures["memories"]["data"] if "x" in bar and bar.get("name")}
    assert bars["experts"] == pytest.approx(plan["hb"]["expert_bytes"] / 1e6)
    assert sum(bar["y"][0] for bar in figures["memories"]["data"][4:7]) == sum(
        len(la["residency"]) for la in plan["layers"]
    )
    tried = {s["length"]: s["seconds"] for s in plan["weighed"] if s["role"] in ("chosen", "dispatched")}
    dispatched = next(line for line in figures["draft"]["data"] if line["name"] == "dispatched")
    assert dispatched["x"] == sorted(tried)
    assert {max(dispatched["y"])} == {1 / min(tried.values())}
    parts = dict(zip(figures["energy"]["data"][0]["x"], figures["energy"]["data"][0]["y"], strict=True))
    assert parts == {name: pytest.approx(value * 1e3) for name, value in cost["joules_by_part"].items()}
    assert len(json.loads(re.search(r", TASKS = (.*), OPERATIONS = ", page)[1])) == len(plan["round"]["tasks"])
    maps = figures["banks"]["data"]
    assert maps[0]["name"] == "MB of experts"


def test_a_measured_run_is_shown_beside(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "measured.perfetto-trace").write_bytes((folder / "timeline.perfetto-trace").read_bytes())
    done = moec("report", tmp_path / "run", "-o", tmp_path / "page.html")
    assert done.stdout == f"written to {tmp_path / 'page.html'}\n"
    assert 'data-figure="measured"' in (tmp_path / "page.html").read_text()


def test_folders_that_are_no_compile_and_traces_that_are_none_are_refused(folder, tmp_path):
    assert_refused(moec("report", tmp_path), "is no compile of ours")
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad" / "timeline.perfetto-trace").write_bytes(b"\xff" * 100)
    assert_refused(moec("report", tmp_path / "bad"), "is no Perfetto trace")
    assert read_timeline(tmp_path / "none") is None
    assert_refused(moec("report", folder, "-o", tmp_path / "no" / "where.html"), "valid: the path of a file")
