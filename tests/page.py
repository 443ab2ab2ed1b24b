"""A page of `demo.py -web` that runs in this process, and requests to it."""
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from web.limits import Limits
from web.server import bind, make_server


def png(rgb: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, 'PNG')
    return file.getvalue()


class Page:
    """Requests to a running server; each answer is (status, body as JSON, image or bytes)."""

    def __init__(self, port: int):
        self.port = port
        self.address = f'http://127.0.0.1:{port}/'

    def ask(self, method: str, path: str, body=None, headers=None, **options):
        status, found, data = self.whole(method, path, body, headers, **options)
        kind = found.get('content-type', '')
        if kind == 'application/json':
            return status, json.loads(data)
        return status, np.asarray(Image.open(io.BytesIO(data))) if kind.startswith('image/') else data

    def whole(self, method: str, path: str, body=None, headers=None, **options):
        """(status, headers, bytes)"""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        try:
            connection.request(method, f'/{path}', body, headers or {}, **options)
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def open(self, rgb: np.ndarray) -> str:
        """Uploads an image; its token."""
        status, answer = self.ask('POST', 'images', png(rgb))
        assert (status, answer['height'], answer['width']) == (201, *rgb.shape[:2])
        return answer['token']

    def view(self, token: str, window, size, by='model', serial=1):
        window, size = (','.join(map(str, values)) for values in (window, size))
        return self.ask('GET', f'images/{token}/view?window={window}&size={size}&by={by}&serial={serial}')

    def finish(self, token: str) -> tuple[dict, list[float]]:
        """Waits for a job; its last progress, and every share of the work that was seen."""
        seen = []
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            status, progress = self.ask('GET', f'images/{token}/job')
            assert status == 200
            seen.append(progress['done'])
            if progress['state'] in ('done', 'failed'):
                return progress, seen
            time.sleep(0.02)
        raise AssertionError(f'not finished: {progress}')


@contextmanager
def serving(model, limits: Limits = Limits(), name: str = 'NAME',  # noqa: B008
            host: str = '127.0.0.1') -> Iterator[Page]:
    listener = bind('127.0.0.1', 0)
    server = make_server(model, name, host, limits)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Page(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
