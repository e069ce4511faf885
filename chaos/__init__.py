"""Chaos: the network, the server, the process and the disk are broken on purpose, and losses are counted.

`make chaos` runs it. Everything listens on the loopback interface only, and is gone when the run ends.

What is played:

    scenario.py      what a scenario is: data
    scenarios/       all of them, by group
    faults/          what can go wrong, and how to see that it did
    application/     the program that logs meanwhile, in a process of its own
    contents/        what it logs, and how a record tells that it is intact

How it is played:

    __main__.py      a run: scenarios, a line for each, the report
    choices.py       what a run is asked for
    setting.py       what is the same for all scenarios of a run
    runner.py        scenarios, a few at a time
    performance.py   one scenario, from the first record to the last
    stage.py         its world: a server, a proxy, programs, a spool directory
    guardian.py      whoever was started ends with the run, however that ends
    arrivals.py      whether a record has arrived
    timeline.py      what happened when
    oracle.py        what was lost, doubled or changed; it knows nothing of the library
    verdict.py       what the oracle found, against what was promised
    page/            the report, as one page

What it is played with:

    toxiproxy/       Toxiproxy: found, built, driven
    standin/         what runs where no Toxiproxy can be had

Beside it:

    mutants.py       the library is broken on purpose, and a scenario must see it
    comparison.py    other sinks meet the same faults
"""
