"""`lorry serve`: settings, engine, application, uvicorn; and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType

import structlog
import uvicorn

from lorry_server.config import ServerConfig, read_config
from lorry_server.errors import StartupError
from lorry_server.heap import trim_heap
from lorry_server.http.listener import listen
from lorry_server.log import configure_logging

logger = structlog.get_logger(__name__)

# Idle connections are closed by the client first: a pool that reuses a connection in the moment
# the server closes it sees a reset.
KEEP_ALIVE_S = 75
# After the drain timeout the streams get an error event; this is for writing it.
GRACE_AFTER_DRAIN_S = 5


def main(argv: Sequence[str]) -> int:
    """Run the server until it is told to stop. Returns the exit status.

    0 after SIGTERM or SIGINT, which let accepted requests finish and end them when they come a
    second time; 1 when it could not start or the engine failed; argparse exits with 2 on wrong
    arguments.
    """
    started_s = time.perf_counter()
    try:
        config = read_config(argv)
        configure_logging(level=config.log_level, as_json=config.log_json)
        # Before the model is loaded, so that a taken port is known at once.
        listener = listen(config.host, config.port)
        with contextlib.closing(listener):
            return _serve(config, listener, started_s)
    except StartupError as exc:
        print(f"lorry serve: {exc}", file=sys.stderr)
        return 1


def _serve(config: ServerConfig, listener: socket.socket, started_s: float) -> int:
    # torch takes seconds to import; a wrong flag or a taken port should not wait for it.
    from lorry_server.adapters.watch import AdapterWatch
    from lorry_server.build import build_server
    from lorry_server.engine.loop_activity import new_watched_loop
    from lorry_server.http.app import create_app
    from lorry_server.http.connection_guard import guarded_protocol
    from lorry_server.http.loop_lag import watch_loop_lag
    from lorry_server.http.settings import HttpSettings
    from lorry_server.metrics import Metrics

    built = build_server(config, progress=lambda line: print(f"lorry: {line}", file=sys.stderr))
    service, library = built.service, built.library
    metrics = Metrics(service, library, model_name=service.info.model_id)
    app = create_app(
        service,
        library=library,
        tokenizer=built.tokenizer,
        chat_template=built.chat_template,
        settings=HttpSettings(
            served_model_name=service.info.model_id,
            api_keys=config.api_keys,
            admin_keys=config.admin_keys,
        ),
        metrics=metrics,
    )

    class Server(uvicorn.Server):
        """uvicorn, with a drain that lets accepted requests finish."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Not uvicorn's own: it raises the signal again at the end, and the exit status of an
            # orderly end would be that of a killed process. Nothing is logged here: a handler may
            # come in the middle of a write to the log.
            self.force_exit = self.should_exit  # the second time nobody is waited for
            service.begin_drain(end_after_s=0.0 if self.should_exit else config.drain_timeout_s)
            self.should_exit = True

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            service.start(on_death=self._end)
            await super().startup(sockets)
            self._watches = [asyncio.create_task(watch_loop_lag(metrics.loop_lag.observe))]
            if config.watched_folders:
                adapter_watch = AdapterWatch(library, config.watched_folders)
                self._watches.append(asyncio.create_task(adapter_watch.run()))
            _announce(listener, started_s)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if service.stats().is_draining:
                logger.info("draining", timeout_s=config.drain_timeout_s)
            for watch in self._watches:
                watch.cancel()
            library.close()
            await super().shutdown(sockets)
            await service.stop()

        def _end(self) -> None:
            self.should_exit = True

    server = Server(
        uvicorn.Config(
            app,
            http=guarded_protocol(),  # h11 bounds the size of a request's head; httptools does not
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing asks where a request came from
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(config.drain_timeout_s) + GRACE_AFTER_DRAIN_S,
        )
    )
    # What has been loaded stays until the end. A collection that walked all of it would stop every
    # stream for 0.2 s.
    gc.collect()
    gc.freeze()
    trim_heap()
    with asyncio.Runner(loop_factory=new_watched_loop) as runner:
        runner.run(server.serve(sockets=[listener]))
    return 0 if service.stats().is_healthy else 1


def _announce(listener: socket.socket, started_s: float) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(
        f"lorry: ready on http://{shown}:{port} after {time.perf_counter() - started_s:.1f} s",
        file=sys.stderr,
        flush=True,
    )
