"""The command that the server adds to ``endoscope``: ``endoscope serve``."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import click

from endoscope_server.errors import EndoscopeError


@click.command()
@click.option(
    "--listen", default="127.0.0.1:50051", show_default=True, help="host:port; port 0 takes one that is free."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("endoscope-state"),
    show_default=True,
    help="Folder for uploads, certificates and jobs; made if it is not there.",
)
@click.option(
    "--models",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of .onnx files to serve; only read.",
)
@click.option(
    "--datasets-root",
    "datasets_roots",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Folder below which clients may make datasets of what is there; may be given several times.",
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    help="What scans datasets: local, ray (a cluster of this machine), or the address of a Ray cluster that "
    "sees the same files.",
)
@click.option(
    "--approximate-above",
    type=click.IntRange(0),
    default=50_000,
    show_default=True,
    help="With more pictures than these, a client may ask for approximate neighbours.",
)
@click.option(
    "--port-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that gets the port once the server listens.",
)
@click.option(
    "--concurrency", type=click.IntRange(1), default=4, show_default=True, help="Jobs that take turns."
)
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Threads of ONNX Runtime; 0: its own choice.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Seconds that calls have when the server stops.",
)
def serve(
    listen: str,
    state: Path,
    models: Path | None,
    datasets_roots: tuple[Path, ...],
    engine: str,
    approximate_above: int,
    port_file: Path | None,
    concurrency: int,
    threads: int,
    grace: float,
) -> None:
    """Serve models over gRPC until SIGTERM or Ctrl-C.

    Example: endoscope serve --listen 127.0.0.1:50051 --state ./state --models ./models
    """
    # The engines take seconds to import: --help must not wait for them.
    from endoscope_server.files import write_whole
    from endoscope_server.services.server import Server, Settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings(
        listen,
        state,
        models,
        datasets_roots,
        engine=engine,
        approximate_above=approximate_above,
        concurrency=concurrency,
        threads=threads,
        grace=grace,
    )

    async def main() -> None:
        server = Server(settings)
        await server.start()
        if port_file is not None:
            await asyncio.to_thread(write_whole, port_file, str(server.port).encode())
        await server.run_until_signalled()

    try:
        asyncio.run(main())
    except EndoscopeError as error:
        raise click.ClickException(error.message) from error
