"""The page, read in headless Chromium as a person reads it."""

import json
import shutil
import time

import pytest
from sweep_folders import make_sweep

from kd_research.report import compare_sweeps, load_sweep, write_report
from kd_research.report.page import page_data, render

BROWSER = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), ""
)
DRIVER = shutil.which("chromedriver") or ""
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver on the PATH"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("profile")
    for flag in ["headless=new", "no-sandbox", "enable-unsafe-swiftshader", "disable-gpu"]:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--window-size=1300,1000")
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(profile / "downloads")}
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = make_sweep(tmp_path_factory.mktemp("sweeps") / "digits-kd")
    return write_report(folder).sweep


def wait_for(condition):
    deadline = time.monotonic() + 600
    while not (found := condition()):
        assert time.monotonic() < deadline, "the page did not get there"
        time.sleep(0.05)
    return found


def open_page(browser, folder, name="report.html"):
    browser.get((folder / name).as_uri())
    ready = "return document.body.dataset.ready"
    assert wait_for(lambda: browser.execute_script(ready)) == "true"


@pytest.fixture
def page(browser, sweep):
    open_page(browser, sweep.directory)
    return browser


def column(page, name):
    """The texts of a column of the table, by its header."""
    heads = [h.text.rstrip(" ▲▼") for h in page.find_elements("css selector", "#trials th")]
    place = heads.index(name) + 1
    return [
        c.text for c in page.find_elements("css selector", f"#trials tbody td:nth-child({place})")
    ]


def head(page, name):
    return page.find_element("css selector", f'#trials [data-column="{name}"]')


@needs_browser
def test_it_opens_without_errors_or_network(page):
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    requests = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = [r["params"]["request"]["url"] for r in requests if "requestWillBeSent" in r["method"]]
    assert any(url.startswith("file:") for url in urls)  # the log does see requests
    assert [url for url in urls if url.startswith(("http", "ws"))] == []
    for name in ("history", "importance", "curves", "reliability", "parallel"):
        page.execute_script(f"document.getElementById('{name}').scrollIntoView()")
        chart = f"#{name} .main-svg"
        wait_for(lambda chart=chart: page.find_elements("css selector", chart))


@needs_browser
def test_hovering_a_point_shows_trial_and_settings(page, sweep):
    from selenium.webdriver import ActionChains

    page.execute_script("document.querySelector('#front').scrollIntoView()")
    best = sweep.front[0]
    place = page.execute_script(
        "return document.getElementById('front').data.find(t => t.name.includes('front'))"
        f".customdata.indexOf({best.number})"
    )
    trace = "#front .scatterlayer .trace:has(path.point[d^='M5.5,']) path.point"  # of size 11
    mark = page.find_elements("css selector", trace)[place]
    ActionChains(page).move_to_element(mark).perform()
    hover = "#front .hoverlayer .hovertext"
    texts = wait_for(lambda: " ".join(t.text for t in page.find_elements("css selector", hover)))
    assert f"trial {best.number}" in texts
    assert f"val_accuracy {100 * best.mean('val_accuracy'):.2f}%" in texts.replace("  ", " ")
    temperature = best.params["loss.temperature"]
    assert f"loss.temperature = {float(f'{temperature:.4g}'):g}" in texts


@needs_browser
def test_axes_can_be_any_metric_cost_or_setting(page, sweep):
    from selenium.webdriver.support.select import Select

    choice = Select(page.find_element("id", "x-axis"))
    names = [option.text for option in choice.options]
    assert {"latency_ms", "val_nll", "macs", "loss.temperature"} <= set(names)
    choice.select_by_visible_text("latency_ms")
    title = page.find_element("css selector", "#front .xtitle").text
    assert title.startswith("latency_ms")
    drawn = page.execute_script(
        "return document.getElementById('front').data.filter(t => t.customdata)"
        ".flatMap(t => t.customdata.map((i, k) => [i, t.x[k]]))"
    )
    expected = {k: t.mean("latency_ms") for k, t in enumerate(sweep.trials)}
    drawn = [(k, x) for k, x in drawn if x is not None]
    assert len({k for k, _ in drawn}) == sweep.counts["completed"]
    assert all(x == pytest.approx(expected[k], rel=1e-5) for k, x in drawn)
    page.find_element("id", "x-log").click()
    kind = page.execute_script("return document.getElementById('front').layout.xaxis.type")
    assert kind in ("log", "linear")
    page.find_element("id", "x-log").click()
    other = page.execute_script("return document.getElementById('front').layout.xaxis.type")
    assert {kind, other} == {"log", "linear"}


@needs_browser
def test_the_table_sorts_filters_and_downloads(page, sweep):
    assert column(page, "trial") == [str(trial.number) for trial in sweep.trials]
    head(page, "num_params").click()
    sizes = [int(t.replace(",", "")) for t in column(page, "num_params") if t != "–"]
    assert sizes == sorted(sizes)
    assert column(page, "num_params")[-1] == "–"  # what was not measured comes last
    head(page, "num_params").click()
    sizes = [int(t.replace(",", "")) for t in column(page, "num_params") if t != "–"]
    assert sizes == sorted(sizes, reverse=True)
    assert head(page, "num_params").find_element("xpath", "..").get_attribute("aria-sort") == (
        "descending"
    )
    page.find_element("id", "filter").send_keys("failed")
    assert column(page, "trial") == ["3"]
    assert "out of memory while <building>" in column(page, "error")[0]
    assert page.find_element("id", "shown").text == "1 of 24 trials"
    page.find_element("id", "filter").clear()
    page.find_element("id", "filter").send_keys(" ")
    page.find_element("id", "only-front").click()
    assert {int(t) for t in column(page, "trial")} == {t.number for t in sweep.front}
    page.find_element("id", "download").click()
    folder = page.capabilities["chrome"]["userDataDir"]
    from pathlib import Path

    path = Path(folder) / "downloads" / "digits-kd-trials.csv"
    wait_for(path.is_file)
    assert len(path.read_text().splitlines()) == 1 + len(sweep.front)


@needs_browser
def test_choosing_a_trial_gives_its_command(page, sweep):
    from selenium.webdriver import Keys

    row = page.find_element("css selector", '#trials tr[data-index="5"] td')
    row.send_keys(Keys.ENTER)  # by keyboard alone
    command = page.find_element("id", "rerun").text
    assert command == f"python -m kd_research.trial {sweep.trials[5].directory}"
    assert page.find_element("id", "chosen-title").text.startswith("trial 5, completed")
    smallest = min(sweep.front, key=lambda t: (t.mean("num_params"), t.number))
    page.find_element("id", "front").send_keys(*[Keys.ARROW_LEFT] * 30)
    assert f"trial {smallest.number}," in page.find_element("id", "chosen-title").text


@needs_browser
def test_light_and_dark(page):
    shade = "return getComputedStyle(document.body).backgroundColor"
    before = page.execute_script(shade)
    page.find_element("id", "theme").click()
    assert page.execute_script(shade) != before
    colour = "return document.getElementById('front').layout.font.color"
    text = page.execute_script(colour)
    page.find_element("id", "theme").click()
    assert page.execute_script(colour) != text


@needs_browser
def test_seeds_are_error_bars(browser, tmp_path):
    folder = make_sweep(tmp_path / "seeds", num_trials=12, seeds=3)
    sweep = write_report(folder).sweep
    open_page(browser, folder)
    bars = browser.execute_script(
        "return document.getElementById('front').data.find(t => t.name.includes('front'))"
    )
    spread = {k: t.std("val_accuracy") for k, t in enumerate(sweep.trials)}
    expected = [spread[k] for k in bars["customdata"]]
    assert bars["error_y"]["array"] == pytest.approx(expected, rel=1e-5)
    cells = column(browser, "val_accuracy")
    assert [" ± " in cell for cell in cells] == [spread[k] is not None for k in range(12)]
    said = browser.find_element("id", "plus-minus").text
    assert (
        said == "± and the bars are the standard deviation over the n seeds of a trial, n = 2 to 3."
    )
    plain = make_sweep(tmp_path / "one", num_trials=3)
    write_report(plain)
    open_page(browser, plain)
    said = browser.find_element("id", "plus-minus").text
    assert said == "One seed a trial: no value here has a spread over seeds."


@needs_browser
def test_level_trials_are_one_point_and_a_point_links_to_its_folder(browser, tmp_path):
    folder = make_sweep(tmp_path / "level")
    best = load_sweep(folder).front[0]
    record = (best.directory / "record.json").read_text()
    others = [number for number in (0, 1) if number != best.number]
    for number in others:
        (folder / "trials" / f"{number:04d}" / "record.json").write_text(record)
    write_report(folder)
    open_page(browser, folder)
    script = "return document.getElementById('front').data.find(t => t.name.includes('sweep'))"
    trace = browser.execute_script(script)
    count = f"×{1 + len(others)}"
    assert trace["texttemplate"].count(count) == 1
    assert len(trace["x"]) == len(set(zip(trace["x"], trace["y"], strict=True)))
    assert "level with" in browser.find_element("id", "chosen-title").text
    link = browser.find_element("id", "folder")
    number = browser.find_element("id", "chosen-title").text.split()[1].rstrip(",")
    assert link.get_attribute("href") == (folder / "trials" / f"{int(number):04d}").as_uri() + "/"


@needs_browser
def test_a_loss_has_no_si_prefix_and_few_examples_are_open_marks(page):
    found = page.execute_script(
        "return [tickFormat('val_nll', [0.05, 1.2]), tickFormat('num_params', [310, 85002]), "
        "tickFormat('val_accuracy', [0.5])]"
    )
    assert found == [".4~g", "~s", ".1~%"]
    page.execute_script("document.getElementById('reliability').scrollIntoView()")
    wait_for(lambda: page.find_elements("css selector", "#reliability .main-svg"))
    marks = page.execute_script(
        "return document.getElementById('reliability').data[0].marker.symbol"
        ".map((s, k) => [s, document.getElementById('reliability').data[0].customdata[k]])"
    )
    assert {symbol.endswith("-open") == (count < 10) for symbol, count in marks} == {True}


@needs_browser
def test_nothing_is_wider_than_a_telephone(browser, sweep, tmp_path):
    frame = tmp_path / "frame.html"
    page = (sweep.directory / "report.html").as_uri()
    frame.write_text(f"<iframe src='{page}' style='width:375px;height:900px'></iframe>")
    browser.get(frame.as_uri())
    browser.switch_to.frame(browser.find_element("tag name", "iframe"))
    ready = "return document.body.dataset.ready"
    assert wait_for(lambda: browser.execute_script(ready)) == "true"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
    assert "command" in browser.find_element("id", "setup").text


@needs_browser
def test_two_sweeps_on_one_page(browser, sweep, tmp_path):
    other = make_sweep(tmp_path / "other", random_seed=5)
    found = compare_sweeps(sweep.directory, other)
    open_page(browser, sweep.directory, "compare-other.html")
    facts = [item.text for item in browser.find_elements("css selector", "#facts li")]
    assert facts == found.facts()
    rows = browser.find_elements("css selector", "#joint tbody tr")
    assert [row.text.split()[1] for row in rows] == [str(t.number) for _, t in found.joint]
    names = browser.execute_script("return document.getElementById('front').data.map(t => t.name)")
    assert names == [f"{n}, {w}" for n in ("digits-kd", "other") for w in ("dominated", "front")]


@needs_browser
def test_an_empty_sweep_opens(browser, tmp_path):
    from kd_research.records.record import write_json

    write_json(tmp_path / "sweep.yaml", {"objectives": {"val_accuracy": "maximize"}})
    write_report(tmp_path)
    open_page(browser, tmp_path)
    assert "0 of 0 trials" in browser.find_element("id", "shown").text


def test_a_thousand_trials_are_under_five_megabytes(tmp_path):
    folder = make_sweep(tmp_path / "big", num_trials=60)
    # 60 real folders, repeated: the size of the page is what counts.
    sweep = load_sweep(folder)
    page = render(sweep)
    data = len(json.dumps(page_data(sweep)))
    assert len(page.encode()) - data + data * 1000 / 60 < 5_000_000


def test_text_of_trials_cannot_break_out_of_the_page(tmp_path):
    folder = make_sweep(tmp_path / "digits", num_trials=5)
    evil = "</script><script>document.title='broken'</script><!--"
    proposal = {"number": 0, "params": {"loss.name": evil}}
    (folder / "trials" / "0000" / "proposal.json").write_text(json.dumps(proposal))
    page = render(load_sweep(folder))
    assert evil not in page
    assert "\\u003c/script>" in page
