"""Loguru's door.

A record passes it in the thread that logged it: extracted, encoded to the bytes that Redis will hold, and
handed over, in a few microseconds. `write` never raises, never waits for the network, the disk or a thread of
ours, and keeps nothing of the record alive.

What Loguru calls: `write` for each record and `stop` on ``logger.remove()`` and at exit, both under its
handler's lock; it awaits `complete`. It would call ``flush`` after *every* record if there were one, so there
is none.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
import weakref
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _fork
from ._delivery import import_redis
from ._diagnostics import say
from ._errors import SettingsError
from ._facts import DrainReport, Hook, SinkStats
from ._hooks import Hooks
from ._loss_marker import marker_line
from ._pipeline import Pipeline, PipelineState
from ._record import FieldExtractor, encode
from ._settings import PlumelogSettings
from ._spool import import_diskcache

if TYPE_CHECKING:
    from loguru import Message
    from typing_extensions import Self, Unpack

    from ._settings import SettingsKeywords

# What our own threads have to say comes back to us where an application sends everything to Loguru.
_OUR_LOGGERS = ("redis", "asyncio", "plumelog_loguru")
_RECONFIGURABLE = ("batch_size", "batch_interval_seconds", "queue_max_size", "retry_count", "replay_rate")


class DurableRedisSink:
    """A Loguru sink that pushes records into Plumelog's Redis list, and loses none and doubles none.

    Example:
        >>> from loguru import logger
        >>> logger.add(DurableRedisSink(app_name="shop"))  # doctest: +SKIP
    """

    encoding = "utf8"  # Loguru reads it; without it, it would draw tracebacks for ASCII

    def __init__(self, settings: PlumelogSettings | None = None, **changes: Unpack[SettingsKeywords]) -> None:
        """Never waits for the network, and never fails because Redis is down.

        Args:
            settings: all settings; by default they come from the environment.
            **changes: single settings, which win over ``settings``.

        Raises:
            SettingsError: a setting can never work; the message names it, its value and the cure.
        """
        if settings is None:
            settings = PlumelogSettings(**changes)
        elif changes:
            settings = settings.with_changes(**changes)
        # Here, in the caller's thread: a thread of ours that imports cannot do so while the interpreter ends,
        # and a fork meanwhile would leave the child with half a module.
        import_redis()
        import_diskcache()
        self._settings = settings
        self._hooks = Hooks(say)
        self._begin()
        _fork.remember(self)
        _all_sinks.add(self)
        _finish_at_worker_exit(self)
        self._pipeline.start()

    def _begin(self) -> None:
        """Everything that belongs to one process."""
        self._extractor = FieldExtractor(self._settings)
        self._record_max_bytes = _record_max_bytes(self._settings)
        marker = partial(marker_line, self._extractor, self._record_max_bytes)
        self._pipeline = Pipeline(self._settings, hooks=self._hooks, report=say, marker=marker)
        self._is_child = False

    def __repr__(self) -> str:
        return f"<DurableRedisSink {self._settings.destination} {self._pipeline.state.value}>"

    def __reduce__(self) -> tuple[type[DurableRedisSink], tuple[PlumelogSettings]]:
        return (type(self), (self._settings,))  # for spawned processes: a sink of their own

    @property
    def settings(self) -> PlumelogSettings:
        """The settings in force."""
        return self._settings

    # ---------------------------------------------------------------- a record comes in

    def write(self, message: Message) -> None:
        """Take one record in. Called by Loguru; never raises and never waits for the network."""
        try:
            record = message.record
            pipeline = self._pipeline
            if record["thread"].id in pipeline.own_thread_ids and (record["name"] or "").startswith(
                _OUR_LOGGERS
            ):
                return  # the loop's own remarks, come by an intercept handler: they would feed themselves
            if pipeline.state is PipelineState.IDLE:
                self._start()  # first: the record is to find a journal
            pipeline.handoff.put(self._extractor.line(record, self._record_max_bytes))
        except Exception as error:
            self._write_otherwise(message, error)

    __call__ = write

    def _write_otherwise(self, message: object, error: Exception) -> None:
        """A text that did not come through Loguru, or what nobody thought of."""
        try:
            if hasattr(message, "record"):
                self._pipeline.handoff.refuse()
                say("write", f"a record could not be taken: {type(error).__name__}: {error}")
                return
            self._accept(str(message), "INFO", {}, depth=3)
        except Exception as worse:
            say("write", f"a message could not be taken: {type(worse).__name__}: {worse}")

    def _accept(self, message: str, level: str, extra: dict[str, object], depth: int) -> None:
        from loguru import logger

        level_no = logger.level(level).no
        frame = sys._getframe(depth)
        code = frame.f_code
        record = self._extractor.from_message(
            message,
            level_name=level,
            level_no=level_no,
            extra=extra,
            function=code.co_name,
            file=code.co_filename.rpartition("/")[2],
            line=frame.f_lineno,
            module_name=frame.f_globals.get("__name__"),
        )
        self._start()
        self._pipeline.handoff.put(encode(record, self._record_max_bytes))

    def _start(self) -> None:
        if self._is_child:
            # Not in the fork hook: multiprocessing forgets the finalizers that it finds when the child
            # begins.
            self._is_child = False
            _finish_at_worker_exit(self)
        self._pipeline.start()

    async def alog(self, message: str, level: str = "INFO", **extra: object) -> None:
        """Log without Loguru, and return when the record is settled.

        Its batch is cut at once. Waits at most ``close_timeout_seconds``; after that the record is still on
        its way.

        Args:
            message: what to say.
            level: the name of a level that Loguru knows.
            **extra: fields of the record, like ``logger.bind()``.

        Raises:
            WrongThreadError: called in a thread of the sink's own.
            ValueError: Loguru knows no such level.
        """
        self._pipeline.forbid_own_threads("alog")
        self._accept(message, level, extra, depth=2)
        await self._settled()

    # ---------------------------------------------------------------- settling

    async def complete(self) -> None:
        """What was logged before is in Redis or in the spool. Waits at most ``close_timeout_seconds``."""
        await self._settled()

    async def _settled(self) -> None:
        self._start()
        pipeline = self._pipeline
        pipeline.forbid_own_threads("complete")
        await asyncio.wrap_future(pipeline.begin_drain(self._settings.close_timeout_seconds))

    def drain(self, timeout: float | None = None) -> DrainReport:
        """Wait until everything accepted before is in Redis or in the spool.

        Args:
            timeout: seconds; None waits until it is settled, or until it is certain that neither takes
                records.

        Raises:
            WrongThreadError: called in a thread of the sink's own.
        """
        self._start()
        return self._pipeline.drain(timeout)

    def close(self, timeout: float | None = None) -> DrainReport:
        """Refuse new records, push what is left, spool the rest, let go of everything. Final, and idempotent.

        Args:
            timeout: seconds for all of it; by default ``close_timeout_seconds``.

        Raises:
            WrongThreadError: called in a thread of the sink's own.
        """
        self._pipeline.forbid_own_threads("close")
        return self._pipeline.stop(self._seconds(timeout), final=True)

    async def aclose(self, timeout: float | None = None) -> DrainReport:
        """Like :meth:`close`, without blocking the caller's loop."""
        self._pipeline.forbid_own_threads("aclose")
        return await asyncio.get_running_loop().run_in_executor(None, self.close, timeout)

    def stop(self) -> None:
        """Like `close`, but not final. Loguru calls it on remove and at exit; never raises."""
        try:
            if self._pipeline.is_own_thread(threading.get_ident()):
                say("stop", "the sink was removed by one of its own threads; it stops when the process ends")
                return
            self._pipeline.stop(self._settings.close_timeout_seconds, final=False)
        except Exception as error:
            say("stop", f"the sink did not stop cleanly: {type(error).__name__}: {error}")

    def _seconds(self, timeout: float | None) -> float:
        return self._settings.close_timeout_seconds if timeout is None else max(0.0, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # ---------------------------------------------------------------- looking and changing

    def stats(self) -> SinkStats:
        """A frozen snapshot of what has become of every record."""
        return self._pipeline.stats()

    def add_hook(self, hook: Hook) -> None:
        """Call ``hook(event)`` on changes of state and on losses, in a thread of the hooks' own."""
        self._hooks.add(hook)

    def reconfigure(self, **changes: Any) -> None:
        """Change settings at run time.

        Args:
            **changes: ``batch_size``, ``batch_interval_seconds``, ``queue_max_size``, ``retry_count``,
            ``replay_rate``.

        Raises:
            SettingsError: a setting that cannot change at run time, or a value that can never work.
        """
        for name in changes:
            if name not in _RECONFIGURABLE:
                raise SettingsError(
                    f"{name} cannot be changed at run time; {', '.join(_RECONFIGURABLE)} can. "
                    "Close this sink and add one with other settings instead."
                )
        self._settings = self._settings.with_changes(**changes)
        self._pipeline.reconfigure(self._settings)

    # ---------------------------------------------------------------- fork

    def sqlite_lock(self) -> threading.Lock | None:
        """For the fork hook."""
        return self._pipeline.sqlite_lock

    def start_empty(self, *, sqlite_is_safe: bool) -> object:
        """For the fork hook, in the child: nothing of the parent's is ours."""
        parents = (self._pipeline, self._extractor, self._hooks)
        self._pipeline.leave_in_child()
        self._hooks = self._hooks.in_child()
        self._begin()
        self._is_child = True
        if not sqlite_is_safe:
            # The fork caught a thread inside SQLite: in this child any call into it would hang.
            self._pipeline.forgo_spool()
        return parents


def _record_max_bytes(settings: PlumelogSettings) -> int:
    """What a record may have; a journal must hold several of the largest."""
    if settings.durability == "memory":
        return settings.record_max_bytes
    return min(settings.record_max_bytes, settings.journal_max_bytes // 4)


RedisSink = DurableRedisSink
"""The name that users of Plumelog's Python clients know."""


def create_redis_sink(settings: PlumelogSettings | None = None) -> DurableRedisSink:
    """Make a sink, by the name that the earlier library gave to this function."""
    return DurableRedisSink(settings)


_all_sinks: weakref.WeakSet[DurableRedisSink] = weakref.WeakSet()


def _stop_all() -> None:
    for sink in list(_all_sinks):
        sink.stop()


def _finish_at_worker_exit(sink: DurableRedisSink) -> None:
    """A worker of multiprocessing leaves without calling what `atexit` knows; only its finalizers run."""
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return
    from multiprocessing.util import Finalize, register_after_fork

    if process.parent_process() is not None:
        Finalize(None, _stop_weakly, args=(weakref.ref(sink),), exitpriority=100)
    else:
        # One that is made, or unpickled, while forkserver and spawn prepare a worker: that is not a worker
        # yet, and forgets the finalizers of before when it becomes one.
        register_after_fork(sink, _finish_at_worker_exit)


def _stop_weakly(reference: weakref.ref[DurableRedisSink]) -> None:
    sink = reference()
    if sink is not None:
        sink.stop()


# Loguru stops the sinks that were added to it; this is for the others. Where Loguru was imported first, this
# runs before Loguru's: what other threads log in between is spooled, and delivered by the next process.
atexit.register(_stop_all)
