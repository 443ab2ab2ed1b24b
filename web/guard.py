"""Which requests are answered at all, and the headers of every answer."""
import ipaddress
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    b'content-security-policy': b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
                                b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b'x-content-type-options': b'nosniff',
    b'referrer-policy': b'no-referrer',
    b'cross-origin-resource-policy': b'same-origin',
    b'cache-control': b'no-store',
}


class Guard:
    """Refuses requests under another name than this machine's, and those that another site's page sends.

    A site that lets its name lead to this machine (DNS rebinding) is known by that name in the Host header. Numeric
    addresses and `localhost` cannot be rebound.

    Args:
        name: another name under which the page is served; that of -host.
    """

    def __init__(self, app: ASGIApp, *, name: str):
        self.app = app
        self.name = name.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [*message['headers'], *HEADERS.items()]
            await send(message)
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
        elif problem := self._problem({key: value.decode('latin-1') for key, value in scope['headers']}):
            await JSONResponse({'error': problem}, 403)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    def _problem(self, headers: dict[bytes, str]) -> str | None:
        host = headers.get(b'host', '')
        if not self._is_own(host):
            return 'this page is reached by an address such as 127.0.0.1, not by this name'
        origin = headers.get(b'origin')
        if origin is not None and urlsplit(origin).netloc != host:
            return 'another site cannot use this page'
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f'//{host}').hostname or ''
            if name in ('localhost', self.name):
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
