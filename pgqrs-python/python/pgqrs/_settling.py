"""What stores, consumers and iterators do with messages that they hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Optional, Union

from ._errors import LeaseLostError
from ._native import Action, Message
from ._units import Duration, micros

#: A message, settled by its own receipt; or an id, settled by the newest receipt that is held of it.
MessageOrId = Union[Message, int]


class Settling(ABC):
    """Ends or prolongs leases. A message that is no longer held raises ``LeaseLostError``."""

    @abstractmethod
    async def _settle(self, settlements: Sequence[tuple[MessageOrId, Action]]) -> list[Any]:
        """One outcome each, in order; ``None`` where the lease is lost."""

    @abstractmethod
    async def _retry_delay(self, message: MessageOrId) -> int:
        """The delay of the queue before a failed message is tried again, in microseconds."""

    async def archive(self, message: MessageOrId) -> None:
        """Archives it as done. Repeating that is safe."""
        await self._one(message, Action.archive())

    async def delete(self, message: MessageOrId) -> None:
        """Deletes it for good."""
        await self._one(message, Action.delete())

    async def release(self, message: MessageOrId, delay: Duration = 0) -> None:
        """Gives it back, claimable after ``delay``; the attempt does not count."""
        await self._one(message, Action.release(micros(delay)))

    async def extend_vt(self, message: MessageOrId, vt: Duration) -> datetime:
        """Holds it for ``vt`` from now on (1 ms to 12 h); returns when that ends."""
        until: datetime = await self._one(message, Action.extend(micros(vt)))
        return until

    async def fail(
        self, message: MessageOrId, error: str, *, retry_after: Optional[Duration] = None
    ) -> str:
        """Records a failed attempt, tried again after ``retry_after`` or the queue's retry delay.

        Returns ``"retrying"``, or ``"dead"`` if that was the last attempt.
        """
        delay = await self._retry_delay(message) if retry_after is None else micros(retry_after)
        outcome: str = await self._one(message, Action.fail(error, delay))
        return outcome

    async def bury(self, message: MessageOrId, error: str) -> None:
        """Makes it a dead letter at once."""
        await self._one(message, Action.fail(error, None))

    async def archive_many(self, messages: Iterable[MessageOrId]) -> list[bool]:
        """Archives them in one call; one answer each, ``False`` where the lease was lost."""
        return await self._many(messages, Action.archive())

    async def delete_many(self, messages: Iterable[MessageOrId]) -> list[bool]:
        """Deletes them in one call; one answer each, ``False`` where the lease was lost."""
        return await self._many(messages, Action.delete())

    async def release_many(
        self, messages: Iterable[MessageOrId], delay: Duration = 0
    ) -> list[bool]:
        """Gives them back in one call; one answer each, ``False`` where the lease was lost."""
        return await self._many(messages, Action.release(micros(delay)))

    async def extend_vt_many(self, messages: Iterable[MessageOrId], vt: Duration) -> list[bool]:
        """Holds them for ``vt`` from now on; one answer each, ``False`` where the lease was lost."""
        return await self._many(messages, Action.extend(micros(vt)))

    async def _one(self, message: MessageOrId, action: Action) -> Any:
        (outcome,) = await self._settle([(message, action)])
        if outcome is None:
            raise lost(message if isinstance(message, int) else message.id)
        return outcome

    async def _many(self, messages: Iterable[MessageOrId], action: Action) -> list[bool]:
        outcomes = await self._settle([(message, action) for message in messages])
        return [outcome is not None for outcome in outcomes]


def lost(id: int) -> LeaseLostError:
    """The error of a message that is no longer held."""
    why = f"the lease of message {id} is lost: it was claimed again, settled, swept or deleted"
    return LeaseLostError(why, id=id)
