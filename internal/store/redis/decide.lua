-- Decides runs of limits, one after the other. If all limits of a run allow it, and
-- the run is to consume, it consumes from all of them. The algorithms are those of
-- internal/strategy, which explains them. This file has only what must happen
-- inside Redis. Go computes the rest of the answer from the states it returns.
--
-- KEYS      the counters of the limits; in a cluster, all in one slot
-- ARGV[1]   packed. For each run: how many limits it has. For each limit of it: the
--           number of the strategy; 1 if in shadow mode; 1 to consume or 0 to look,
--           the same for the whole run; cost (at most 1e9 + 1); count; period in
--           microseconds; capacity
-- ARGV[2]   if given, the first key is no counter: it only says which server to ask
-- variables now, in microseconds since the Unix epoch; slack, in milliseconds: how
--           long keys are kept after they are unused. The lines that set them are
--           before this file: see script.go
-- returns   packed: now. For each run: from which limits it consumed (0 none, 1
--           those that are not in shadow mode, 2 all, 3 none, because a key has a
--           value that is not a string, 4 none, because a value was corrupt and is
--           deleted now); and the states before that, in order
--
-- A state is three doubles: last, used, part. A sliding window log is a string of
-- entries of 16 bytes. Each entry is two doubles: the instant, and the total of
-- units consumed up to then. The first entry only has the total before the others.
--
-- All numbers are doubles. They stay whole and below 2^53 (see muldiv).
-- Microseconds since the epoch do so until the year 2255.
--
-- This script is written to use little of Redis' processor time. It packs numbers,
-- because printing them takes three times as long. It makes few functions and
-- tables, because each call makes them again. It decides several runs, because a
-- call takes as long as deciding one run.

-- muldiv returns the quotient and the remainder of (a x n + c) / p, for whole
-- numbers a < 2^53, n < 2^30 and c < p < 2^45. A quotient above 2^53 is not
-- exact, which does not matter, because it is more than any level.
local function muldiv(a, n, c, p)
  local x = a * n + c
  if x < 9007199254740992 then
    local r = x % p
    return (x - r) / p, r
  end
  local rest = a % p
  local whole = (a - rest) / p * n
  -- Multiply rest by n digit by digit, in base 128, so that no step reaches 2^53.
  local q, r = 0, 0
  for shift = 28, 0, -7 do
    x = r * 128 + rest * (math.floor(n / 2 ^ shift) % 128)
    r = x % p
    q = q * 128 + (x - r) / p
  end
  x = r + c
  r = x % p
  return whole + q + (x - r) / p, r
end

-- expiry returns the TTL of a key, in milliseconds, that matters for micros. A
-- bucket may take thousands of years until it is unused. Nobody waits for that, and
-- the key must not stay: after 366 days without use it starts again.
local function expiry(micros)
  return math.min(math.ceil(micros / 1000) + slack, 31622400000)
end

-- check_type raises an error, unless failure is a command's error about the type of
-- the key's value.
local function check_type(failure)
  if not string.find(failure.err, 'WRONGTYPE', 1, true) then error(failure.err, 0) end
end

-- set_aside deletes a key whose value is corrupt, so that the counter starts again. The
-- run at hand fails: it does not know what was used. What fails the script instead would
-- fail runs that have nothing to do with it, some of which have consumed by then.
local damaged = false
local function set_aside(key)
  damaged = true
  redis.pcall('DEL', key)
end

-- log_functions returns the two functions for sliding window logs.
local function log_functions()
  local function entry(key, i)
    local bytes = redis.call('GETRANGE', key, i * 16, i * 16 + 15)
    if #bytes < 16 then return 0 / 0, 0 / 0 end -- there is none, as search finds in a log that is corrupt
    return struct.unpack('>dd', bytes)
  end

  -- search returns the first of the entries 1 to n-1 for which found(at,
  -- total) holds, or n.
  local function search(key, n, found)
    local low, high = 1, n
    while low < high do
      local middle = math.floor((low + high) / 2)
      if found(entry(key, middle)) then high = middle else low = middle + 1 end
    end
    return low
  end

  -- view returns the state of a sliding window log, as strategy.Log.View does; its
  -- length; and the index of the first entry younger than the period. It returns
  -- nothing if the value of the key is not a string.
  local function view(key, cost, period, capacity)
    local n = redis.pcall('STRLEN', key)
    if type(n) == 'table' then return check_type(n) end
    n = n / 16
    if n == 0 then return 0, 0, 0, 0, 0 end
    if n < 2 or n % 1 ~= 0 or n > 4194304 then -- torn, or longer than any log
      set_aside(key)
      return 0, 0, 0, 0, 0
    end
    local last, total = entry(key, n - 1)
    local oldest = math.max(now, last) - period
    local first = search(key, n, function(at) return at > oldest end)
    local _, before = entry(key, first - 1)
    local used, free = total - before, 0
    if used + cost > capacity and cost <= capacity then
      local enough = search(key, n, function(_, t) return total - t <= capacity - cost end)
      free = entry(key, enough) + period
    end
    if not (last >= 0 and last < 9007199254740992 and last % 1 == 0 and before >= 0 and before % 1 == 0 and
        total >= before and total < 9007199254740992 and total % 1 == 0 and
        free >= 0 and free < 2 * 9007199254740992 and free % 1 == 0) then
      set_aside(key)
      return 0, 0, 0, 0, 0
    end
    return last, used, free, n, first
  end

  local function add(key, cost, period, n, first)
    local ttl = expiry(period)
    if n == first then -- no entry is younger than the period
      redis.call('SET', key, struct.pack('>dddd', 0, 0, now, cost), 'PX', ttl)
      return
    end
    local last, total = entry(key, n - 1)
    local added = struct.pack('>dd', math.max(now, last), total + cost)
    if now <= last then
      redis.call('SETRANGE', key, (n - 1) * 16, added)
    elseif first > 64 and first > n / 2 then -- more than half of it is old: drop the old part
      redis.call('SET', key, redis.call('GETRANGE', key, (first - 1) * 16, -1) .. added)
    else
      redis.call('APPEND', key, added)
    end
    redis.call('PEXPIRE', key, ttl)
  end

  return view, add
end

local unused = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local runs, position = ARGV[1], 1
local reply = {struct.pack('>d', now)}
local values, matters = {}, {} -- for each limit: its next state, and for how many microseconds to keep it
local shadows, view, add, adds -- most decisions need none of these

local last_key = ARGV[2] and 1 or 0
while last_key < #KEYS do
  local first_key = last_key + 1
  local limits
  limits, position = struct.unpack('>I4', runs, position)
  last_key = last_key + limits
  local states, all, consume, foreign = '', true, true, false
  damaged = false

  for i = first_key, last_key do
    local key = KEYS[i]
    local strategy, shadow, consumes, cost, count, period, capacity
    strategy, shadow, consumes, cost, count, period, capacity, position = struct.unpack('>BBBdddd', runs, position)
    consume = consume and consumes == 1
    if shadow == 1 then
      shadows = shadows or {}
      shadows[i] = true
    end
    local allowed = true
    if strategy == 3 then -- sliding_window_log
      if not view then
        view, add = log_functions()
        adds = {}
      end
      local last, used, free, n, first = view(key, cost, period, capacity)
      if last then
        states = states .. struct.pack('>ddd', last, used, free)
        allowed = cost == 0 or used + cost <= capacity
        if allowed and cost > 0 then
          adds[i] = function() add(key, cost, period, n, first) end
        end
      else
        states, foreign = states .. unused, true
      end
    else
      local state = redis.pcall('GET', key)
      local last, used, part = 0, 0, 0
      if type(state) == 'table' then
        check_type(state)
        states, foreign = states .. unused, true
      elseif state then
        if #state == 24 then last, used, part = struct.unpack('>ddd', state) end
        if #state == 24 and last >= 0 and last < 9007199254740992 and last % 1 == 0 and
            used >= 0 and used < 17592186044416 and used % 1 == 0 and
            part >= 0 and part < 35184372088832 and part % 1 == 0 then
          states = states .. state
        else -- of another length, or with numbers that no state has
          last, used, part = 0, 0, 0
          states = states .. unused
          set_aside(key)
        end
      else
        states = states .. unused
      end
      if consume and cost > 0 then
        local at, level = math.max(now, last)
        if strategy == 1 then -- fixed_window
          local elapsed = at % period
          if last < at - elapsed then used = 0 end
          used, part, matters[i] = used + cost, 0, period - elapsed
          level = used
        elseif strategy == 2 then -- sliding_window_counter
          local elapsed = at % period
          local start = at - elapsed
          if last < start then
            if last >= start - period then part = used else part = 0 end
            used = 0
          end
          local weight, fraction = muldiv(period - elapsed, part, 0, period)
          if fraction > 0 then weight = weight + 1 end
          used, matters[i] = used + cost, 2 * period - elapsed
          level = used + weight
        else -- the buckets
          if used > 0 then
            if part >= period then part = period - 1 end
            local drained
            drained, part = muldiv(at - last, count, part, period)
            used = used - drained
            if used <= 0 then used, part = 0, 0 end
          end
          used = used + cost
          level, matters[i] = used, used * period / count
        end
        allowed = level <= capacity
        if allowed then values[i] = struct.pack('>ddd', at, used, part) end
      end
    end
    if not allowed then
      all, consume = false, consume and shadow == 1
    end
  end

  local consumed = 0
  if foreign then
    consumed = 3
  elseif damaged then
    consumed = 4
  elseif consume then
    consumed = all and 2 or 1
    for i = first_key, last_key do
      if not all and shadows[i] then -- a limit in shadow mode denied: no limit in shadow mode consumes
      elseif values[i] then
        redis.call('SET', KEYS[i], values[i], 'PX', expiry(matters[i]))
      elseif adds and adds[i] then
        adds[i]()
      end
    end
  end
  reply[#reply + 1] = string.char(consumed)
  reply[#reply + 1] = states
end
return table.concat(reply)
