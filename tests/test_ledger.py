"""The equation holds after whatever is booked, and a reader's picture never changes under it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plumelog_loguru._ledger import Ledger, Settled
from tests.scale import scaled

PARTS = ("a", "b")
REASONS = st.sampled_from(["spool_full", "corrupt", "spool_lost", "closed"])
RECORDS = st.integers(1, 1000)


class Books(RuleBasedStateMachine):
    """Records move between memory, parts, Redis and loss; a model moves them too, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.accepted = self.memory = self.delivered = self.adopted = self.letters = 0
        self.parts = dict.fromkeys(PARTS, 0)
        self.dropped: dict[str, int] = {}
        self.seen: list[tuple[Settled, str]] = []

    def share(self, data: st.DataObject, of: int) -> int:
        return data.draw(st.integers(1, of))

    @rule(records=RECORDS)
    def records_come_in(self, records: int) -> None:
        self.accepted += records
        self.memory += records

    @rule(part=st.sampled_from(PARTS), records=RECORDS)
    def a_part_is_adopted(self, part: str, records: int) -> None:
        self.ledger.adopted(part, records)
        self.adopted += records
        self.parts[part] += records

    @precondition(lambda self: self.memory)
    @rule(data=st.data())
    def redis_takes_some_from_memory(self, data: st.DataObject) -> None:
        records = self.share(data, self.memory)
        self.ledger.delivered(records)
        self.memory -= records
        self.delivered += records

    @precondition(lambda self: self.memory)
    @rule(data=st.data(), part=st.sampled_from(PARTS))
    def some_go_to_disk(self, data: st.DataObject, part: str) -> None:
        records = self.share(data, self.memory)
        self.ledger.spooled(part, records)
        self.memory -= records
        self.parts[part] += records

    @precondition(lambda self: any(self.parts.values()))
    @rule(data=st.data())
    def redis_takes_some_from_disk(self, data: st.DataObject) -> None:
        part = data.draw(st.sampled_from([part for part in PARTS if self.parts[part]]))
        records = self.share(data, self.parts[part])
        self.ledger.replayed(part, records)
        self.parts[part] -= records
        self.delivered += records

    @precondition(lambda self: self.memory)
    @rule(data=st.data())
    def some_in_memory_become_letters(self, data: st.DataObject) -> None:
        records = self.share(data, self.memory)
        self.ledger.dead_lettered(records, None)
        self.memory -= records
        self.letters += records

    @precondition(lambda self: any(self.parts.values()))
    @rule(data=st.data())
    def some_on_disk_become_letters(self, data: st.DataObject) -> None:
        part = data.draw(st.sampled_from([part for part in PARTS if self.parts[part]]))
        records = self.share(data, self.parts[part])
        self.ledger.dead_lettered(records, part)
        self.parts[part] -= records
        self.letters += records

    @precondition(lambda self: self.memory)
    @rule(data=st.data(), reason=REASONS)
    def some_are_lost_from_memory(self, data: st.DataObject, reason: str) -> None:
        records = self.share(data, self.memory)
        self.ledger.dropped(records, reason)
        self.memory -= records
        self.dropped[reason] = self.dropped.get(reason, 0) + records

    @precondition(lambda self: any(self.parts.values()))
    @rule(data=st.data(), reason=REASONS)
    def some_are_lost_from_disk(self, data: st.DataObject, reason: str) -> None:
        part = data.draw(st.sampled_from([part for part in PARTS if self.parts[part]]))
        records = self.share(data, self.parts[part])
        self.ledger.spool_lost(part, records, reason)
        self.parts[part] -= records
        self.dropped[reason] = self.dropped.get(reason, 0) + records

    @rule()
    def the_spool_is_let_go_of(self) -> None:
        self.ledger.released()
        self.adopted -= sum(self.parts.values())
        self.parts = dict.fromkeys(PARTS, 0)

    @rule()
    def somebody_looks(self) -> None:
        self.seen.append((self.ledger.settled, repr(self.ledger.settled)))

    @invariant()
    def the_equation_holds(self) -> None:
        now = self.ledger.settled
        # Nothing is ever taken from memory but by a booking; so what remains is what the model has there.
        in_memory = (
            self.accepted
            + now.adopted
            - now.delivered
            - now.spooled
            - now.dead_lettered
            - sum(now.dropped.values())
        )
        assert in_memory == self.memory

    @invariant()
    def every_account_is_true(self) -> None:
        now = self.ledger.settled
        assert (now.adopted, now.delivered) == (self.adopted, self.delivered)
        assert now.dead_lettered == self.letters
        assert now.spooled_by_part == {part: records for part, records in self.parts.items() if records}
        assert now.dropped == self.dropped

    @invariant()
    def a_picture_that_was_taken_does_not_change(self) -> None:
        assert all(repr(settled) == text for settled, text in self.seen)


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=scaled(50, 1000), stateful_step_count=30, deadline=None)
