"""Payloads that are more than plain JSON: what goes in, and what comes back."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, Protocol, TypeVar, get_type_hints

T = TypeVar("T")


class Codec(Protocol[T]):
    """Turns values into JSON values (None, bool, int, float, str, list, dict) and back."""

    def encode(self, value: T) -> Any:
        """``value`` as a JSON value."""
        ...

    def decode(self, payload: Any) -> T:
        """The value that ``payload`` stands for; an error fails the message."""
        ...


class DataclassCodec(Generic[T]):
    """A dataclass whose fields are JSON values, or such dataclasses themselves.

    >>> import dataclasses
    >>> @dataclasses.dataclass
    ... class Mail:
    ...     to: str
    ...     copies: int = 1
    >>> codec = DataclassCodec(Mail)
    >>> codec.encode(Mail("ada@example.org"))
    {'to': 'ada@example.org', 'copies': 1}
    >>> codec.decode({"to": "ada@example.org"})
    Mail(to='ada@example.org', copies=1)
    """

    def __init__(self, cls: type[T]) -> None:
        if not dataclasses.is_dataclass(cls):
            raise TypeError(f"{cls!r} is not a dataclass")
        self._cls = cls

    def encode(self, value: T) -> Any:
        """The fields as a dict."""
        if not isinstance(value, self._cls):
            raise TypeError(f"{value!r} is not a {self._cls.__name__}")
        return dataclasses.asdict(value)  # type: ignore[call-overload]

    def decode(self, payload: Any) -> T:
        """The dataclass with these fields."""
        value: T = _build(self._cls, payload)
        return value


class PydanticCodec(Generic[T]):
    """A pydantic model, or anything that a pydantic ``TypeAdapter`` accepts."""

    def __init__(self, model: type[T]) -> None:
        from pydantic import TypeAdapter

        self._adapter = TypeAdapter(model)

    def encode(self, value: T) -> Any:
        """The value, dumped in JSON mode."""
        return self._adapter.dump_python(value, mode="json")

    def decode(self, payload: Any) -> T:
        """The value, validated."""
        value: T = self._adapter.validate_python(payload)
        return value


def _build(cls: Any, payload: Any) -> Any:
    if not isinstance(payload, dict):
        raise TypeError(f"a {cls.__name__} is an object, not {payload!r}")
    hints = get_type_hints(cls)
    return cls(
        **{
            name: _build(hints[name], value) if dataclasses.is_dataclass(hints.get(name)) else value
            for name, value in payload.items()
        }
    )
