"""Functions that a configuration names: by a name from a table, or a user's own as `package.module:function`."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from mindrl.config.names import nearest
from mindrl.errors import RequestError


def find_function(what: str, name: str, table: Mapping[str, str]) -> Callable[..., Any]:
    """Import the function of that name or path; `table` gives names their paths.

    `what` begins the messages of the `RequestError` for a name that is unknown or leads to no function."""
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
    return function
