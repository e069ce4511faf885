"""The journal: what is in memory outlives the process.

    format    the file, byte by byte
    file      how it is made and written
    journal   of a living owner: append, cut, settle
    journals  those that one owner has at the same time
    recovery  what a dead owner left
    examination  what is wrong in it

It knows nothing of the spool: who recovers a journal says where its batches go.
"""

from __future__ import annotations

from ._examination import JournalFlaw as JournalFlaw
from ._examination import examine as examine
from ._format import JournalDamaged as JournalDamaged
from ._format import JournalError as JournalError
from ._format import NewerJournal as NewerJournal
from ._format import Run as Run
from ._format import of_one_journal as of_one_journal
from ._format import runs_of as runs_of
from ._format import value_of as value_of
from ._journal import Journal as Journal
from ._journals import Journals as Journals
from ._recovery import CorruptStretch as CorruptStretch
from ._recovery import DeadJournal as DeadJournal
from ._recovery import JournalFacts as JournalFacts
from ._recovery import RecoveredBatch as RecoveredBatch
from ._recovery import look_at as look_at
from ._recovery import see_into as see_into
