"""A wrapping storage hands on every call, with its arguments and its answer."""

import inspect
from unittest.mock import create_autospec, sentinel

import pytest

from metaxy_fs.storage.base import ForwardingStorage, Storage

MEMBERS = {name: member for name, member in vars(Storage).items() if not name.startswith("_")}
VERBS = [name for name, member in MEMBERS.items() if inspect.isfunction(member)]
PROPERTIES = [name for name in MEMBERS if name not in VERBS]


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_handed_on(verb: str) -> None:
    inner = create_autospec(Storage, instance=True)
    getattr(inner, verb).return_value = sentinel.answer
    signature = inspect.signature(getattr(Storage, verb))
    _, *parameters = signature.parameters.values()
    given = [getattr(sentinel, each.name) for each in parameters if each.kind is not each.KEYWORD_ONLY]
    named = {each.name: getattr(sentinel, each.name) for each in parameters if each.kind is each.KEYWORD_ONLY}

    answer = getattr(ForwardingStorage(inner), verb)(*given, **named)

    getattr(inner, verb).assert_called_once_with(*given, **named)
    assert len(inner.method_calls) == 1
    assert answer is (None if signature.return_annotation is None else sentinel.answer)


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_is_that_of_the_wrapped_storage(name: str) -> None:
    inner = create_autospec(Storage, instance=True)
    setattr(inner, name, sentinel.value)
    assert getattr(ForwardingStorage(inner), name) is sentinel.value
