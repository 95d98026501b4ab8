"""Declare features as classes, in modules, notebooks and workers.

Theory of operation. A pickle of a function of `__main__` carries the classes that it names by value, graph and all.
dill makes such a class with its attributes, cloudpickle (joblib, Ray, Dask, Spark) makes an empty one and sets its
attributes afterwards. Neither is a declaration: the class joins no graph, it has brought its own.
"""

import sys
import types
from typing import Any, ClassVar

from metaxy_fs.errors import SpecError
from metaxy_fs.spec.graph import FeatureGraph
from metaxy_fs.spec.specs import FeatureSpec


class Feature:
    """The base of feature classes: a class is a declaration, and is what stores take as their first argument.

    Declaring a class adds its spec to the active `FeatureGraph`. A class that is declared again in the same module
    under the same name replaces its earlier declaration there, as a cell of a notebook that is run again does.

    Attributes:
        spec: The declaration.
        graph: The graph that the feature joined; its upstream features are looked up there.

    Raises:
        SpecError: The class has no spec, or the graph refuses it.

    Examples:
        >>> from metaxy_fs import ContainerKey, ContainerSpec, FeatureKey
        >>> with FeatureGraph().use():
        ...
        ...     class Video(
        ...         Feature,
        ...         spec=FeatureSpec(
        ...             key=FeatureKey(["video"]),
        ...             containers=[ContainerSpec(key=ContainerKey(["frames"]), code_version=1)],
        ...         ),
        ...     ):
        ...         pass
        >>> Video.spec.container_names
        ('frames',)
    """

    spec: ClassVar[FeatureSpec]
    graph: ClassVar[FeatureGraph]

    def __init_subclass__(cls, *, spec: FeatureSpec | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if spec is None and _is_unpickled(cls):
            return
        if not isinstance(spec, FeatureSpec):
            raise SpecError(without_spec(cls))
        graph = FeatureGraph.active()
        graph.declare(spec, by=f"{cls.__module__}.{cls.__qualname__}")
        cls.spec, cls.graph = spec, graph


def without_spec(feature: type[Feature]) -> str:
    """Return what to say of a class that declares nothing."""
    return f"Declare the feature with a spec: class {feature.__name__}(Feature, spec=FeatureSpec(key=...))."


def _is_unpickled(cls: type[Feature]) -> bool:
    if isinstance(cls.__dict__.get("spec"), FeatureSpec) and isinstance(cls.__dict__.get("graph"), FeatureGraph):
        return True
    frame = sys._getframe(1)  # noqa: SLF001 - nothing else tells an empty class of cloudpickle from a class statement
    while frame.f_code.co_name == "__init_subclass__" and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code is types.new_class.__code__
