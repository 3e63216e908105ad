"""Reports in a real browser: what can be moved, read and zoomed, and that nothing leaves the page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
from conftest import draw_images
from PIL import Image
from recorded_run import write_recorded_run

from gan_dist.outputs.folder import RunFolder
from gan_dist.outputs.records import read_json_lines
from gan_dist.results.recorded import read_runs
from gan_dist.results.report.page import make_page, write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(chromium.MISSING), reason=chromium.MISSING),
]

LOSSES = "metrics-loss-discriminator-loss-generator"
EPOCHS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = tmp_path_factory.mktemp("browser") / "run"
    distances = [50, 20, 10, 5, 3, 2]
    return write_recorded_run(path, EPOCHS, images=draw_images(64), distances=distances, sessions=(0, 1_200))


@pytest.fixture(scope="module")
def page(folder: RunFolder) -> Path:
    write_report([folder.path], folder.path / "report.html")
    return folder.path / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.browsing() as driver:
        yield driver


def opened(driver: Any, page: Path, width: int = 1280) -> Any:
    chromium.open_page(driver, page, width)
    return driver


def press(driver: Any, *keys: str) -> None:
    """Press keys where the focus is."""
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def chart(driver: Any, name: str) -> Any:
    """Scroll to a chart, and wait until it is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    figure = driver.find_element("css selector", f'figure[data-chart="{name}"]')
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    WebDriverWait(driver, 20).until(lambda _: figure.find_elements("tag name", "canvas"))
    return figure


def legend(figure: Any) -> list[str]:
    """The values that a chart shows."""
    rows = figure.find_elements("css selector", ".u-legend tr:not(.edge) .u-value")
    return [row.get_attribute("textContent") for row in rows]


def shown_picture(driver: Any, selector: str) -> np.ndarray:
    """The pixels of an image of the page, as it was decoded by the browser."""
    script = """
    const [selector, done] = arguments, image = document.querySelector(selector);
    image.decode().then(() => {
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      canvas.getContext('2d').drawImage(image, 0, 0);
      done(canvas.toDataURL('image/png'));
    });
    """
    png = driver.execute_async_script(script, selector).partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def test_the_slider_shows_the_grid_of_its_epoch(browser: Any, page: Path, folder: RunFolder) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = opened(browser, page)
    slider = driver.find_element("css selector", "#samples input[type=range]")

    def check(epoch: int) -> None:
        assert driver.find_element("id", "epoch").text == f"epoch {epoch}"
        assert slider.get_attribute("aria-valuetext") == f"epoch {epoch}"
        expected = np.asarray(Image.open(folder.epoch_samples(epoch)).convert("RGB"))
        assert np.array_equal(shown_picture(driver, "#grid"), expected)

    check(EPOCHS)
    driver.execute_script("arguments[0].focus()", slider)
    for key, epoch in ((Keys.ARROW_LEFT, EPOCHS - 1), (Keys.HOME, 1), (Keys.ARROW_RIGHT, 2), (Keys.END, EPOCHS)):
        press(driver, key)
        check(epoch)
    real = shown_picture(driver, "#samples figure:nth-of-type(2) img")
    assert np.array_equal(real, np.asarray(Image.open(folder.real_samples).convert("RGB")))


def test_play_goes_through_the_epochs_and_stops(browser: Any, page: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    driver = opened(browser, page)
    button = driver.find_element("css selector", "#samples button[data-play]")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    label = driver.find_element("id", "epoch")
    seen = set()

    def at_end(_: Any) -> bool:
        seen.add(label.text)
        return button.get_attribute("aria-pressed") == "false"

    WebDriverWait(driver, 30, poll_frequency=0.05).until(at_end)
    assert len(seen) >= 3
    assert label.text == f"epoch {EPOCHS}"


def test_hovering_reads_the_recorded_value(browser: Any, page: Path, folder: RunFolder) -> None:
    from selenium.webdriver import ActionChains

    driver = opened(browser, page)
    figure = chart(driver, LOSSES)
    over = figure.find_element("css selector", ".u-over")
    ActionChains(driver).move_to_element(over).perform()
    step, discriminator, generator = legend(figure)
    rows = {row["step"]: row for row in read_json_lines(folder.metrics)}
    row = rows[int(step.replace(",", ""))]
    assert float(discriminator) == pytest.approx(row["loss/discriminator"], rel=1e-3)
    assert float(generator) == pytest.approx(row["loss/generator"], rel=1e-3)
    # Dragging zooms, and a double click shows everything.
    whole = driver.execute_script("return arguments[0].plot.scales.x.max - arguments[0].plot.scales.x.min", figure)
    width = over.size["width"]
    actions = ActionChains(driver).move_to_element_with_offset(over, -width // 4, 0).click_and_hold()
    actions.move_by_offset(width // 4, 0).release().perform()
    zoomed = driver.execute_script("return arguments[0].plot.scales.x.max - arguments[0].plot.scales.x.min", figure)
    assert zoomed < 0.4 * whole
    ActionChains(driver).double_click(over).perform()
    again = driver.execute_script("return arguments[0].plot.scales.x.max - arguments[0].plot.scales.x.min", figure)
    assert again == whole


def test_charts_are_operated_by_the_keyboard(browser: Any, page: Path, folder: RunFolder) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = opened(browser, page)
    figure = chart(driver, LOSSES)
    driver.execute_script("arguments[0].focus()", figure.find_element("css selector", ".plot"))
    steps = [row["step"] for row in read_json_lines(folder.metrics)]
    for key, step in ((Keys.HOME, steps[0]), (Keys.ARROW_RIGHT, steps[1]), (Keys.END, steps[-1])):
        press(driver, key)
        assert int(legend(figure)[0].replace(",", "")) == step
    limits = "return [arguments[0].plot.scales.x.min, arguments[0].plot.scales.x.max]"
    whole = driver.execute_script(limits, figure)
    press(driver, "+")
    assert driver.execute_script(limits, figure)[0] > whole[0]
    press(driver, "0")
    assert driver.execute_script(limits, figure) == whole


def test_everything_is_reached_by_tab_and_has_a_name(browser: Any, page: Path) -> None:
    driver = opened(browser, page)
    script = """
    const wanted = 'a[href], button, select, input, summary, [tabindex="0"]';
    return [...document.querySelectorAll(wanted)].map((element) => [
      element.outerHTML.slice(0, 80), element.tabIndex,
      element.ariaLabel || element.labels?.[0]?.textContent || element.textContent.trim(),
    ]);
    """
    for markup, index, name in driver.execute_script(script):
        assert index == 0, markup
        assert name, markup
    orphans = "return [...document.querySelectorAll('img:not([alt]), svg:not([aria-label]), th:empty:not(td)')].length"
    assert driver.execute_script(orphans) <= 1  # the heading above the bars of the classes


def test_the_axis_is_chosen_for_all_charts(browser: Any, page: Path, folder: RunFolder) -> None:
    from selenium.webdriver.support.select import Select

    driver = opened(browser, page)
    figure = chart(driver, LOSSES)
    last = read_json_lines(folder.metrics)[-1]
    select = Select(driver.find_element("id", "axis"))
    for value, end in (("images_seen", last["images_seen"]), ("epoch", last["epoch"])):
        select.select_by_value(value)
        assert driver.execute_script("return arguments[0].plot.data[0].at(-1)", figure) == end
    select.select_by_value("seconds")
    seconds = driver.execute_script("return arguments[0].plot.data[0].at(-1)", figure)
    assert seconds == pytest.approx(last["images_seen"] / 5000, rel=0.1)


def test_light_and_dark(page: Path) -> None:
    color = "return getComputedStyle(document.body).backgroundColor"
    found = []
    for scheme in ("light", "dark"):
        with chromium.browsing() as driver:
            chromium.open_page(driver, page, scheme=scheme)
            before = driver.execute_script(color)
            driver.find_element("id", "theme").click()
            found.append((before, driver.execute_script(color)))
            assert chromium.errors(driver) == []
    (light, to_dark), (dark_at_first, to_light) = found
    assert light == to_light
    assert dark_at_first == to_dark
    assert light != to_dark


def test_a_page_is_printed_whole_and_in_light_colours(browser: Any, page: Path) -> None:
    chromium.open_page(browser, page, scheme="dark")
    record = (
        "window.themes = []; addEventListener('beforeprint', () => themes.push(document.documentElement.dataset.theme))"
    )
    browser.execute_script(record)
    browser.execute_cdp_cmd("Page.printToPDF", {})
    figures = browser.find_elements("css selector", "figure.chart")
    assert len(figures) > 5
    assert all(figure.find_elements("tag name", "canvas") for figure in figures)
    assert browser.execute_script("return themes") == ["light"]
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("width", [400, 1280])
def test_no_page_is_wider_than_the_screen(width: int, browser: Any, page: Path, folder: RunFolder) -> None:
    other = write_recorded_run(folder.path.parent / f"other-{width}", 3, seed=1, distances=[9, 8]).path
    several = folder.path.parent / f"several-{width}.html"
    write_report([folder.path, other], several)
    for file in (page, several):
        driver = opened(browser, file, width)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_nothing_is_requested_and_nothing_is_refused(browser: Any, page: Path, folder: RunFolder) -> None:
    driver = opened(browser, page)
    for figure in driver.find_elements("css selector", "figure.chart"):
        chart(driver, figure.get_attribute("data-chart"))
    assert chromium.requests(driver) == [page.resolve().as_uri()]
    assert chromium.errors(driver) == []
    # The policy refuses what a page could be made to ask for.
    script = """
    const done = arguments[0];
    fetch('http://127.0.0.1:9/').then(() => done('sent'), () => done('refused'));
    """
    assert driver.execute_async_script(script) == "refused"
    assert any("Content Security Policy" in message for message in chromium.errors(driver))


def test_a_text_of_the_run_is_shown_and_not_executed(browser: Any, folder: RunFolder, tmp_path: Path) -> None:
    hostile = "</script><script>document.title = 'bad'</script><img src=x onerror=\"document.title = 'bad'\">"
    run = write_recorded_run(tmp_path / "run", 2, distances=[3, 2])
    run.write_status("failed", 1_200, hostile)
    environment = json.loads(run.environment.read_text())
    environment["data"]["spec"]["classes"][3] = hostile
    run.environment.write_text(json.dumps(environment))
    file = tmp_path / "page.html"
    write_report([run.path], file)
    driver = opened(browser, file)
    assert driver.title.startswith("run")
    assert hostile in driver.find_element("id", "sessions").text
    assert hostile in driver.find_element("id", "classes").text


def test_several_runs_share_the_charts_and_the_slider(browser: Any, folder: RunFolder, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    other = write_recorded_run(tmp_path / "other", 3, images=draw_images(64)[::-1].copy(), distances=[9, 8, 7])
    file = tmp_path / "page.html"
    write_report([folder.path, other.path], file)
    driver = opened(browser, file)
    figure = chart(driver, "evaluations-distance-frechet")
    names = [th.text.rstrip(":") for th in figure.find_elements("css selector", ".u-legend tr:not(.edge) th")]
    assert names[1:3] == ["run", "other"]
    # A click on a name hides its line, also by the keyboard.
    first = figure.find_elements("css selector", ".u-legend tr:not(.edge) th")[1]
    driver.execute_script("arguments[0].focus()", first)
    press(driver, Keys.ENTER)
    assert driver.execute_script("return arguments[0].plot.series[1].show", figure) is False
    slider = driver.find_element("css selector", "#strips input[type=range]")
    captions = driver.find_elements("css selector", "#strips .at")
    assert [caption.text for caption in captions] == ["epoch 6", "epoch 3"]
    driver.execute_script("arguments[0].focus()", slider)
    press(driver, Keys.HOME, Keys.ARROW_RIGHT)
    assert [caption.text for caption in captions] == ["epoch 2", "epoch 2"]
    grid = np.asarray(Image.open(folder.epoch_samples(2)).convert("RGB"))
    strip = shown_picture(driver, "#strips img")
    assert np.array_equal(strip, grid[: strip.shape[0], : strip.shape[1]])


def test_the_interactive_page_runs_inside_its_frame(browser: Any, folder: RunFolder, tmp_path: Path) -> None:
    document = (
        "<!doctype html><style>p { color: rgb(1, 2, 3) }</style><p id='a'></p>"
        "<script>document.getElementById('a').textContent = 'a' < 'b' && 'runs';</script>"
    )
    file = tmp_path / "page.html"
    file.write_text(make_page(read_runs([folder.path]), document))
    driver = opened(browser, file)
    driver.switch_to.frame(driver.find_element("css selector", "#generator iframe"))
    paragraph = driver.find_element("id", "a")
    assert paragraph.text == "runs"
    assert paragraph.value_of_css_property("color").startswith("rgba(1, 2, 3")
    driver.switch_to.default_content()
    assert chromium.errors(driver) == []
