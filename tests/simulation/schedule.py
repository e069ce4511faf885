"""What happens in one schedule: a world, some time in which things go wrong, and then peace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal

from .network import LATEST_SECONDS, MOODS
from .world import Killed, Process, Violation, World, some_settings

_SETTINGS = 24
_PEACE_SECONDS = (
    900.0  # enough for every pause, and for the parts of the dead to be found, one after the other
)

_MOST_LOOKS = 60
_OWNERS_IN_PEACE = 4


Stress = Literal["deaths", "poison", "restarts"]


def play(world: World, stress: Stress | None = None) -> None:
    """Play the schedule that the world's dice decide, with more of what ``stress`` says.

    Raises:
        Violation: a promise was broken.
    """
    world.max_batch_bytes = world.dice.choice((300, 1000, 5000))
    world.rewind_bytes = world.dice.choice((0, 500, 64 << 10))
    try:
        with world.entered():
            _Schedule(world, stress).play()
    except Killed as death:
        raise AssertionError("a death was not noticed") from death
    finally:
        world.close()


class _Schedule:
    def __init__(self, world: World, stress: Stress | None) -> None:
        dice = world.dice
        self._world = world
        # All processes have one destination.
        self._settings = dice.randrange(2) + 2 * dice.randrange(_SETTINGS)
        self._settings_differ = dice.random() < 0.3
        self._most_processes = dice.choice((1, 1, 2, 3))
        self._deaths = dice.random() < 0.5 or stress in ("deaths", "poison")
        # Nobody can tell whether a write was done that failed, on a disk that cannot be read either.
        self._failed_writes_are_done = dice.random() < 0.5
        self._disk_faults = dice.random() < 0.5 or stress == "restarts"
        self._moods = dice.sample(list(MOODS), dice.randint(1, 3))
        self._odds: dict[Callable[[], None], float] = {
            self._log: 10,
            self._wait: 8,
            self._change_network: 3,
            self._drain: 0.7,
            self._stop_and_start: 3 if stress == "restarts" else 0.5 * dice.randrange(2),
            self._close: 0.5 * dice.randrange(2),
            self._break_loop: 0.5 * dice.randrange(2),
            self._forget_scripts: 0.3,
            self._change_disk: 2.0 * self._disk_faults,
            self._kill: 0.7 * self._deaths,
            self._delete_spool: 0.5 * (dice.random() < 0.1),
            self._delete_part: 0.5 * (dice.random() < 0.05),
            self._flip_a_bit: 0.5 * (dice.random() < 0.1),
        }
        if self._deaths:
            world.death_rate = dice.choice((0.0, 0.005, 0.02))
            world.torn_rate = dice.choice((0.0, 0.003, 0.02))
        if stress == "deaths":
            world.death_rate, world.torn_rate = 0.02, 0.05
        world.interrupt_rate = dice.choice((0.0, 0.0, 0.02, 0.1))
        world.thread_rate = dice.choice((0.0, 0.01, 0.2))
        world.disk.mapped = dice.random() < 0.5
        world.poison_rate = 0.06 if stress == "poison" else dice.choice((0.0, 0.0, 0.0, 0.03))

    def play(self) -> None:
        world, dice = self._world, self._world.dice
        self._new_process()
        for _ in range(dice.randint(10, 60)):
            living = len(world.living)
            if not living or (living < self._most_processes and dice.random() < 0.1):
                self._new_process()
            happens = dice.choices(list(self._odds), list(self._odds.values()))[0]
            with suppress(Killed):
                happens()
        self._make_peace()

    def _make_peace(self) -> None:
        """Nothing goes wrong any more: everything comes to its end."""
        world = self._world
        world.tell("peace")
        world.network.mood = "calm"
        world.disk.heal()
        world.death_rate = world.torn_rate = world.interrupt_rate = world.thread_rate = 0.0
        for process in world.living:
            process.start()
        if not world.living:
            self._new_process()
        drained = world.run_until(
            lambda: all(process.settled for process in world.living) and not self._unowned(), _PEACE_SECONDS
        )
        if not drained:
            raise Violation("not drained in peace: " + "; ".join(f"{p}: {p.stats()}" for p in world.living))
        for process in world.living:
            self._free_journal(process)
        for process in world.living:
            process.stop(5.0, final=True)
            world.retire(process)
        world.run_until(lambda: not world.arriving, LATEST_SECONDS + 1)
        # A row that Redis had, and that could not be deleted then, goes with the next owner; and what that
        # one lost it tells of at its end, in a row again.
        for _ in range(_OWNERS_IN_PEACE):
            if world.disk.left_behind():
                last = self._new_process()
                world.run_until(partial(self._is_drained_by, last), _PEACE_SECONDS)
                last.stop(5.0, final=True)
                world.retire(last)
        world.check_end()

    def _free_journal(self, process: Process) -> None:
        """What an interrupted call left in the journal comes out while others log, or the ring would fill."""
        for _ in range(_MOST_LOOKS):
            if process.journal_is_clear:
                return
            process.log(1)
            self._world.run_until(lambda: process.journal_is_clear, self._world.dice.uniform(0.5, 2.0))
        raise Violation(f"the journal of {process} is held up: {process.pipeline._journals.current}")

    def _is_drained_by(self, process: Process) -> bool:
        return process.settled and not self._world.disk.left_behind()

    def _unowned(self) -> bool:
        return any(files.owner is None for files in self._world.disk.left_behind())

    # ---------------------------------------------------------------- what can happen

    def _new_process(self) -> Process:
        if self._settings_differ:
            self._settings = self._settings % 2 + 2 * self._world.dice.randrange(_SETTINGS)
        process = Process(self._world, some_settings(self._settings))
        with suppress(Killed):
            process.start()
        return process

    def _someone(self) -> Process:
        living = self._world.living
        if not living:
            raise Killed  # the one that was to begin
        return self._world.dice.choice(living)

    def _log(self) -> None:
        self._someone().log(self._world.dice.choice((1, 1, 2, 5, 15)))

    def _wait(self) -> None:
        self._world.run_until(lambda: False, self._world.dice.choice((0.01, 0.2, 1.0, 5.0, 20.0)))

    def _change_network(self) -> None:
        self._world.network.mood = mood = self._world.dice.choice((*self._moods, "calm"))
        self._world.tell(f"the network is {mood}")

    def _change_disk(self) -> None:
        dice, disk = self._world.dice, self._world.disk
        disk.heal()
        if dice.random() < 0.7:
            disk.write_fails = dice.choice((0.1, 0.5, 1.0))
            if self._failed_writes_are_done:
                disk.done_though_failed = 0.5
            else:
                disk.read_fails = dice.choice((0.0, 0.3))
                disk.opens_databases = dice.random() < 0.8
            disk.opens = dice.random() < 0.8
            disk.free_bytes = dice.choice((disk.free_bytes, 0))
        self._world.tell(
            f"the disk opens: {disk.opens}; writes fail: {disk.write_fails}, of these are done: "
            f"{disk.done_though_failed}; reads fail: {disk.read_fails}"
        )

    def _drain(self) -> None:
        process = self._someone()
        process.drain(self._world.dice.choice((0.1, 3.0)))

    def _stop_and_start(self) -> None:
        process = self._someone()
        process.stop(self._world.dice.choice((0.3, 5.0)), final=False)
        self._world.run_until(lambda: False, self._world.dice.choice((0.0, 2.0)))
        if process.alive:
            process.start()

    def _close(self) -> None:
        process = self._someone()
        process.stop(self._world.dice.choice((0.3, 5.0)), final=True)
        self._world.retire(process)

    def _kill(self) -> None:
        self._world.kill(self._someone(), "from outside")

    def _break_loop(self) -> None:
        self._someone().break_loop()

    def _forget_scripts(self) -> None:
        self._world.redis.forget_scripts()

    def _delete_spool(self) -> None:
        self._world.delete_spool()

    def _delete_part(self) -> None:
        self._world.delete_part()

    def _flip_a_bit(self) -> None:
        self._world.flip_a_bit()
