"""`farm demo`: a farm on this machine makes the demo's pictures, and shows them as one grid."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from farm.cli.errors import EXIT_FAILED
from farm.cli.output import say
from farm.cli.up import Data, Port, Postgres, announce, make_farm, stop_on_signals
from farm.client.http import Client
from farm.client.jobs import download_images, wait_for_job
from farm.demo import catalog
from farm.embedded.up import EmbeddedFarm
from farm.errors import Permanent

SEED = 20
TILE = 160
CAPTION = 60
COLUMNS = 4


def demo(
    exit: Annotated[bool, typer.Option("--exit", help="End after the pictures.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Workers to start.")] = 1,
    postgres: Postgres = False,
    data: Data = None,
    port: Port = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures; `demo` in the data folder when absent.")
    ] = None,
) -> int:
    """Start the farm, make pictures with LoRA tags, print the dashboard's address."""
    # the built-in model is so small that threads would only wait for each other
    farm = make_farm(workers=workers, postgres=postgres, info=None, data=data, port=port, torch_threads=1)
    # until the pictures are there, a signal ends the command where it stands; then `watch` looks at the event
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    farm.start()
    try:
        grid = make_pictures(farm, out or farm.settings.data_dir / "demo")
        say(f"\n· the pictures are in {grid.parent}, all in one: {grid}")
        if exit:
            say("· next: script/demo without --exit keeps the farm up and prints the dashboard's address")
        else:
            stopping = stop_on_signals()
            announce(farm)
            farm.watch(stopping.is_set)
    except Permanent as error:
        say((str(error), "red"))
        return EXIT_FAILED
    finally:
        say("· stopping")
        farm.stop()
    return 0


def make_pictures(farm: EmbeddedFarm, folder: Path) -> Path:
    """Queue the catalogue's prompts, wait for all of them, and lay them out as one picture.

    Raises:
        Permanent: a job failed; the message is its reason.
    """
    folder.mkdir(parents=True, exist_ok=True)
    client = Client(farm.url, farm.api_key)
    say(f"· queueing {len(catalog.EXAMPLE_PROMPTS)} jobs")
    jobs = [
        client.submit(
            {"prompt": prompt, "model": catalog.MODEL_NAME, "seed": SEED, "priority": "interactive"}
        )
        for prompt in catalog.EXAMPLE_PROMPTS
    ]
    tiles = []
    for number, (queued, prompt) in enumerate(zip(jobs, catalog.EXAMPLE_PROMPTS, strict=True), start=1):
        job = wait_for_job(client, queued["id"])
        if job["state"] != "succeeded":
            raise Permanent(f"{prompt}: {(job.get('error') or {}).get('message', job['state'])}")
        say(f"  {number:2}/{len(jobs)}  {prompt}")
        tiles.append((prompt, download_images(client, job, folder)[0]))
    grid = folder / "grid.png"
    lay_out(tiles).save(grid)
    return grid


def lay_out(tiles: Sequence[tuple[str, Path]]) -> Image.Image:
    """Captioned pictures in rows; small pictures are enlarged without smoothing losses."""
    rows = -(-len(tiles) // COLUMNS)
    gap = 12
    sheet = Image.new("RGB", (COLUMNS * (TILE + gap) + gap, rows * (TILE + CAPTION + gap) + gap), "#f6f6f4")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for position, (caption, path) in enumerate(tiles):
        left = gap + (position % COLUMNS) * (TILE + gap)
        top = gap + (position // COLUMNS) * (TILE + CAPTION + gap)
        with Image.open(path) as picture:
            sheet.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
        draw.multiline_text(
            (left, top + TILE + 4), _wrapped(caption, font), fill="#333333", font=font, spacing=2
        )
    return sheet


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Lines no wider than a tile; a tag that is too long is cut at its colons."""
    lines = [""]
    for piece in re.findall(r"[^ :]+[ :]*", text):
        if lines[-1] and font.getlength((lines[-1] + piece).rstrip()) > TILE:
            lines.append(piece)
        else:
            lines[-1] += piece
    return "\n".join(lines[:4])
