"""Real servers, and the ways in which a network betrays them: what tests, demo and chaos runs stand on.

Nothing here is part of the wheel, and nothing here imports the library: what judges it must not share its
code. Everything listens on the loopback interface only, and is gone when the process that started it is gone.

    servers   a real Redis or Valkey server that can be stopped, killed, frozen and restarted
    guarded   a child process that never outlives its parent
    proxy     a TCP proxy that loses, cuts, delays and holds back, steered by events and not by sleeps
    tls       the same proxy, ending TLS, with an authority of its own
    environments   other packages' releases, each apart
    calls     a book of what a program logged, which outlives it
    oracle    reads a list raw and says what was lost, doubled, unknown, or out of order
"""
