"""`farm up`: the whole farm on this machine."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from farm.cli.output import say
from farm.clock import SystemClock
from farm.embedded.up import EmbeddedFarm
from farm.settings import Settings, load_settings

Workers = Annotated[int, typer.Option(min=0, help="Workers to start.")]
Data = Annotated[Path | None, typer.Option(help="Data folder; FARM_DATA_DIR or ./farm-data when absent.")]
Port = Annotated[int | None, typer.Option(help="Port of the dashboard; 0 takes any free one.")]
Postgres = Annotated[bool, typer.Option("--postgres", help="Embedded PostgreSQL instead of SQLite.")]


def up(
    workers: Workers = 1,
    postgres: Postgres = False,
    info: Annotated[
        Path | None, typer.Option(help="File to write addresses, key and pids into (mode 0600).")
    ] = None,
    data: Data = None,
    port: Port = None,
) -> None:
    """Start Redis, S3, scheduler, dashboard and workers; Ctrl-C stops them in order."""
    farm = make_farm(workers=workers, postgres=postgres, info=info, data=data, port=port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    farm.start()
    stopping = stop_on_signals()
    try:
        announce(farm)
        farm.watch(stopping.is_set)
    finally:
        say("· stopping")
        farm.stop()


def make_farm(
    *,
    workers: int,
    postgres: bool,
    info: Path | None,
    data: Path | None,
    port: int | None,
    torch_threads: int | None = None,
) -> EmbeddedFarm:
    """The farm that the options and the environment describe; nothing is started."""
    given: dict[str, object] = {"data_dir": data, "port": port, "torch_threads": torch_threads}
    settings: Settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    files = (settings.data_dir.absolute() / "farm.json", *((info.absolute(),) if info else ()))
    return EmbeddedFarm(
        settings=settings, clock=SystemClock(), workers=workers, postgres=postgres, info_files=files, say=say
    )


def announce(farm: EmbeddedFarm) -> None:
    """Tell a person what to do next."""
    say("\n  Farm is up.  Dashboard: ", (f"{farm.url}/login?token={farm.api_key}", "bold"))
    say('  In another terminal:  farm submit "a red house at night <lora:ink:0.8>" --wait --out .')
    say("  Ctrl-C stops it; the data stays.\n")


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    return stopping
