"""The page of gan-dist export in a real browser."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import MISSING, browsing, open_page, requests
from conftest import write_labelled

import gan_dist
from gan_dist import cli, train
from gan_dist.data.pixels import quantize
from gan_dist.outputs.folder import RunFolder
from gan_dist.results.discriminator import load_discriminator
from gan_dist.results.export.html import generator_page
from gan_dist.results.generator import read_generator
from gan_dist.seeding import sample_latents

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

COUNT, BATCH = 1_000, 200  # of images; a call of the browser may take 120 s at most
MINUS = "\N{MINUS SIGN}"
GENERATE = """
const [latents, labels] = [arguments[0], arguments[1]], {explorer} = document.querySelector(".gan-explorer");
const size = explorer.data.latent_dim, values = Float32Array.from(latents), images = [], logits = [];
for (let i = 0; i < values.length / size; i++) {
  images.push(explorer.generate(values.subarray(i * size, (i + 1) * size), labels[i]));
  if (explorer.judge) logits.push(explorer.judge(images[i], labels[i]));
}
const bytes = new Uint8Array(new Float32Array(images.flatMap((image) => [...image])).buffer);
let text = "";
for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
return [btoa(text), logits];
"""
RUNS = {
    "mlp": ["seed"],
    "mlp-classes": ["seed", "--model.labels", "conditional"],
    "conv": ["conv"],
    "conv-classes": ["digits", "--train.loss", "relativistic"],
    "stacked": ["stacked", "--train.batch-size", "5"],
    "halved": ["digits", "--data.name", "arrays", "--model.channels", "8"],
    "residual": ["cifar10", "--data.name", "mnist", "--model.channels", "8", "--model.max-channels", "16"],
}


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browsing() as started:
        yield started


@pytest.fixture(scope="module")
def run_of(flags: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("browser"), dict[str, Path]()
    root, colours = write_labelled(folder / "data"), folder / "colours.npz"
    noise = np.random.default_rng(0).integers(0, 256, (60, 44, 60, 3), np.uint8)  # two halvings of the grid
    np.savez(colours, images=noise, labels=np.arange(60) % 30)

    def make(name: str) -> Path:
        if name not in made:
            preset, *more = RUNS[name]
            words = [preset, *flags(folder / name, "--train.steps", "60", "--wandb.mode", "disabled")]
            assert train.main([*words, "--data.root", str(colours if "arrays" in more else root), *more]) == 0
            made[name] = folder / name
        return made[name]

    return make


def exported(run: Path, output: Path, *words: str) -> Path:
    assert cli.main(["export", str(run), "--output", str(output), *words]) == 0
    return output


def opened(driver: Any, page: Path, **window: Any) -> Any:
    """Open a page, wait for its first image, and return its section."""
    from selenium.webdriver.support.wait import WebDriverWait

    open_page(driver, page, **window)
    ready = 'return document.querySelector(".gan-explorer")?.explorer !== undefined'
    WebDriverWait(driver, 60).until(lambda _: driver.execute_script(ready))
    return driver.find_element("class name", "gan-explorer")


def shown(driver: Any) -> np.ndarray:
    """The pixels of the image, (H, W, 3), after the next frames."""
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    width, height, pixels = driver.execute_script(
        'const canvas = document.querySelector(".explorer-picture"), {width, height} = canvas;'
        "return [width, height, [...canvas.getContext('2d').getImageData(0, 0, width, height).data]];"
    )
    return np.array(pixels, np.uint8).reshape(height, width, 4)[:, :, :3]


def texts(driver: Any, selector: str) -> list[str]:
    return [element.text for element in driver.find_elements("css selector", selector)]


@pytest.mark.parametrize(("name", "weights"), [*((name, "average") for name in RUNS), ("conv-classes", "live")])
def test_the_page_generates_the_images_of_torch(
    name: str, weights: Any, driver: Any, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    run = run_of(name)
    generator, config, _ = read_generator(
        {"average": RunFolder(run).generator, "live": RunFolder(run).live_generator}[weights]
    )
    opened(driver, exported(run, tmp_path / "a.html", "--weights", weights, "--discriminator"))
    classes = len(generator.classes or ())  # type: ignore[arg-type]
    latents = sample_latents(COUNT, config.model.latent_dim, 7)
    labels = torch.arange(COUNT) % classes if classes else None
    numbers, logits = [], []
    for chosen in torch.arange(COUNT).split(BATCH):
        asked = [] if labels is None else labels[chosen].tolist()
        text, judged = driver.execute_script(GENERATE, latents[chosen].flatten().tolist(), asked)
        numbers.append(np.frombuffer(base64.b64decode(text), "<f4"))
        logits += judged
    images = torch.from_numpy(np.concatenate(numbers))
    expected = generator(latents, labels)
    images = images.view(expected.shape)
    assert expected.std() > 0.01
    difference = quantize(images).int() - quantize(expected).int()
    assert difference.abs().max() <= 1
    assert (images - expected).abs().max() * 127.5 < 1
    discriminator, _ = load_discriminator(run, config, (*expected.shape[1:],), classes, print)
    assert torch.allclose(torch.tensor(logits), discriminator(expected, labels), atol=0.05)


def test_the_page_makes_no_request(driver: Any, run_of: Callable[[str], Path], tmp_path: Path) -> None:
    page = exported(run_of("conv-classes"), tmp_path / "a.html", "--discriminator")
    opened(driver, page)
    for action in ("draw", "walk", "classes", "centre"):
        driver.find_element("css selector", f'[data-action="{action}"]').click()
        shown(driver)
    assert {*requests(driver)} == {page.as_uri()}
    # `shown` reads pixels, which Chromium has advice for.
    assert [entry for entry in driver.get_log("browser") if entry["source"] != "rendering"] == []
    # The policy blocks what a script on the page could try.
    blocked = driver.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('sent'), () => done('blocked'));"
        "const image = new Image(); image.src = 'http://127.0.0.1:9/'; document.body.append(image);"
    )
    assert blocked == "blocked"
    messages = [entry["message"] for entry in driver.get_log("browser")]
    assert len(messages) >= 2
    assert all("Content Security Policy" in message for message in messages)


def test_controls_change_the_image(driver: Any, run_of: Callable[[str], Path], tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    section = opened(driver, exported(run_of("conv-classes"), tmp_path / "a.html", "--discriminator"))
    generator = gan_dist.load_generator(run_of("conv-classes"))
    images = [shown(driver)]

    def changed() -> None:
        images.append(shown(driver))
        assert (images[-1] != images[-2]).any()

    driver.find_element("css selector", '[data-action="draw"]').click()
    changed()
    driver.find_elements("css selector", ".explorer-classes button")[7].click()
    changed()
    assert texts(driver, '.explorer-classes [aria-pressed="true"]') == ["7"]
    slider = driver.find_elements("css selector", "input[type=range]")[2]
    slider.send_keys(Keys.HOME)
    changed()
    assert texts(driver, "label output")[2] == MINUS + "3.0"
    pad = driver.find_element("class name", "explorer-pad")
    ActionChains(driver).move_to_element_with_offset(pad, pad.size["width"] // 4, 0).click().perform()
    changed()
    assert texts(driver, "label output")[:2] == ["1.5", "0.0"]
    pad.send_keys(Keys.SHIFT + Keys.ARROW_UP)
    changed()
    pad.send_keys(Keys.NULL)
    assert texts(driver, "label output")[:3] == ["1.5", "0.5", MINUS + "3.0"]
    section.send_keys("n")
    changed()
    section.send_keys("w")
    changed()
    changed()
    section.send_keys("w")
    still = shown(driver), shown(driver)
    assert (still[0] == still[1]).all()
    assert generator.classes is not None
    assert "%" in texts(driver, ".explorer-opinion output")[0]


def test_many_classes_are_a_list(driver: Any, run_of: Callable[[str], Path], tmp_path: Path) -> None:
    from selenium.webdriver.support.select import Select

    opened(driver, exported(run_of("halved"), tmp_path / "a.html"))
    choices, before = Select(driver.find_element("css selector", ".explorer-classes select")), shown(driver)
    assert [option.text for option in choices.options] == [str(label) for label in range(30)]
    choices.select_by_index(29)
    assert (shown(driver) != before).any()
    label = driver.find_element("class name", "explorer-picture").get_attribute("aria-label")
    assert label == "Generated image of class 29"


def test_a_walk_through_the_classes_passes_each_of_them(
    driver: Any, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    opened(driver, exported(run_of("mlp-classes"), tmp_path / "a.html"))
    seen = driver.execute_async_script("""
        const done = arguments[0], seen = [], started = performance.now();
        const frame = window.requestAnimationFrame.bind(window), fast = (time) => started + 20 * (time - started);
        window.requestAnimationFrame = (call) => frame((time) => call(fast(time)));
        document.querySelector('[data-action="classes"]').click();
        const look = () => {
          const name = document.querySelector('.explorer-classes [aria-pressed="true"]').textContent;
          if (seen.at(-1) !== name) seen.push(name);
          seen.length > 11 || performance.now() - started > 60000 ? done(seen) : frame(look);
        };
        frame(look);
    """)
    assert {*seen} == {str(digit) for digit in range(10)}


def test_the_pad_shows_images_along_two_directions(driver: Any, run_of: Callable[[str], Path], tmp_path: Path) -> None:
    opened(driver, exported(run_of("conv"), tmp_path / "a.html"))
    for _ in range(60):
        shown(driver)
    spread = driver.execute_script("""
        const canvas = document.querySelector(".explorer-pad canvas"), side = canvas.width / 7, tiles = [];
        for (let i = 0; i < 49; i++) {
          const {data} = canvas.getContext("2d").getImageData(side * (i % 7), side * Math.floor(i / 7), side, side);
          tiles.push(data.reduce((sum, value) => sum + value, 0));
        }
        return tiles;
    """)
    assert min(spread) > 0
    assert len({*spread}) > 40


def test_the_page_works_in_a_frame(driver: Any, run_of: Callable[[str], Path], tmp_path: Path) -> None:
    document, facts = generator_page(run_of("mlp"))
    outer = tmp_path / "outer.html"
    frame = f'<iframe sandbox="allow-scripts" width="900" height="600" srcdoc="{html.escape(document)}"></iframe>'
    outer.write_text(f"<!doctype html><meta charset=utf-8><input autofocus>{frame}")
    open_page(driver, outer)
    driver.switch_to.frame(0)
    before = shown(driver)
    driver.find_element("css selector", '[data-action="draw"]').click()
    assert (shown(driver) != before).any()
    assert facts["Data"] == "mnist"
    driver.switch_to.default_content()


def test_a_report_runs_the_generator(driver: Any, run_of: Callable[[str], Path], tmp_path: Path) -> None:
    assert cli.main(["report", str(run_of("mlp")), "--interactive", "--output", str(tmp_path / "report.html")]) == 0
    open_page(driver, tmp_path / "report.html")
    driver.switch_to.frame(driver.find_element("css selector", "#generator iframe"))
    before = shown(driver)
    driver.find_element("css selector", '[data-action="draw"]').click()
    assert (shown(driver) != before).any()
    driver.switch_to.default_content()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_into_any_window(
    width: int, scheme: str, driver: Any, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    opened(driver, exported(run_of("conv-classes"), tmp_path / "a.html", "--discriminator"), width=width, scheme=scheme)
    across, background = driver.execute_script(
        "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
    )
    assert across <= width
    channels = [int(channel) for channel in background.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (sum(channels) < 200) == (scheme == "dark")
