"""What a log call costs, and how many records a second arrive: ``python -m bench``.

Only ratios within one run are worth quoting: every variant takes its turn, in a process of its own.

    __main__   the rounds: every variant in a process of its own, one after the other, and the table of ratios
    variants   what runs in such a process: one measurement with one sink
    earlier    an environment of its own for the library's earlier release
"""
