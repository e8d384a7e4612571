"""The command `farm`: wires the groups of commands together and maps errors to exit codes."""

from __future__ import annotations

import sys

import typer

from farm.cli import (
    batch,
    db,
    demo,
    doctor,
    jobs,
    lora,
    loras,
    models,
    people,
    queue,
    serve,
    simulate,
    up,
    workers,
)
from farm.cli.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, report
from farm.errors import FarmError

#: typer 0.29 carries its own click; by way of its public names the classes are right for older ones too
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="farm",
    help="A LoRA-aware render farm for diffusion models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("up")(up.up)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("submit")(jobs.submit)
app.command("worker")(serve.worker)
app.command("scheduler")(serve.scheduler)
app.command("web")(serve.web)
app.command("simulate")(simulate.simulate)
app.command("migrate")(db.upgrade)
app.add_typer(batch.app, name="batch")
app.add_typer(jobs.app, name="jobs")
app.add_typer(lora.app, name="lora")
app.add_typer(people.keys, name="keys")
app.add_typer(loras.app, name="loras")
app.add_typer(models.app, name="models")
app.add_typer(queue.app, name="queue")
app.add_typer(people.users, name="users")
app.add_typer(workers.app, name="workers")
app.add_typer(db.app, name="db")


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        result = app(args=arguments, prog_name="farm", standalone_mode=False)
    except FarmError as error:
        return report(error, as_json="--json" in arguments)
    except UsageError as error:
        context = getattr(error, "ctx", None)
        message = " ".join(str(getattr(error, "format_message", error.__str__)()).split())
        command = context.command_path if context else "farm"
        print(f"farm: {message} (see {command} --help)", file=sys.stderr)  # noqa: T201 - the answer
        return EXIT_BAD_INPUT
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return 0
    return result if isinstance(result, int) else 0
