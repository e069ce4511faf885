"""A deterministic simulation: the real code in a world where everything can fail, and one seed decides.

    clock      virtual time, and an asyncio loop that runs on it
    server     Redis as far as the library uses it: one list, and the lanes of the Lua script
    network    requests that are refused, lost, late, or answered with errors
    files      journals and marks, byte by byte; a process may die in the middle of a write
    disk       spool directories that outlive their processes, with writes that fail
    world      processes that are made of the real code, and the account of what each record is owed
    schedule   what happens in one schedule, drawn from its seed

Real are the pipeline, courier, replayer, sender, client, script arguments and answers, error table, hand-off,
batcher, ledger, journals and their recovery, spool keeper with its quota, and the part with its rows.
Simulated are threads, time, connections, the database file, the lock on it, and the files of the journals.

Left out: forks, and damage to a journal (`tests/journal` has it). Where the disk takes no cut of a batch, it
is delivered all the same, and a crash may then double it: that write always works here.

To repeat a schedule and see what happened in it: `python -m tests.simulation SEED [STRESS]`.
"""
