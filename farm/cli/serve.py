"""`farm worker`, `farm scheduler`, `farm web`: one service in this process."""

from __future__ import annotations

from typing import Annotated

import typer

from farm.settings import load_settings


def worker(
    device: Annotated[str, typer.Option(help="cpu, cuda:0, …; auto takes the first GPU.")] = "",
    name: Annotated[str, typer.Option(help="Name shown on the Workers page.")] = "",
    tags: Annotated[str, typer.Option(help="Tags for jobs that ask for them, such as a100,studio.")] = "",
) -> None:
    """Render jobs on one device until SIGTERM."""
    from farm.worker.main import run

    run(load_settings(**_given(device=device, worker_name=name, worker_tags=tags)))


def scheduler() -> None:
    """Decide which worker renders which job; any number may run, one leads."""
    from farm.scheduler.main import run

    run(load_settings())


def web(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 0,
) -> None:
    """Serve the dashboard and the API."""
    from farm.web.main import run

    run(load_settings(**_given(host=host, port=port)))


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value}
