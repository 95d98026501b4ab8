"""How is a feature declared in code?"""

from typing import Any, ClassVar

from metaxy_fs.errors import SpecError
from metaxy_fs.spec.graph import FeatureGraph
from metaxy_fs.spec.specs import FeatureSpec


class Feature:
    """The base of feature classes: a class is a declaration, and is what stores take as their first argument.

    Declaring a class adds its spec to the active `FeatureGraph`.

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
        if not isinstance(spec, FeatureSpec):
            raise SpecError(
                f"Declare the feature with a spec: class {cls.__name__}(Feature, spec=FeatureSpec(key=...))."
            )
        graph = FeatureGraph.active()
        graph.add(spec)
        cls.spec, cls.graph = spec, graph
