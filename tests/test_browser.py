"""The page of `demo.py -web` in a real browser without a window: Debian's Chromium, driven by selenium."""
import base64
import io
import math
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models

for package in ('selenium', 'starlette', 'uvicorn'):
    pytest.importorskip(package)
for program in ('chromium', 'chromedriver'):
    if not shutil.which(program):
        pytest.skip(f'{program} is not installed', allow_module_level=True)

from page import Page, png, serving  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow
QUIET = ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage')
DROP = """
const [name, data] = arguments;
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name));
document.body.dispatchEvent(new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer }));"""


class Tab:
    """A browser that shows a page."""

    def __init__(self, driver: webdriver.Chrome, page: Page):
        self.driver, self.page = driver, page
        driver.get(page.address)
        self.wait(lambda: self.text('model') == 'MSIT-S')

    def find(self, name: str):
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.driver.execute_script('return document.getElementById(arguments[0]).textContent', name)

    def wait(self, condition, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.driver.execute_script('return document.body.innerText')
            time.sleep(0.05)

    def drop(self, name: str, data: bytes) -> None:
        self.driver.execute_script(DROP, name, base64.b64encode(data).decode())

    def act(self, action) -> None:
        """Does something that changes the view, and waits until that is rendered."""
        self.driver.execute_script('document.getElementById("status").textContent = ""')
        action()
        self.wait(lambda: 'rendered' in self.text('status'))
        self.driver.execute_async_script('requestAnimationFrame(() => requestAnimationFrame(arguments[0]))')

    def canvas(self) -> np.ndarray:
        """(H, W, 4) uint8"""
        url = self.driver.execute_script('return document.getElementById("view").toDataURL()')
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))).convert('RGBA'))

    def addresses(self) -> list[str]:
        return self.driver.execute_script('return performance.getEntriesByType("resource").map((entry) => entry.name)')

    def token(self) -> str:
        return re.search(r'images/([^/]{32})/view', ' '.join(self.addresses()))[1]


@pytest.fixture(scope='module')
def model():
    return models.load('MSIT-S', 'cpu')


@pytest.fixture(scope='module')
def page(model):
    with serving(model, name='MSIT-S') as page:
        yield page


@pytest.fixture
def tab(page, tmp_path):
    arguments = webdriver.ChromeOptions()
    arguments.binary_location = shutil.which('chromium')
    for argument in (*QUIET, '--window-size=700,800', f'--user-data-dir={tmp_path / "profile"}'):
        arguments.add_argument(argument)
    arguments.add_experimental_option('prefs', {'download.default_directory': str(tmp_path / 'downloads')})
    arguments.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(arguments, Service(shutil.which('chromedriver')))
    driver.set_script_timeout(30)
    try:
        yield Tab(driver, page)
        assert [entry for entry in driver.get_log('browser') if '/favicon' not in entry['message']] == []
    finally:
        driver.quit()


@pytest.fixture(scope='module')
def picture() -> np.ndarray:
    """40×48 pixels of the sample."""
    return np.asarray(Image.open(ROOT / 'assets/harbour.png').convert('RGB'))[50:90, 120:168]


def expected(model, rgb: np.ndarray, canvas: np.ndarray, zoom: float):
    """The middle of an image, `zoom` times as large as it fits: its box on the canvas, by the network, by bicubic."""
    (height, width), (h, w) = rgb.shape[:2], canvas.shape[:2]
    scale = zoom * min(h / height, w / width)
    box, window = [], []
    for side, seen in ((height, h), (width, w)):
        start = seen / 2 - side / 2 * scale
        first, last = max(0, math.ceil(start - 1e-6)), min(seen, math.floor(start + side * scale + 1e-6))
        box.append(slice(first, last))
        window += [max(0, (first - start) / scale), min(side, (last - start) / scale)]
    top, bottom, left, right = window
    size = tuple(part.stop - part.start for part in box)
    network = model.render(model.encode_image(rgb), (top, left, bottom, right), size)[0].permute(1, 2, 0).numpy() * 255
    bicubic = Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    return tuple(box), network, np.asarray(bicubic).astype(float)


def check(model, rgb, canvas, zoom, share) -> None:
    """Left of `share` of the width is bicubic, right of it the network; bicubic to 1 of 255."""
    box, network, bicubic = expected(model, rgb, canvas, zoom)
    view = canvas[box][..., :3]
    border = min(max(round(share * canvas.shape[1]) - box[1].start, 0), view.shape[1])
    assert (canvas[box][..., 3] == 255).all()
    assert np.abs(view[:, border:] - network[:, border:]).max(initial=0) < 1.01
    assert np.abs(view[:, :border] - bicubic[:, :border]).max(initial=0) < 1.01
    assert np.abs(network - bicubic).max() > 20                                       # else nothing was compared


def test_drop_zoom_compare_download(model, tab, picture, tmp_path):
    tab.act(lambda: tab.drop('my harbour.v2.png', png(picture)))
    check(model, picture, tab.canvas(), 1, 0.5)

    view = tab.find('view')
    tab.act(lambda: view.send_keys('+'))
    check(model, picture, tab.canvas(), 1.25, 0.5)
    first = float(tab.text('factor')[1:])
    tab.act(lambda: ActionChains(tab.driver).scroll_from_origin(ScrollOrigin.from_element(view), 0, -500).perform())
    second = float(tab.text('factor')[1:])
    assert second > 2 * first
    before = tab.canvas()
    tab.act(lambda: ActionChains(tab.driver).move_to_element(view).move_by_offset(150, 60).click_and_hold()
            .move_by_offset(-80, 30).release().perform())
    moved = tab.canvas()
    assert float(tab.text('factor')[1:]) == second
    right = before.shape[1] // 2                                                       # the image followed the mouse
    assert np.abs(before[:-30, right + 80:].astype(int) - moved[30:, right:-80]).mean() < 3
    tab.act(lambda: view.send_keys('0'))

    divider = tab.find('divider')
    divider.send_keys(Keys.HOME)
    time.sleep(0.3)
    check(model, picture, tab.canvas(), 1, 0)
    divider.send_keys(Keys.END)
    time.sleep(0.3)
    check(model, picture, tab.canvas(), 1, 1)

    times = tab.find('times')
    times.clear()
    times.send_keys('2.5')
    assert [tab.find(name).get_attribute('value') for name in ('height', 'width')] == ['100', '120']
    tab.wait(lambda: re.fullmatch(r'Takes about .* and \d+ MB of memory\.', tab.text('costs')))
    tab.find('start').click()
    file = tmp_path / 'downloads/my harbour.v2_120x100.png'
    tab.wait(file.exists)
    whole = model.upscale(picture, (100, 120))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(np.asarray(Image.open(file)) - whole).max() < 1.01

    assert all(address.startswith(tab.page.address) for address in tab.addresses())


def test_cancel_a_bad_file_and_leaving(tab, picture):
    tab.act(lambda: tab.drop('a.png', png(picture)))
    token = tab.token()
    times = tab.find('times')
    times.clear()
    times.send_keys('60')
    tab.wait(lambda: tab.text('costs').startswith('Takes about'))
    tab.find('start').click()
    tab.wait(lambda: re.match(r'\d+ %', tab.text('left-time')))
    tab.find('cancel').click()
    tab.wait(lambda: tab.page.ask('GET', f'images/{token}/job')[0] == 404)
    assert not tab.find('working').is_displayed()

    tab.drop('notes.txt', b'no image')
    tab.wait(lambda: tab.text('message') == 'notes.txt: Not an image that can be read.')
    assert tab.find('view').is_displayed()                                            # the old one stays
    tab.driver.get_log('browser')                                                     # of the answers 400 and 404
    tab.driver.get('about:blank')
    tab.wait(lambda: tab.page.ask('GET', f'images/{token}/costs?size=40,48')[0] == 404)


def test_a_phone_in_the_dark(tab, picture):
    """Nothing is wider than the screen; two fingers zoom; the colours are those that the system asks for."""
    tab.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
        'width': 360, 'height': 740, 'deviceScaleFactor': 2, 'mobile': True})
    tab.driver.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', {'enabled': True, 'maxTouchPoints': 2})
    features = [{'name': 'prefers-color-scheme', 'value': 'dark'}]
    tab.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})
    tab.act(lambda: tab.drop('a.png', png(picture)))
    width, background = tab.driver.execute_script(
        'return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]')
    assert width <= 360 and max(map(int, re.findall(r'\d+', background)[:3])) < 64
    before = float(tab.text('factor')[1:])
    box = tab.find('view').rect

    def touch(kind: str, gap: int | None) -> None:
        xs = [] if gap is None else [box['x'] + 200, box['x'] + 200 + gap]  # right of the divider
        points = [{'x': x, 'y': box['y'] + 60, 'id': number} for number, x in enumerate(xs)]
        tab.driver.execute_cdp_cmd('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': points})

    def pinch() -> None:
        touch('touchStart', 40)
        for gap in (60, 80, 100, 120):
            touch('touchMove', gap)
        touch('touchEnd', None)
    tab.act(pinch)
    assert float(tab.text('factor')[1:]) == pytest.approx(3 * before, rel=0.05)
