"""What goes in comes out; what cannot is refused before anything is written."""

import dataclasses
import enum
import random
import struct
from datetime import datetime
from typing import Any

import pydantic
import pytest

import pgqrs

JSON: list[Any] = [
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, -0.0, 5e-324, 1.7976931348623157e308,
    1e16, "", "é\u0000\n\"\\\x1f/\u2028 \U0001f600", [], {}, [1, [2, [3]]],
    {"a": {"b": [None, {"c": 1}]}, "": 0, "z": 1, "y": 2},
]  # fmt: skip


class Color(enum.IntEnum):
    RED = 1


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels - 1):
        value = [value]
    return value


async def test_json_comes_back_as_it_was(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue_many(queue, JSON, headers={"trace": "é", "n": 1})
    messages = await store.dequeue(queue, batch_size=100)
    assert [repr(msg.payload) for msg in messages] == [repr(value) for value in JSON]
    assert all(msg.headers == {"trace": "é", "n": 1} for msg in messages)


async def test_floats_come_back_to_the_last_bit(store: pgqrs.Store, queue: str) -> None:
    rng = random.Random(7)
    bits = [struct.unpack("d", rng.randbytes(8))[0] for _ in range(2_000)]
    floats = [x for x in bits if x == x and abs(x) != float("inf")]
    await store.enqueue(queue, floats)
    [message] = await store.dequeue(queue)
    assert message.payload == floats


async def test_tuples_and_subclasses(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue(queue, {"t": (1, 2), "c": Color.RED, "depth": nested(126)})
    [message] = await store.dequeue(queue)
    assert message.payload == {"t": [1, 2], "c": 1, "depth": nested(126)}


cyclic: list[Any] = []
cyclic.append({"again": cyclic})


@pytest.mark.parametrize(
    "payload, why",
    [
        (2**64, "65 bits"),
        ({"n": [1, -(2**63) - 1]}, "payload['n'][1]"),
        (float("nan"), "NaN"),
        ({"x": float("inf")}, "payload['x']"),
        (b"bytes", "a bytes is not JSON"),
        ({1: 2}, "keys are str in JSON, not int"),
        ({"a": {None: 1}}, "payload['a'][None]"),
        (datetime(2026, 1, 1), "datetime"),
        ({1, 2}, "set"),
        ("\ud800", "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        (cyclic, "contains itself"),
        (nested(129), "deeper than 127"),
        (object(), "codec"),
    ],
)
async def test_what_is_no_json_is_refused_by_name(
    store: pgqrs.Store, queue: str, payload: Any, why: str
) -> None:
    for values in ([payload], ["good", payload]):
        with pytest.raises(pgqrs.PayloadError) as refused:
            await store.enqueue_many(queue, values)
        assert why in str(refused.value)
    assert await store.dequeue(queue) == []


async def test_the_deepest_payload_that_goes_in_comes_out(store: pgqrs.Store, queue: str) -> None:
    await store.enqueue(queue, nested(127))
    [message] = await store.dequeue(queue)
    assert message.payload == nested(127)


async def test_headers_are_an_object(store: pgqrs.Store, queue: str) -> None:
    with pytest.raises(pgqrs.PayloadError):
        await store.enqueue(queue, 1, headers={"x": b""})
    with pytest.raises((TypeError, ValueError)):
        await store.enqueue(queue, 1, headers=[1])  # type: ignore[arg-type]


async def test_a_payload_over_the_limit_is_refused(store: pgqrs.Store, queue: str) -> None:
    limit = await pgqrs.admin(store).payload_limit()
    with pytest.raises(pgqrs.PayloadTooLargeError) as refused:
        await store.enqueue_many(queue, ["", "x" * limit])
    assert (refused.value.index, refused.value.size, refused.value.limit) == (1, limit + 2, limit)
    await store.enqueue(queue, "x" * (limit - 2))


@dataclasses.dataclass
class Address:
    city: str


@dataclasses.dataclass
class Order:
    number: int
    address: Address


class Invoice(pydantic.BaseModel):
    number: int
    due: datetime


@pytest.mark.parametrize(
    "codec, value",
    [
        (pgqrs.DataclassCodec(Order), Order(1, Address("London"))),
        (pgqrs.PydanticCodec(Invoice), Invoice(number=1, due=datetime(2026, 1, 1))),
    ],
)
async def test_codecs(store: pgqrs.Store, queue: str, codec: Any, value: Any) -> None:
    seen = []
    producer = await store.producer(queue, codec=codec)
    await producer.enqueue(value)
    await store.enqueue(queue, value, codec=codec)
    await store.enqueue(queue, "something else")

    async def handler(msg: pgqrs.Message) -> None:
        seen.append(msg.payload)

    assert await pgqrs.consume(store, queue, handler, codec=codec, batch_size=3) == 3
    assert seen == [value, value]
    [failed] = await pgqrs.admin(store).messages(queue)
    assert failed.payload == "something else" and failed.last_error is not None
    with pytest.raises((TypeError, ValueError)):
        await producer.enqueue(b"?" if codec is None else object())
