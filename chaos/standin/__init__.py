"""A stand-in for Toxiproxy 2.12, for machines where there is none.

It speaks Toxiproxy's HTTP interface, and does its toxics on asyncio. One suite of tests proves that the two
behave alike; what a client can see of the real one's oddities is here as well. What differs, on purpose:

- a proxy without a listen address gets a free port of the loopback interface, not of all interfaces;
- a toxic is exchanged at once, also where its connection's reader is stuck; the real one waits for it;
- `/metrics`, which the real one offers only when asked, is not there.

    _http     requests in, answers out
    _api      what each request means
    _proxies  a listener, its connections and the toxics in them
    _links    one direction of one connection, stage by stage
    _toxics   what each toxic does with the bytes that pass its stage
"""
