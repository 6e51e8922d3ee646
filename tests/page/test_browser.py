"""The page in a real browser: Chromium, by Selenium."""

import base64
import contextlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_server import png
from PIL import Image

from nst_manual.pictures.demo import painting, scene

selenium = pytest.importorskip("selenium", reason="needs Selenium: pip install selenium")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromedriver, such as Debian's", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.chrome.options import Options  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,1000"
)
DROP = """
const [selector, name, data] = arguments, bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
const carried = new DataTransfer();
carried.items.add(new File([bytes], name, { type: "image/png" }));
for (const kind of ["dragenter", "dragover", "drop"])
  document.querySelector(selector).dispatchEvent(
    new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
"""


class Visitor:
    """A person at the page."""

    def __init__(self, folder):
        options = Options()
        options.binary_location = CHROMIUM
        for flag in FLAGS.split():
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.downloads = folder
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.find(selector).text

    def drop(self, selector, name, data):
        self.driver.execute_script(DROP, selector, name, base64.b64encode(data).decode())

    def width_of(self, image):
        """In its own pixels; 0 while it is not loaded."""
        return self.driver.execute_script("return arguments[0].naturalWidth", self.find(image))

    def press(self, selector):
        self.driver.execute_script("arguments[0].scrollIntoView({ block: 'center' })", self.find(selector))
        self.find(selector).click()

    def set(self, selector, value):
        events = "for (const kind of ['input', 'change']) arguments[0].dispatchEvent(new Event(kind))"
        self.driver.execute_script(f"arguments[0].value = arguments[1]; {events}", self.find(selector), value)

    def wait(self, condition, what, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := condition():
                return found
            time.sleep(0.1)
        raise AssertionError(f"{what}: {self.text('body')}")

    def see(self, selector, words, seconds=60):
        self.wait(lambda: words in self.text(selector), f"{words!r} in {selector}", seconds)

    def ready(self, iterations, **options):
        """Small settings for the next run, by the form's own fields."""
        self.driver.execute_script("document.querySelector('#more').open = true")
        few = {"iterations": iterations, "style_layers": "conv1_1", "content_layers": "conv1_1"}
        for name, value in {**few, **options}.items():
            self.set(f"#option-{name}", value)
        self.driver.execute_script("document.querySelector('#more').open = false")
        self.driver.execute_script("document.querySelector('#size').append(new Option('32', '32'))")
        self.set("#size", "32")

    @contextlib.contextmanager
    def phone(self):
        screen = {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def fits(self):
        """Whether nothing is wider than the screen."""
        root = "document.documentElement"
        return self.driver.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")

    def brightness(self, name):
        """Of the page's ink or paper, from 0 to 255."""
        colour = self.driver.execute_script("return getComputedStyle(document.body)[arguments[0]]", name)
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if "400 (Bad" not in entry["message"]]


@pytest.fixture(scope="module")
def visitor(tmp_path_factory):
    os.environ.setdefault("SE_OFFLINE", "true")
    person = Visitor(tmp_path_factory.mktemp("downloads"))
    yield person
    person.driver.quit()


def dropped(visitor, server):
    """A visitor who has dropped two pictures."""
    visitor.driver.get("about:blank")
    visitor.driver.get(server.address)
    listening(visitor)
    assert not visitor.find("#paint").is_enabled()
    chosen(visitor)
    assert "a_i_painting.png" in visitor.text("#styles")


def listening(visitor):
    """The page's script has begun: it has asked for the weights, and hears what is dropped."""
    visitor.wait(lambda: visitor.find("#weights").find_elements(By.TAG_NAME, "option"), "the page")


def chosen(visitor):
    visitor.drop("#content", "my photo.png", png(scene))
    visitor.drop("#style-drop", "a <i>painting.png", png(painting))
    visitor.wait(lambda: visitor.find("#paint").is_enabled(), "both pictures")


def test_from_two_dropped_files_to_a_downloaded_result(visitor, serve):
    server = serve()
    dropped(visitor, server)
    assert "token" not in visitor.driver.current_url
    for thumbnail in ("#content img", "#styles img"):
        visitor.wait(lambda image=thumbnail: visitor.width_of(image) > 0, thumbnail)
    visitor.drop("#style-drop", "broken.png", b"\x89PNG\r\n\x1a\nnothing more")
    visitor.see("#notice", "broken.png can't be read as a picture")
    visitor.press("#notice button")

    visitor.press("#styles .row button")  # where it goes: by keyboard
    visitor.wait(lambda: visitor.driver.find_elements(By.ID, "brush-canvas"), "the brush")
    keys = [Keys.SPACE, "+", "+", Keys.SPACE, Keys.ARROW_LEFT, Keys.SPACE, Keys.ARROW_UP, Keys.SPACE]
    visitor.find("#brush-canvas").send_keys(*keys)
    visitor.press("#brush-save")
    visitor.wait(lambda: "✓" in visitor.text("#styles"), "the mask")

    visitor.ready(4)
    visitor.set("#strength", "70")
    visitor.press("#paint")
    visitor.see("#state", "Done")
    assert "4 iterations" in visitor.text("#numbers")
    run = server.get("/about")["runs"][0]
    assert run["order"]["options"]["strength"] == 70
    assert "style1:conv1_1" in server.get(f"/runs/{run['id']}/records")[0]["terms"]  # of a region
    visitor.set("#split", "50")
    assert "50%" in visitor.find("#before").get_attribute("style")
    visitor.wait(lambda: visitor.width_of("#after") == 32, "the result")

    curves = visitor.find("#curves")
    ActionChains(visitor.driver).move_to_element_with_offset(curves, curves.size["width"] // 2 - 12, 0).perform()
    visitor.see("#readout", "Iteration 4: ")
    curves.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    visitor.see("#readout", "Iteration 3: ")
    moving = visitor.find("#actions a[href$=gif]").get_attribute("href")
    assert server.ask("GET", urlsplit(moving).path)[1].startswith(b"GIF89a")

    visitor.press("#actions a")
    saved = visitor.downloads / "my_photo_a_i_painting.png"
    visitor.wait(saved.exists, "the download")
    with Image.open(saved) as picture:
        assert picture.size == (32, 24)

    visitor.press("#tab-study")
    visitor.press("#compute")
    visitor.wait(lambda: visitor.driver.find_elements(By.CSS_SELECTOR, ".map"), "the maps", 90)
    visitor.wait(lambda: visitor.width_of("#glass img") > 0, "the picture under the glass")
    glass = visitor.find("#glass")
    ActionChains(visitor.driver).move_to_element(glass).click().perform()
    visitor.see(".pixel", "conv1_1 sees 3 × 3")
    column, row = map(int, re.search(r"Column (\d+), row (\d+)", visitor.text(".pixel")).groups())
    visitor.find("#glass").send_keys(Keys.ARROW_LEFT, Keys.ENTER)
    visitor.see(".pixel", f"Column {column - 8}, row {row}")
    with visitor.phone():
        assert visitor.fits()
    assert visitor.errors() == []


def endless(visitor, serve):
    """The server, whose run will not end by itself."""
    server = serve()
    dropped(visitor, server)
    visitor.ready(100_000, optimizer="adam")
    visitor.press("#paint")
    visitor.see("#numbers", "iteration")
    return server


def test_stop_and_resume_reload_and_two_tabs(visitor, serve):
    server = endless(visitor, serve)
    visitor.press("#pause")
    visitor.see("#state", "Paused")
    before = server.get("/about")["runs"][0]["last"]["iteration"]
    visitor.press("#resume")
    visitor.wait(lambda: server.get("/about")["runs"][0]["last"]["iteration"] > before, "it goes on")

    first = visitor.driver.current_window_handle
    visitor.driver.refresh()
    visitor.see("#state", "Painting")
    assert "my_photo" in visitor.text("#content")  # the form survives, too
    visitor.driver.switch_to.new_window("tab")
    visitor.driver.get(f"http://{server.host}/")  # the cookie is enough
    visitor.see("#state", "Painting")
    visitor.press("#stop")
    visitor.see("#state", "Stopped early")
    visitor.driver.close()
    visitor.driver.switch_to.window(first)
    visitor.see("#state", "Stopped early")
    visitor.see("#actions", "Download PNG")

    visitor.driver.delete_all_cookies()
    visitor.driver.get(f"http://{server.host}/")
    visitor.see("body", "403: the token is missing")
    visitor.driver.get(f"http://{server.host}/?token=guessed")
    visitor.see("body", "403: the token is missing")
    visitor.driver.get_log("browser")


def test_a_link_on_another_page_opens_it(visitor, serve):
    server = serve()
    visitor.driver.get(f"data:text/html,<a href='{server.address}'>open</a>")
    visitor.find("a").click()
    visitor.see("body", "Give it a photograph")


def test_hidden_tabs_leave_the_connections_to_the_one_that_is_seen(visitor, serve):
    server = serve()
    visitor.driver.get(server.address)
    first = visitor.driver.current_window_handle
    for _ in range(6):  # of which a browser makes no more to one server
        visitor.driver.switch_to.new_window("tab")
        visitor.driver.get(f"http://{server.host}/")
    listening(visitor)
    chosen(visitor)
    visitor.ready(2)
    visitor.press("#paint")
    visitor.see("#state", "Done")
    for tab in visitor.driver.window_handles:
        visitor.driver.switch_to.window(tab)
        if tab != first:
            visitor.driver.close()
    visitor.driver.switch_to.window(first)
    visitor.see("#state", "Done")


def test_change_your_mind_then_repeat(visitor, serve):
    server = endless(visitor, serve)
    assert not visitor.find("#goon").is_displayed()
    visitor.set("#strength", "90")
    visitor.set("#option-iterations", "3")
    visitor.drop("#style-drop", "another.png", png(painting, 48, 64))
    visitor.wait(lambda: visitor.driver.find_elements(By.CSS_SELECTOR, "#styles [type=range]"), "the shares")
    visitor.set("#styles .tile:last-child [type=range]", "3")
    visitor.press("#goon")
    visitor.wait(lambda: server.get("/about")["runs"][0]["state"] == "done", "the changed picture")
    new, old = server.get("/about")["runs"]
    assert (old["state"], new["order"]["options"]["strength"]) == ("stopped", 90)
    assert [style["share"] for style in new["order"]["styles"]] == [1, 3]
    visitor.see("#state", "Done")
    visitor.see("#legend", "content")
    for button in visitor.driver.find_elements(By.CSS_SELECTOR, "#actions button"):
        if button.text == "Repeat":
            button.click()
            break
    visitor.wait(lambda: len(server.get("/about")["runs"]) == 3, "a third run")


def test_masks_of_another_photograph_are_not_kept(visitor, serve):
    dropped(visitor, serve())
    visitor.press("#styles .row button")
    visitor.wait(lambda: visitor.driver.find_elements(By.ID, "brush-canvas"), "the brush")
    visitor.press("#brush-save")  # nothing is painted: the sentence is within the dialog, where it can be closed
    visitor.wait(lambda: visitor.driver.find_elements(By.CSS_SELECTOR, "#brush #notice"), "the sentence")
    visitor.press("#notice button")
    canvas = visitor.find("#brush-canvas")
    ActionChains(visitor.driver).move_to_element(canvas).click_and_hold().move_by_offset(40, 9).release().perform()
    visitor.press("#brush-save")
    visitor.wait(lambda: "✓" in visitor.text("#styles"), "the mask")
    visitor.drop("#content", "another.png", png(scene, 48, 64))
    visitor.see("#notice", "are removed")
    assert "✓" not in visitor.text("#styles")


def test_a_phone_in_the_dark(visitor, serve):
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    visitor.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    with visitor.phone():
        dropped(visitor, serve())
        for room in ("#tab-study", "#tab-make"):
            visitor.press(room)
            assert visitor.fits()
        ink, paper = (visitor.brightness(name) for name in ("color", "backgroundColor"))
        assert ink - paper > 100
        visitor.press("#theme")
        assert visitor.brightness("backgroundColor") > 170
    visitor.driver.execute_script("localStorage.clear()")
    visitor.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_is_fetched_from_elsewhere(visitor, serve):
    server = serve()
    dropped(visitor, server)
    script = "return JSON.stringify(performance.getEntriesByType('resource').map((entry) => entry.name))"
    fetched = json.loads(visitor.driver.execute_script(script))
    assert len(fetched) > 5
    assert all(name.startswith((f"http://{server.host}/", "blob:")) for name in fetched)
    folder = Path(__file__).parents[2] / "nst_manual" / "page" / "static"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert "http://" not in text
        assert "https://" not in text
