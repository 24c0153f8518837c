"""The options of the commands: those that many have, and those that come from a flow's parameters.

What a flow may be asked for is said once, by its parameters; a command's options are made of their fields.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from flows.parameters import FlowParameters
from flows.sections import first_problem

if TYPE_CHECKING:
    from lake.lake import Lake

Parameters = TypeVar("Parameters", bound=FlowParameters)


def help_of(parameters: type[FlowParameters], name: str) -> str:
    """What a flow's parameters say of a field, for a command that has this option alone."""
    return str(parameters.model_fields[name].description)


LakeOption = Annotated[str | None, typer.Option("--lake", metavar="URI", help=help_of(FlowParameters, "lake"))]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

METAVARS = {
    "lake": "URI",
    "source": "SOURCE",
    "labels": "LABELS",
    "product_id_pattern": "REGEX",
    "exclude": "PATTERN",
    "backbone": "NAME",
    "weights": "bundled|imagenet|random|FILE",
    "recipe": "NAME=VALUE",
    "full_rebuild": "REASON",
    "force": "REASON",
}


def asks(parameters: type[Parameters], *, argument: str | None = None) -> Callable[[Callable[..., None]], Any]:
    """A decorator for a command whose first parameter is a flow's parameters: it gets an option for each field.

    `argument` names the field that is given by its place. A value that pydantic refuses is bad usage.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        names = sorted(parameters.model_fields, key=lambda name: (name != argument, name == "lake"))
        derived = [_derived(name, parameters.model_fields[name], name == argument) for name in names]
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        def run(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            command(_parsed(parameters, given, argument), **values)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature([*derived, *(each.replace(kind=each.KEYWORD_ONLY) for each in own)])  # type: ignore[attr-defined]
        run.__annotations__ = {}  # Typer looks here too, and would miss the names of the signature
        return run

    return decorate


def _derived(name: str, field: FieldInfo, is_argument: bool) -> inspect.Parameter:
    """A command's parameter for a field."""
    kind, metadata = _unwrapped(field.annotation, field.metadata)
    bounds = {"ge": "min", "le": "max"}  # those that Typer knows; pydantic holds the others
    texts: dict[str, Any] = {
        typers: getattr(each, ours) for each in metadata for ours, typers in bounds.items() if hasattr(each, ours)
    }
    texts |= {"help": field.description, "metavar": METAVARS.get(name)}
    if get_origin(kind) in (dict, tuple):
        kind, texts["help"] = list[str], f"{field.description} May be repeated."
    shown = typer.Argument(show_default=False, **texts) if is_argument else typer.Option(**texts)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[Optional[kind], shown],  # noqa: UP045 (a type as a value)
    )


def _unwrapped(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """A field's type without None and what pydantic checks beyond it; and the latter."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _unwrapped(inner, [*metadata, *more])
    if NoneType in get_args(annotation):
        (inner,) = (each for each in get_args(annotation) if each is not NoneType)
        return _unwrapped(inner, metadata)
    return annotation, metadata


def _parsed(parameters: type[Parameters], given: Mapping[str, Any], argument: str | None) -> Parameters:
    values = {name: _value(parameters, name, value) for name, value in given.items()}
    try:
        return parameters(**values)
    except ValidationError as error:
        name, problem = first_problem(error)
        option = name.upper() if name == argument else "--" + name.partition(".")[0].replace("_", "-")
        raise typer.BadParameter(f"{option}: {problem}") from error


def _value(parameters: type[Parameters], name: str, value: Any) -> Any:
    """What an option gave, as the parameters take it: a repeated one is a mapping or a sequence."""
    if not isinstance(value, list):
        return value
    field = parameters.model_fields[name]
    kind, _ = _unwrapped(field.annotation, field.metadata)
    return dict(map(_assignment, value)) if get_origin(kind) is dict else tuple(value) or None


def _assignment(text: str) -> tuple[str, Any]:
    """name=value, where the value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--recipe: expected NAME=VALUE, found {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def open_lake(uri: str | None) -> Lake:
    """The lake that --lake names, else the settings' one."""
    from flows.settings import read_settings
    from lake.lake import open_lake

    return open_lake(uri or read_settings().lake_uri)
