"""The command line: each command parses, calls one function and prints.

    vapdata build --source synthetic          dataset -> catalog
    vapdata query "select * from clips_wide"  a question to a catalog

The commands stand in `vapdata/commands/`, by group. With them this is the one place of the package that looks up:
they call storage and pipelines, with imports inside the functions, so that `vapdata --help` loads nothing heavy.
Exit status: 0 done, 1 the run could not finish, 2 the call was wrong.
Exercised by `pytest tests/vapdata/test_cli.py`.
"""

import atexit
import contextlib
import errno
import os
import sys
from collections.abc import Sequence

import click

from vapdata import __version__
from vapdata.commands.asking import query, status, verify
from vapdata.commands.filling import backfill, dedup, select
from vapdata.commands.pairing import conditions, export, pairs
from vapdata.commands.preparing import build, retry
from vapdata.commands.telling import explain, models
from vapdata.errors import CallError, VapdataError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vapdata")
def commands() -> None:
    """Video datasets to Parquet catalogs of clips, scores, captions, masks, latents and text embeddings.

    Start with: vapdata build --source synthetic
    """


for _command in (build, backfill, dedup, select, retry, pairs, conditions, export, query, status, verify, models, explain):
    commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `vapdata`: runs one command and leaves with its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    atexit.register(_leave)  # the first that is registered is the last that runs
    _leave_with.append(run(sys.argv[1:] if arguments is None else arguments))
    sys.exit(_leave_with[-1])


def run(arguments: Sequence[str]) -> int:
    """Runs one command; its exit status. No mistake of a user's gets out as a traceback."""
    try:
        return int(commands.main(args=list(arguments), prog_name="vapdata", standalone_mode=False) or 0)
    except click.Abort:
        return _say("stopped; the same command goes on where this one was", 130)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except CallError as error:
        return _say(str(error), 2)
    except VapdataError as error:
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return _say("stopped; the same command goes on where this one was", 130)
    except OSError as error:
        return _say(_of_the_system(error), 1)


_leave_with: list[int] = []


def _leave() -> None:
    """Ends the process before the interpreter takes itself apart, after everybody else's clean-up.

    DuckDB 2.0's binding fills the screen with complaints about leaked types when it is taken apart after Ray.
    """
    if _leave_with:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # a reader that has gone, a stream that was closed
                stream.flush()
        os._exit(_leave_with[-1])


def _say(message: str, status: int) -> int:
    click.echo(f"vapdata: {message}", err=True)
    return status


def _of_the_system(error: OSError) -> str:
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    what = error.strerror or str(error)
    remedy = {
        errno.ENOSPC: "make room on that disk",
        errno.EDQUOT: "make room in your quota",
        errno.EACCES: "check who may read and write there",
        errno.EPERM: "check who may read and write there",
        errno.EROFS: "name a place that can be written",
    }.get(error.errno or 0, "check the path and the machine")
    return f"{where}{what}; {remedy}, then run the same command again: what was committed is kept"


if __name__ == "__main__":
    main()
