"""Pydantic's errors as messages for users: key, value, what was expected, the most similar valid choice."""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ray_kd.config.errors import UserError, nearest

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], data: Any, where: str) -> M:
    """Validate ``data`` as a ``model``."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_line(model, problem) for problem in error.errors()]
        head = f"{where}: " if len(lines) == 1 else f"{where}: {len(lines)} problems.\n  "
        raise UserError(head + "\n  ".join(dict.fromkeys(lines))) from None


def kinds_in(annotation: Any) -> frozenset[Any]:
    """The plain types that an annotation contains; ``str`` stands for literal words."""
    if isinstance(annotation, type) and not get_args(annotation):
        return frozenset({annotation})
    if annotation is Any:
        return frozenset({Any})
    kinds = (
        frozenset({type(inner)}) if get_origin(annotation) is Literal else kinds_in(inner)
        for inner in get_args(annotation)
    )
    return frozenset[Any]().union(*kinds)


def is_number(text: str) -> bool:
    """Whether a text is a plain decimal number, which all readers of YAML and JSON read alike.

    PyYAML reads 5e-4 as text, and some readers take 010, 1_000 and 1:30 for numbers.
    """
    return re.fullmatch(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?", text, re.ASCII) is not None


def refuse_guesses(value: Any, kinds: frozenset[Any]) -> None:
    """Refuse true for 1, 010 for 10, yes for true, and other values that pydantic would convert."""
    if isinstance(value, (list, tuple)):
        for entry in value:
            refuse_guesses(entry, kinds)
        return
    if Any in kinds or value is None:
        return
    number = kinds & {int, float}
    wanted = "a number" if float in kinds else "a whole number" if number else "true or false"
    if isinstance(value, bool):
        if number and bool not in kinds:
            raise ValueError(f"expected {wanted}, got {str(value).lower()}")
    elif isinstance(value, str):
        plain = is_number(value) if number else value in ("true", "false")
        if (number or bool in kinds) and str not in kinds and not plain:
            raise ValueError(f"expected {wanted}, got the text '{value}'")
    elif isinstance(value, (int, float)) and bool in kinds and not number:
        raise ValueError(f"expected true or false, got {value}")


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
    if kind in ("model_type", "model_attributes_type"):
        return _wants_a_mapping(key, value, _model_at(model, location))
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "int_from_float":
        message = "expected a whole number"
    message = message[0].lower() + message[1:]
    if kind == "value_error" and not location:
        return message + ("" if message.endswith(".") else ".")
    shown = f", got {shown_value(value)}" if _short(value) and ", got " not in message else ""
    if repr(value) in message:
        shown = ""
    guess = None
    if kind == "literal_error" and isinstance(value, str):
        expected = problem["ctx"]["expected"].replace(" or ", ", ").split(", ")
        guess = nearest(value, [word.strip("'") for word in expected])
    hint = f" Did you mean '{guess}'?" if guess else ""
    message = message.replace("input should be", "expected")
    for word, plain in (
        ("a valid dictionary", "a mapping"),
        ("a valid tuple", "a list"),
        ("a valid list", "a list"),
    ):
        message = message.replace(word, plain)
    return f"'{key}': {message.rstrip('.')}{shown}.{hint}"


def _wants_a_mapping(key: str, value: Any, wanted: Any) -> str:
    """Of a value that stands where a mapping belongs; a word is likely its name or its model."""
    fields = getattr(wanted, "model_fields", {})
    likely = [name for name in ("name", "model") if name in fields]
    shown = f", got {shown_value(value)}" if _short(value) else ""
    guess = len(likely) == 1 and isinstance(value, str) and _short(value)
    hint = f" Did you mean {{{likely[0]}: {value}}}?" if guess else ""
    return f"'{key}': expected a mapping{shown}.{hint} Valid in it: {', '.join(fields)}."


def shown_value(value: Any) -> str:
    """A value as a file would write it."""
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _short(value: Any) -> bool:
    return not isinstance(value, (dict, list, BaseModel)) and len(repr(value)) < 80


def known_keys(model: type[BaseModel], parents: list[Any], problem: Any) -> list[str]:
    """The valid keys where an unknown key was found."""
    return list(getattr(_model_at(model, parents), "model_fields", {}))


def _model_at(model: type[BaseModel], location: list[Any]) -> Any:
    """The model that describes what lies at a place of a file."""
    here: Any = model
    for part in location:
        if isinstance(part, int) or not (isinstance(here, type) and issubclass(here, BaseModel)):
            continue
        field = here.model_fields.get(part)
        here = _model_in(field.annotation) if field else here
    return here


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
