"""`farm submit` and `farm jobs`: ask for pictures, see where they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from farm.cli.context import client
from farm.cli.errors import EXIT_FAILED
from farm.cli.output import console, networks_line, print_json, say, shortened, styled_state, table
from farm.client.http import Client
from farm.client.jobs import download_images, wait_for_job

app = typer.Typer(help="Jobs of the farm.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def submit(
    prompt: str,
    model: Annotated[
        str | None, typer.Option(help="Model to render with; the farm's default when absent.")
    ] = None,
    negative: Annotated[str, typer.Option("--negative", help="What the picture should not show.")] = "",
    width: Annotated[int | None, typer.Option()] = None,
    height: Annotated[int | None, typer.Option()] = None,
    steps: Annotated[int | None, typer.Option()] = None,
    guidance: Annotated[float | None, typer.Option("--guidance")] = None,
    sampler: Annotated[str | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(help="Drawn at random when absent.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames, for a model that makes videos.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second of a video.")] = None,
    guidance_2: Annotated[
        float | None,
        typer.Option("--guidance-2", help="Guidance of the second expert, for a model that has one."),
    ] = None,
    true_cfg: Annotated[
        float | None,
        typer.Option(
            "--true-cfg", help="Guidance by the negative prompt, for a model that is told its guidance."
        ),
    ] = None,
    hr_scale: Annotated[
        float | None, typer.Option(help="Make a second pass, with the picture enlarged by this.")
    ] = None,
    hr_steps: Annotated[
        int | None, typer.Option(help="Steps of the second pass; as many as the first when absent.")
    ] = None,
    hr_strength: Annotated[
        float | None, typer.Option(help="How much the second pass changes, 0 to 1; 0.5 when absent.")
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures, with seeds that follow each other.")] = 1,
    priority: Annotated[str, typer.Option(help="interactive, normal or bulk.")] = "normal",
    worker_tag: Annotated[
        list[str] | None, typer.Option(help="Only on a worker with this tag; may be given several times.")
    ] = None,
    min_memory: Annotated[str, typer.Option(help="Only on a worker with so much memory, such as 24GB.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, show progress.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate; queue nothing.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures (implies --wait).")] = None,
    json: Json = False,
) -> int:
    """Queue a job."""
    spec = {
        "prompt": prompt, "negative_prompt": negative, "model": model, "width": width, "height": height,
        "steps": steps, "guidance_scale": guidance, "sampler": sampler, "seed": seed, "count": count,
        "priority": priority, "frames": frames, "fps": fps, "guidance_scale_2": guidance_2,
        "true_cfg_scale": true_cfg, "hr_scale": hr_scale, "hr_steps": hr_steps,
        "hr_strength": hr_strength, "worker_tags": worker_tag or None, "min_memory": min_memory,
    }  # fmt: skip
    farm = client()
    spec = {name: value for name, value in spec.items() if value not in (None, "")}
    if dry_run:
        answer = farm.post("/jobs?dry_run=true", spec)
        print_json(answer) if json else say(answer["estimate"]["sentence"])
        return 0
    job = farm.submit(spec)
    if wait or out:
        job = _watch(farm, job["id"], quiet=json)
    files = download_images(farm, job, out) if out and job["state"] == "succeeded" else []
    if json:
        print_json({**job, "files": [str(file) for file in files]})
    else:
        _tell(job, files)
    return EXIT_FAILED if job["state"] in ("failed", "cancelled") else 0


@app.command("ls")
def list_jobs(
    state: Annotated[str, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = "",
    limit: Annotated[int, typer.Option()] = 20,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    items = client().get("/jobs", {"state": state, "limit": limit} if state else {"limit": limit})["items"]
    if json:
        print_json(items)
        return
    rows = [
        (row["id"], styled_state(row["state"]), f"{row['step']}/{row['total_steps']}", shortened(row["prompt"]),
         row["worker"] or row["waiting_because"] or "")
        for row in items
    ]  # fmt: skip
    table(
        ("id", "state", "step", "prompt", "where"),
        rows,
        empty='No jobs yet. Next: farm submit "a red circle"',
    )


@app.command()
def show(job: str, json: Json = False) -> None:
    """Show one job."""
    answer = client().get(f"/jobs/{job}")
    if json:
        print_json(answer)
        return
    _tell(answer, [])
    for key in (
        "prompt",
        "model",
        "networks",
        "position",
        "estimated_start",
        "created_at",
        "started_at",
        "finished_at",
        "attempt",
        "timings",
    ):
        value = networks_line(answer["networks"]) if key == "networks" else answer.get(key)
        if value or (key == "position" and value == 0):
            say((key, "dim"), f" {value}")
    for warning in answer.get("warnings") or ():
        say(("note", "yellow"), f" {warning}")


@app.command()
def watch(job: str) -> int:
    """Follow a job to its end."""
    answer = _watch(client(), job, quiet=False)
    _tell(answer, [])
    return EXIT_FAILED if answer["state"] in ("failed", "cancelled") else 0


@app.command()
def cancel(job: str) -> None:
    """Cancel a job; one that runs stops within a step."""
    answer = client().post(f"/jobs/{job}:cancel", {})
    say(f"{job} ", styled_state(answer["state"]))


@app.command()
def retry(job: str) -> None:
    """Queue a failed or cancelled job again."""
    answer = client().post(f"/jobs/{job}:retry", {})
    say(f"{job} ", styled_state(answer["state"]))


def _watch(farm: Client, job: str, *, quiet: bool) -> dict[str, Any]:
    if quiet or not console.is_terminal:
        return wait_for_job(farm, job)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("waiting", total=None)

        def moved(now: dict[str, Any]) -> None:
            words = now.get("waiting_because") or now.get("stage") or now["state"]
            progress.update(task, description=words, completed=now["step"], total=now["total_steps"])

        return wait_for_job(farm, job, on_change=moved)


def _tell(job: dict[str, Any], files: list[Path]) -> None:
    say(f"{job['id']} ", styled_state(job["state"]))
    if job.get("error"):
        say((job["error"]["message"], "red"))
    elif job.get("result"):
        made, report = job["result"]["adapter"], job["result"]["report"]
        say(f"made {made['name']}: {report['layers']} layers, relative error {report['error']:.2e}")
    elif job["state"] in ("queued", "assigned") and job.get("waiting_because"):
        say((job["waiting_because"], "dim"))
    for file in files:
        say(str(file))
