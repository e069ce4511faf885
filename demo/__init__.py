"""The library's whole job in half a minute, against a real server: ``python -m demo``.

The library is used here as any application uses it: through Loguru, and set up through the environment.

    __main__      the story: who starts, who is killed, who comes back, and the verdict at the end
    application   the process that logs, through stock Loguru; it keeps a book of its own
    consumer      takes records out of Redis as Plumelog's server does
    judge         what was found in Redis against what was logged
    screen        plain text on a terminal, or without one
"""
