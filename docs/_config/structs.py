"""Show the arguments of msgspec Structs in the reference.

The API reference is read from the source, where a Struct has fields and no `__init__`: this writes the one that msgspec
makes, so that signatures are shown and the `Args` of the docstrings are checked against them. What the types of fields
say for the JSON Schema alone is left out.
"""

from dataclasses import replace
from typing import Any

import griffe


class StructExtension(griffe.Extension):
    """Give every Struct of a package its `__init__`."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Visit the classes of a package once all of it is loaded, so that bases can be looked up."""
        classes = _classes(pkg)
        for field in [field for class_ in classes for field in class_.attributes.values()]:
            field.annotation = _plain(field.annotation)
        for class_ in classes:
            lineage = [*reversed(class_.mro()), class_]
            if "__init__" not in class_.all_members and any(_is_struct(parent) for parent in lineage):
                class_.set_member("__init__", _constructor(class_, lineage))


def _classes(module: griffe.Module) -> list[griffe.Class]:
    nested = [found for submodule in module.modules.values() if not submodule.is_alias for found in _classes(submodule)]
    return [class_ for class_ in module.classes.values() if not class_.is_alias] + nested


def _is_struct(class_: griffe.Class) -> bool:
    return any(getattr(base, "canonical_path", base) == "msgspec.Struct" for base in class_.bases)


def _constructor(class_: griffe.Class, lineage: list[griffe.Class]) -> griffe.Function:
    parameters = {parameter.name: parameter for parent in lineage for parameter in _parameters(parent)}
    by_position = sorted(parameters.values(), key=lambda parameter: parameter.kind is griffe.ParameterKind.keyword_only)
    receiver = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    return griffe.Function(
        "__init__", parent=class_, parameters=griffe.Parameters(receiver, *by_position), returns="None"
    )


def _parameters(class_: griffe.Class) -> list[griffe.Parameter]:
    keyword_only = str(class_.keywords.get("kw_only")) == "True"
    kind = griffe.ParameterKind.keyword_only if keyword_only else griffe.ParameterKind.positional_or_keyword
    return [
        griffe.Parameter(name, annotation=field.annotation, kind=kind, default=field.value)
        for name, field in class_.attributes.items()
        if field.annotation is not None and "instance-attribute" in field.labels
    ]


def _plain(annotation: Any) -> Any:
    """Return a type without what `Annotated` adds to it."""
    if isinstance(annotation, griffe.ExprSubscript):
        if str(annotation.left) == "Annotated":
            return annotation.slice.elements[0]
        return replace(annotation, slice=_plain(annotation.slice))
    if isinstance(annotation, griffe.ExprTuple):
        return replace(annotation, elements=[_plain(each) for each in annotation.elements])
    return annotation
