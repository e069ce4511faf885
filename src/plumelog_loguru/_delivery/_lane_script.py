"""The push that can be repeated: one Lua script, and the names and answers that belong to it.

Redis keeps, for each lane, the number of the last batch that it applied. The script compares and pushes in
one step, so a request that is repeated, or that arrives after its repetition, changes nothing. Comparing with
a last number, and not with a set of seen ids, is what makes requests harmless that arrive arbitrarily late.

Redis does not roll a script back when a command in it fails. Hence the order: the lane is written first,
unchanged, so that a missing right, a replica or a full memory is met before the first value. What can still
fail afterwards is undone by the script itself.

A lane's value is the last number, then the numbers that were fenced: ``"7"``, or ``"7 4 6"``. The marks stay,
so that a fence that is repeated finds its own also after later batches.
"""

from __future__ import annotations

import hashlib
from enum import Enum

from ._outcomes import AlreadyApplied, Applied, Fenced


class Mode(str, Enum):
    """What the script is to do."""

    PUSH_LEFT = "left"
    PUSH_RIGHT = "right"
    FENCE = "fence"
    PROBE = "probe"  # write the lane, read the list's length


# KEYS: the list, the lane. ARGV: mode, seq, the lane's time to live in milliseconds, then the values.
# Lua's unpack fails above 7,999 values, hence the chunks.
LANE_SCRIPT = """\
local list, lane = KEYS[1], KEYS[2]
local mode, seq, ttl = ARGV[1], ARGV[2], ARGV[3]

local state = redis.pcall('GET', lane)
if type(state) == 'table' then return state end
state = state or '0'
local written = redis.pcall('SET', lane, state, 'PX', ttl)
if written.err then return written end

if mode == 'probe' then
  local length = redis.pcall('LLEN', list)
  if type(length) == 'table' then return length end
  return {'alive', 0, length}
end

local last = tonumber(string.match(state, '^%d+')) or 0
local marks = string.match(state, ' .*') or ''
if tonumber(seq) <= last then
  local fenced = string.find(marks .. ' ', ' ' .. seq .. ' ', 1, true)
  return {fenced and 'fenced' or 'already', last, 0}
end

if mode == 'fence' then
  local fenced = redis.pcall('SET', lane, seq .. marks .. ' ' .. seq, 'PX', ttl)
  if fenced.err then return fenced end
  return {'fenced', last, 0}
end

local length, pushed, failed = 0, 0, nil
for first = 4, #ARGV, 5000 do
  local final = math.min(first + 4999, #ARGV)
  local answer = redis.pcall(mode == 'left' and 'LPUSH' or 'RPUSH', list, unpack(ARGV, first, final))
  if type(answer) == 'table' then failed = answer break end
  length, pushed = answer, final - 3
end
if not failed then
  local moved = redis.pcall('SET', lane, seq .. marks, 'PX', ttl)
  if moved.err then failed = moved end
end
if failed and pushed > 0 then
  local undone
  if mode == 'left' then
    undone = redis.pcall('LTRIM', list, pushed, -1)
  else
    undone = redis.pcall('LTRIM', list, 0, -1 - pushed)
  end
  if undone.err then return {err = 'PARTIAL some values stay in the list: ' .. failed.err} end
end
return failed or {'applied', last, length}
"""

LANE_SCRIPT_SHA1 = hashlib.sha1(LANE_SCRIPT.encode(), usedforsecurity=False).hexdigest()


def lane_key(list_key: str, lane: str) -> str:
    """Name the key of a lane so that it shares the hash slot of its list.

    Redis hashes the part between the first ``{`` and the next ``}`` where there is one and it is not empty,
    and the whole name otherwise.
    """
    _, opened, rest = list_key.partition("{")
    tag, closed, _ = rest.partition("}")
    return f"{{{tag if opened and closed and tag else list_key}}}:lane:{lane}"


def parse_answer(answer: object) -> Applied | AlreadyApplied | Fenced:
    """Read the script's answer to a push or a fence.

    Raises:
        ValueError: the answer is none of the script's; something between us and Redis made it up.
    """
    match answer:
        case [b"applied", int(last), int(length)]:
            return Applied(last, length)
        case [b"already", int(last), int()]:
            return AlreadyApplied(last)
        case [b"fenced", int(last), int()]:
            return Fenced(last)
    raise ValueError(f"not an answer of the lane script: {type(answer).__name__}")


def parse_lane(value: object) -> int:
    """Read what stands in a lane's key: the last number; 0 where there is no key.

    Raises:
        ValueError: as in `parse_answer`.
    """
    if value is None:
        return 0
    if isinstance(value, bytes) and (last := value.partition(b" ")[0]).isdigit():
        return int(last)
    raise ValueError(f"not the value of a lane: {type(value).__name__}")


def parse_probe(answer: object) -> int:
    """Read the script's answer to a probe: the length of the list.

    Raises:
        ValueError: as in `parse_answer`.
    """
    match answer:
        case [b"alive", int(), int(length)]:
            return length
    raise ValueError(f"not an answer of the lane script: {type(answer).__name__}")
