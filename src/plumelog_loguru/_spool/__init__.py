"""The spool: batches on disk, until Redis has them.

    row            a batch as bytes, under a checksum, and its key
    store          rows in order, in a diskcache directory
    part           the share of the directory that one living process owns, with all that is in it
    directory      all parts, of all processes
    aside          parts that are imported or purged, whole or not at all
    dead_letters   records that Redis refuses, one file each
    readdress      a part that was meant for one list is meant for another
    recovery       what an owner had in memory when it died, into the rows of its part
    verification   what is wrong in all of it
    mending        put right, in parts that nobody owns
    view           what parts hold, seen from outside
    holder         the parts that are ours
    writer         what is offered becomes rows
    quota          which rows go where there is no room
    reader         rows are handed out, and deleted once Redis has them
    recoverer      recoveries, a step at a time, beside live rows
    repair         parts whose files are gone or damaged
    keeper         the thread in which all of that is done

Everything below the keeper is synchronous and belongs to one thread.
"""

from __future__ import annotations

from ._aside import NewPart as NewPart
from ._aside import purge as purge
from ._dead_letters import CorruptLetter as CorruptLetter
from ._dead_letters import DeadLetter as DeadLetter
from ._dead_letters import DeadLetters as DeadLetters
from ._directory import PartInfo as PartInfo
from ._directory import SpoolDirectory as SpoolDirectory
from ._directory import network_file_system as network_file_system
from ._failures import SpoolDamaged as SpoolDamaged
from ._failures import SpoolError as SpoolError
from ._failures import SpoolFull as SpoolFull
from ._files import sync_directory as sync_directory
from ._keeper import KeeperOptions as KeeperOptions
from ._keeper import SpoolKeeper as SpoolKeeper
from ._listener import Block as Block
from ._lock import locks_work as locks_work
from ._mending import Mended as Mended
from ._mending import mend as mend
from ._part import Part as Part
from ._part import PartOptions as PartOptions
from ._readdress import readdress as readdress
from ._reader import SpooledRow as SpooledRow
from ._recovery import Recovery as Recovery
from ._row import CorruptRow as CorruptRow
from ._row import NewerFormat as NewerFormat
from ._row import RowKey as RowKey
from ._row import dt_time_ms as dt_time_ms
from ._store import import_diskcache as import_diskcache
from ._verification import Finding as Finding
from ._verification import Verified as Verified
from ._verification import verify as verify
from ._view import SeenBatch as SeenBatch
from ._view import batches_of as batches_of
