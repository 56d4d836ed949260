"""Pydantic's findings in the words of a user: key, value, what was expected, the nearest valid choice."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from ray_kd.config.errors import UserError, nearest

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], data: Any, where: str) -> M:
    """``data`` as a ``model``.

    Raises:
        UserError: one line for each thing that is wrong, each with its key.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_line(model, problem) for problem in error.errors()]
        head = f"{where}: " if len(lines) == 1 else f"{where}: {len(lines)} problems.\n  "
        raise UserError(head + "\n  ".join(dict.fromkeys(lines))) from None


def _line(model: type[BaseModel], problem: Any) -> str:
    location = [part for part in problem["loc"] if isinstance(part, int) or "[" not in part]
    key = ".".join(str(part) for part in location)
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        known = known_keys(model, location[:-1], problem)
        guess = nearest(str(location[-1]), known)
        hint = f" Did you mean '{guess}'?" if guess else ""
        return f"unknown key '{key}'.{hint} Valid here: {', '.join(known)}."
    if kind == "missing":
        return f"'{key}' is missing."
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if kind == "value_error" and not location:
        return message + ("" if message.endswith(".") else ".")
    shown = f", got {value!r}" if _short(value) and repr(value) not in message else ""
    guess = None
    if kind == "literal_error" and isinstance(value, str):
        expected = problem["ctx"]["expected"].replace(" or ", ", ").split(", ")
        guess = nearest(value, [word.strip("'") for word in expected])
    hint = f" Did you mean '{guess}'?" if guess else ""
    message = message.replace("input should be", "expected")
    return f"'{key}': {message.rstrip('.')}{shown}.{hint}"


def _short(value: Any) -> bool:
    return not isinstance(value, (dict, list, BaseModel)) and len(repr(value)) < 80


def known_keys(model: type[BaseModel], parents: list[Any], problem: Any) -> list[str]:
    """The keys that are valid at the place of an unknown one."""
    here: Any = model
    for part in parents:
        if isinstance(part, int) or not (isinstance(here, type) and issubclass(here, BaseModel)):
            continue
        field = here.model_fields.get(part)
        here = _model_in(field.annotation) if field else here
    return list(getattr(here, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
