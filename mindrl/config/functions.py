"""Functions that a configuration names: by a name from a table, or a user's own as `package.module:function`."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mindrl.config.names import nearest
from mindrl.errors import RequestError


def find_function(
    what: str, name: str, table: Mapping[str, str], arguments: Sequence[str], result: str
) -> Callable[..., Any]:
    """Import the function of that name or path; `table` gives names their paths.

    `what` begins the messages of the `RequestError` for a name that is unknown, or leads to nothing that can be called
    with these `arguments`, in this order, and return a `result`."""
    module_name, colon, attribute = table.get(name, name).partition(":")
    if not colon:
        near = nearest(name, table)
        hint = f"did you mean {near}? " if near else ""
        raise RequestError(
            f"{what} {name!r}: no such name; {hint}Known: {', '.join(table)}, "
            "or your own as package.module:function"
        )
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:  # the last two: `:f`, `.module:f`
        raise RequestError(f"{what} {name!r}: can't import {module_name}: {error}") from error
    function = vars(module).get(attribute)
    if not callable(function):
        near = nearest(attribute, [key for key, value in vars(module).items() if callable(value)])
        hint = f"; did you mean {module_name}:{near}?" if near else ""
        raise RequestError(f"{what} {name!r}: {module_name} has no function {attribute}{hint}")
    _check_signature(f"{what} {name!r}", function, arguments, result)
    return function


def _check_signature(which: str, function: Callable[..., Any], arguments: Sequence[str], result: str) -> None:
    """`RequestError` for what can't be meant. Where nothing is annotated, its result shows in use only."""
    wanted = f"it has to be a function of ({', '.join(arguments)}) that returns a {result}"
    if isinstance(function, type) or inspect.isbuiltin(function):
        kind = "class" if isinstance(function, type) else "function of Python itself"
        raise RequestError(f"{which}: is a {kind}; {wanted}")
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise RequestError(f"{which}: takes {signature} ({error}); {wanted}") from error
    if signature.return_annotation in (bool, float, int, str, None, "bool", "float", "int", "str", "None"):
        found = inspect.formatannotation(signature.return_annotation)
        raise RequestError(f"{which}: returns {found}; {wanted}")
