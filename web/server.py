"""The server of the page. The way of a request:

    page → Guard (Host, Origin) → one of the functions of Routes → the model's thread, or a thread for files → answer

Each image is reached by its token alone. Nothing that the page sends becomes part of a path.
"""
import asyncio
import contextlib
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from engine.windows import LATENT_MEMORY, check_windows
from models.contract import SRModel
from models.latents import LatentCache
from utils import ROOT, UserError, is_out_of_memory
from web.costs import Costs, measure
from web.guard import Guard
from web.images import HeldImage, HeldImages
from web.jobs import FORMATS, Job, Worker
from web.limits import Limits, Refused, explained
from web.requests import as_png, read_number, read_size, read_window

PAGE = Path(__file__).resolve().parent / 'page'
SAMPLE = ROOT / 'assets/harbour.png'
Handler = Callable[[Request], Awaitable[Response]]


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises UserError when it cannot be used."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'-host {host} -port {port}: cannot be used ({reason}); try another -port') from error


def serve(model: SRModel, name: str, host: str, listener: socket.socket) -> None:
    """Serves the page until the process is interrupted.

    Args:
        model: one that renders windows.
        name: of the model, as the page shows it.
        host: that of -host; requests under this name are answered.
    Raises: UserError for another model.
    """
    check_windows(model, '-web')
    address = f'[{host}]' if ':' in host else host
    print(f'{name} at http://{address}:{listener.getsockname()[1]}/ (Ctrl-C ends it)', flush=True)
    make_server(model, name, host, Limits()).run([listener])


def make_server(model: SRModel, name: str, host: str, limits: Limits) -> uvicorn.Server:
    """A server that is not started yet."""
    return uvicorn.Server(uvicorn.Config(
        make_app(model, name, host, limits), lifespan='on', ws='none', log_level='error', access_log=False,
        server_header=False, timeout_graceful_shutdown=1))


def make_app(model: SRModel, name: str, host: str, limits: Limits) -> Starlette:
    """The application: its routes, its threads, and a folder for files that is deleted at the end."""
    routes = Routes(model=model, name=name, limits=limits)
    image = '/images/{token}'
    return Starlette(
        routes=[
            Route('/model', routes.model_info),
            Route('/sample', routes.sample),
            Route('/images', routes.upload, methods=['POST']),
            Route(image, routes.delete, methods=['DELETE']),
            Route(f'{image}/view', routes.view),
            Route(f'{image}/costs', routes.costs),
            Route(f'{image}/job', routes.start, methods=['POST']),
            Route(f'{image}/job', routes.progress, methods=['GET']),
            Route(f'{image}/job', routes.cancel, methods=['DELETE']),
            Route(f'{image}/result', routes.result),
            Mount('/', StaticFiles(directory=PAGE, html=True))],
        middleware=[Middleware(Guard, name=host)], lifespan=routes.lifespan,
        exception_handlers={Refused: refuse, MemoryError: fail, RuntimeError: fail, OSError: fail})


async def refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({'error': str(error)}, error.status)


async def fail(request: Request, error: Exception) -> Response:
    """Answers an error of the model or of the machine that can be expected."""
    message = explained(error)
    if not message:
        raise error
    return JSONResponse({'error': message}, 503 if is_out_of_memory(error) else 500)


class Routes:
    """What each address answers; see `make_app`.

    Args:
        limits: of what is accepted.
    """

    def __init__(self, *, model: SRModel, name: str, limits: Limits):
        self._model = model
        self._name = name
        self._limits = limits
        self._images = HeldImages(model=model, cache=LatentCache(memory=LATENT_MEMORY), limits=limits)
        self._measured: Costs | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """The folder for files and the model's thread, for as long as the server runs."""
        thread = ThreadPoolExecutor(1, 'model')
        loop = asyncio.get_running_loop()
        self._worker = Worker(submit=lambda function: loop.run_in_executor(thread, function))
        with tempfile.TemporaryDirectory(prefix='msit-web-') as folder:
            self._folder = Path(folder)
            sweeping = asyncio.create_task(self._sweep())
            try:
                yield
            finally:
                sweeping.cancel()
                self._images.delete_all()
                thread.shutdown(wait=False, cancel_futures=True)

    async def _sweep(self) -> None:
        """Deletes idle images, for ever."""
        while True:
            await asyncio.sleep(min(30, self._limits.idle / 2))
            self._images.delete_idle()

    async def model_info(self, request: Request) -> Response:
        """The model's name and the limits that the page checks before it sends anything."""
        limits = {key: getattr(self._limits, key) for key in ('bytes', 'pixels', 'view_pixels', 'result_pixels')}
        return JSONResponse({'name': self._name, 'limits': limits, 'formats': FORMATS})

    async def sample(self, request: Request) -> Response:
        """The bundled image."""
        return FileResponse(SAMPLE)

    async def upload(self, request: Request) -> Response:
        """The body is an image file → its token and size."""
        too_large = Refused(413, f'this file is too large; at most {self._limits.bytes / 2 ** 20:.0f} MiB can be opened')
        if int(request.headers.get('content-length', 0)) > self._limits.bytes:
            raise too_large
        file, size = self._folder / secrets.token_hex(16), 0
        try:
            with open(file, 'wb') as out:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > self._limits.bytes:
                        raise too_large
                    out.write(chunk)
            token, held = await self._images.add(file)
        finally:
            file.unlink(missing_ok=True)
        return JSONResponse({'token': token, 'height': held.image.height, 'width': held.image.width}, 201)

    async def delete(self, request: Request) -> Response:
        self._images.delete(request.path_params['token'])
        return Response(status_code=204)

    async def view(self, request: Request) -> Response:
        """A window at a size, by bicubic or by the model, as PNG; 204 for one that a newer serial has made stale."""
        held = self._held(request)
        size = read_size(request)
        if size[0] * size[1] > self._limits.view_pixels:
            raise Refused(400, f'a view has at most {self._limits.view_pixels:,} pixels')
        window = read_window(request, held)
        if request.query_params.get('by') == 'bicubic':
            rgb = await asyncio.to_thread(held.image.bicubic, window, size)
        else:
            serial = read_number(request, 'serial')
            held.serial = max(held.serial, serial)
            for region in held.image.regions(window, size):
                if held.serial > serial:
                    return Response(status_code=204)
                await self._worker.run(held.image.encode, region)
            if held.serial > serial:
                return Response(status_code=204)
            rgb = await self._worker.run(held.image.render, window, size)
        return Response(await asyncio.to_thread(as_png, rgb), media_type='image/png')

    async def costs(self, request: Request) -> Response:
        """The time and memory that an upscaling to a size will take."""
        held, size = self._held(request), self._result_size(request)
        if self._measured is None:
            self._measured = await self._worker.run(measure, self._model)
        seconds, memory = self._measured.of(held.image, size)
        return JSONResponse({'seconds': seconds, 'bytes': memory})

    async def start(self, request: Request) -> Response:
        """Starts to upscale the whole image to a size."""
        held, size = self._held(request), self._result_size(request)
        suffix = request.query_params.get('format', 'png')
        if suffix not in FORMATS:
            raise Refused(400, f'the format is one of {", ".join(FORMATS)}')
        if held.job and held.job.active:
            raise Refused(409, 'this image is being upscaled already')
        if held.job:
            held.job.delete()
        file = self._folder / f'{secrets.token_hex(16)}.{suffix}'
        held.job = Job(image=held.image, size=size, file=file, worker=self._worker)
        return JSONResponse(held.job.progress(), 202)

    async def progress(self, request: Request) -> Response:
        return JSONResponse(self._job(request).progress())

    async def cancel(self, request: Request) -> Response:
        held = self._held(request)
        if held.job:
            held.job.delete()
            held.job = None
        return Response(status_code=204)

    async def result(self, request: Request) -> Response:
        """The upscaled image, as a file to keep; the page gives it the name."""
        job = self._job(request)
        if job.state != 'done':
            raise Refused(409, 'the upscaled image is not complete')
        return FileResponse(job.file, headers={'content-disposition': 'attachment'})

    def _held(self, request: Request) -> HeldImage:
        return self._images.get(request.path_params['token'])

    def _job(self, request: Request) -> Job:
        job = self._held(request).job
        if job is None:
            raise Refused(404, 'nothing is being upscaled')
        return job

    def _result_size(self, request: Request) -> tuple[int, int]:
        image, (height, width) = self._held(request).image, read_size(request)
        if height < image.height or width < image.width:
            raise Refused(400, f'the size is at least that of the image, {image.width}×{image.height}')
        if height * width > self._limits.result_pixels:
            raise Refused(400, f'{width}×{height} is too large; at most {self._limits.result_pixels / 1e6:.0f} million '
                               'pixels can be made here')
        return height, width
