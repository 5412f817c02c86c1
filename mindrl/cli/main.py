"""`mindrl COMMAND ...`: finds the command, parses its arguments, and turns how it ended into an exit code.

0 done, 1 failed (traceback) or did not learn, 2 a request that can't be served (one message), 130 interrupted.
"""

import argparse
import difflib
import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol

import mindrl
from mindrl.errors import RequestError

COMMANDS = {
    "preprocess": "mindrl.cli.preprocess",
    "convert": "mindrl.cli.convert",
    "plan": "mindrl.cli.plan",
    "train": "mindrl.cli.train",
    "eval": "mindrl.cli.eval",
    "report": "mindrl.cli.report",
    "doctor": "mindrl.cli.doctor",
}

FAILED = 1
REFUSED = 2
INTERRUPTED = 130

STORAGE_PROBLEMS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
    }
)
"""What a disk or its owner may say at any time: the message is the whole answer."""


class Command(Protocol):
    """What a command's module holds."""

    SUMMARY: str
    """One line, shown by `mindrl --help`."""
    EXAMPLE: str
    """One or more command lines, shown by `mindrl COMMAND --help`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` is `sys.argv[1:]` when left out."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        return _answer_without_command(arguments)
    name, *rest = arguments
    try:
        _require_working_directory()
        command = _load(name)
        status = command.run(_parser(name, command).parse_intermixed_args(rest))
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a reader that has gone can still be told from a failure
        return status
    except _refusals() as error:  # evaluated only when something was raised
        print(f"mindrl {name}: {error}", file=sys.stderr)
        return REFUSED
    except BrokenPipeError:
        _drop_output()
        print(f"mindrl {name}: whoever read the output has gone", file=sys.stderr)
        return FAILED
    except OSError as error:
        if error.errno not in STORAGE_PROBLEMS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"mindrl {name}: {place}{error.strerror}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"mindrl {name}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _require_working_directory() -> None:
    """Relative paths mean nothing in a directory that was removed."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise RequestError("the working directory is no longer there; go to one that is") from error


def _drop_output() -> None:
    """Send what Python still holds for standard output nowhere, or it would complain once more at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _load(name: str) -> Command:
    """Import a command's module."""
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `mindrl {near[0]}`?" if near else f"commands: {', '.join(COMMANDS)}"
        raise RequestError(f"no such command; {hint}")
    return importlib.import_module(COMMANDS[name])  # pyright: ignore[reportReturnType]


class _Parser(argparse.ArgumentParser):
    """Says how overrides are written where one was given as an option."""

    def error(self, message: str) -> NoReturn:
        given = re.match(r"unrecognized arguments: --?([\w.\[\]]+[.][\w.\[\]]+(?:=\S*)?)", message)
        if given:
            message += f"; keys of the yaml are given without dashes: {given[1] if '=' in given[1] else f'{given[1]}=...'}"
        super().error(message)


def _parser(name: str, command: Command) -> argparse.ArgumentParser:
    example = "\n".join(f"  {line}" for line in command.EXAMPLE.strip().splitlines())
    parser = _Parser(
        prog=f"mindrl {name}",
        description=command.SUMMARY,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return parser


def _answer_without_command(arguments: list[str]) -> int:
    """`mindrl`, `mindrl --help`, `mindrl --version`, or an option in a command's place."""
    summaries = "\n".join(f"  {name:<12}{_load(name).SUMMARY}" for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="mindrl",
        description=mindrl.__doc__,
        usage="mindrl COMMAND ...",
        epilog=f"commands:\n{summaries}\n\nexample:\n  mindrl train --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mindrl {mindrl.__version__}")
    parser.parse_args(arguments)
    parser.print_help(sys.stderr)
    return REFUSED


def _refusals() -> tuple[type[Exception], ...]:
    """Exceptions whose message is the whole answer: ours, and hal's where the command has loaded hal."""
    hal_errors = sys.modules.get("hal.errors")
    return (RequestError,) if hal_errors is None else (RequestError, hal_errors.HalError)
