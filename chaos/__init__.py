"""Chaos: the network, the server, the process and the disk are broken on purpose, and what was lost is counted.

    scenario.py     what a scenario is: data
    scenarios/      all of them, by group
    faults/         what can go wrong, and how to see that it did
    application/    the program that logs meanwhile, in a process of its own
    contents.py     what it logs, and how a record tells that it is intact
    stage.py        one scenario's world: a server, a proxy, programs, a spool directory
    oracle.py       what was lost, doubled or changed; it knows nothing of the library
    runner.py       runs scenarios, a few at a time
    toxiproxy/      Toxiproxy: found, built, driven
    standin/        what runs where no Toxiproxy can be had
    page/           the report, as one page

`make chaos` runs it. Everything listens on the loopback interface only, and is gone when the run ends.
"""
