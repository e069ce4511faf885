"""Delivery: a batch into a Redis list, once, and a plain word about what became of it.

    _outcomes      what an attempt can come to; frozen facts
    _failures      the one table that says what an error means
    _lane_script   the push as one Lua script that recognises a batch it has seen
    _connections   a few connections to one server, with time-outs and without retries
    _client        the calls: push, fence, probe; every failure comes back as a value
    _sender        one attempt, by script or plainly, whichever this process may use
    _live_lane     the identities of live batches
    _acknowledged  what Redis is to know, and how much of it Redis has forgotten
    _backoff       when to try again; pure arithmetic on an injected clock and dice

Nothing here retries, logs, or touches the disk: when an attempt has failed, its caller decides.
"""

from ._acknowledged import Acknowledged as Acknowledged
from ._backoff import Breaker as Breaker
from ._backoff import BreakerState as BreakerState
from ._backoff import full_jitter_delay as full_jitter_delay
from ._backoff import new_dice as new_dice
from ._client import AsyncRedisClient as AsyncRedisClient
from ._connections import import_redis as import_redis
from ._lane_script import lane_key as lane_key
from ._live_lane import LiveLane as LiveLane
from ._outcomes import AlreadyApplied as AlreadyApplied
from ._outcomes import Applied as Applied
from ._outcomes import Failed as Failed
from ._outcomes import Failure as Failure
from ._outcomes import FailureKind as FailureKind
from ._outcomes import Fenced as Fenced
from ._outcomes import Healthy as Healthy
from ._sender import Outcome as Outcome
from ._sender import Sender as Sender
