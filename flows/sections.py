"""The sections that all choices stand in, and how a flat pydantic model contains them.

A section is a frozen dataclass whose fields have a default, bounds and a description: `IngestConfig` and its like.
The settings contain sections as they are, a flow's parameters with every field optional. Neither repeats a field.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Optional, TypeVar

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from flows.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)
Section = TypeVar("Section")


def fields_of(section: type[Any]) -> dict[str, FieldInfo]:
    """The fields of a section by their names, its own before those that it shares with others."""
    fields: dict[str, FieldInfo] = section.__pydantic_fields__
    return dict(sorted(fields.items(), key=lambda field: field[0] not in section.__annotations__))


def containing(
    *sections: type[Any], optional: bool = False, omit: Collection[str] = ()
) -> Callable[[type[Model]], type[Model]]:
    """A class decorator: the model has the sections' fields beside its own.

    `optional`: None is allowed and the default; the description says what the default would have been. `omit`: names
    of fields that are left out.
    """

    def decorate(model: type[Model]) -> type[Model]:
        named = {name: info for section in sections for name, info in fields_of(section).items() if name not in omit}
        fields: dict[str, Any] = {
            name: _optional(info) if optional else (info.annotation, info) for name, info in named.items()
        }
        contains = create_model(
            model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields
        )
        contains.__qualname__ = model.__qualname__
        return contains

    return decorate


def build(section: type[Section], values: Mapping[str, Any]) -> Section:
    """The section with those of the values that are its fields. Raises SettingsError where they do not go together."""
    try:
        return section(**{name: value for name, value in values.items() if name in fields_of(section)})
    except ValidationError as error:
        raise SettingsError(": ".join(filter(None, first_problem(error)))) from error


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The field that pydantic refuses first, empty where several do not go together, and why."""
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")


def _optional(info: FieldInfo) -> tuple[Any, Any]:
    checked = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    shown = "" if info.default_factory or info.default in (None, ()) else f" [default: {_text(info.default)}]"
    return Optional[checked], Field(None, description=f"{info.description}{shown}")  # noqa: UP045 (a type as a value)


def _text(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
