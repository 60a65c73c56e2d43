-- Decides runs of limits, one after the other. If no limit of a run stops it, and
-- the run is to consume, it consumes from all of them. The algorithms are those of
-- internal/strategy, which explains them. This file has only what must happen
-- inside Redis. Go computes the rest of the answer from the states it returns.
--
-- KEYS      the counters of the limits; in a cluster, all in one slot
-- ARGV[1]   packed, little-endian. For each run: how many limits it has, at most 253; 0 if one of
--           them is a sliding window log. Then its limits. For each limit: 1 if it is
--           the last of its run; the number of the strategy; 1 if in shadow mode; 1 to
--           consume or 0 to look, the same for the whole run, plus twice the mode (0
--           take, 1 charge, 2 refund, 3 overdraw); cost (at most 1e9 + 1, or 1e13 if it
--           is not a take); count; period in microseconds; capacity. If it is not a
--           take: the most units that a charge may fill it with; and consumed_at, or 0.
--           The number of the strategy is 8 for a fixed window that is kept as a number.
--           If it is 7, a fixed window that follows the calendar: its first instant, and
--           that of the next one.
--           Two kinds of runs are shorter. They take, have no limit in shadow mode, and a cost
--           that no capacity is less than. If they take from numbers alone: 255; how many limits
--           there are; the cost, less than a million; and for each limit its period and capacity.
--           If they take from window counters and buckets that are no numbers, and follow no
--           calendar: 254; the same; and after each capacity the count and the number of the
--           strategy
-- ARGV[2]   if given, the first key is no counter: it only says which server to ask
-- variables now, in microseconds since the Unix epoch; slack, in milliseconds: how
--           long keys are kept after they are unused. The lines that set them are
--           before this file: see script.go
-- returns   packed: now, a little-endian double. For each run: from which limits it
--           consumed (0 none, 1 those that are not in shadow mode, 2 all, 3 none, because
--           a key has a value that is not a string, 4 none, because a value was corrupt
--           and is deleted now, 5 none, because the window is not that of now); and the
--           states before that, in order. If the strategy is 8, that is a number of 16
--           digits, or two doubles, last and used. That of a sliding window log is three
--           doubles, last, used and from when more is free; and a fourth if it is not a take
--
-- A state is three big-endian doubles, last, used and part, and up to when the key lives at
-- least, in seconds since the Unix epoch and 4 bytes. A fixed window whose counter
-- never has another period, which ends at a whole second, and of which fewer than a
-- million units are used, is a number: its start in microseconds, plus the units. Redis
-- keeps that in a third of the memory. A sliding window log is a string of entries of 16
-- bytes. Each entry is two doubles: the instant, and the total of units consumed up to
-- then. The first entry only has the total before the others.
--
-- To set when a key expires takes longer than all else. So where the key lives long enough
-- already, INCRBY and SETRANGE change the value and leave that as it is. And the key of a
-- bucket lives for twice as long as it is needed: its next use, which needs it for longer,
-- then changes the value alone.
--
-- All numbers are doubles. They stay whole and below 2^53 (see muldiv).
-- Microseconds since the epoch do so until the year 2255.
--
-- This script is written to use little of Redis' processor time. It packs numbers,
-- because printing them takes three times as long; and gives commands texts, because
-- Redis takes long to print a number. It makes few functions and
-- tables, because each call makes them again. It decides several runs, because a
-- call takes as long as deciding one run.

local keys, runs = KEYS, ARGV[1]
local i, position = ARGV[2] and 1 or 0, 1 -- how many keys are decided; where the next run begins
local call, try, pack, unpack, format, spread = redis.call, redis.pcall, struct.pack, struct.unpack, string.format, unpack
local reply = pack('<d', now)

-- Runs of numbers come before all that others need. It adds to each number first, which tells what
-- the number was, and takes that back if it must not: so a run that is allowed takes one command for
-- each limit. What is out of the ordinary it leaves, as it was, to what comes below. Where a million
-- units may be used, the value may have another form, for which INCRBY would count an error each
-- time: there it looks first.
local type, ceil = type, math.ceil
local unused = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
while i < #keys do
  local mark, limits, cost, period, capacity, at = unpack('<BBddd', runs, position)
  if mark ~= 255 then break end
  local step = cost == 1 and '1' or format('%d', cost)
  local all, added, fresh = true, 0, nil -- fresh: of each that has no key, the start of its window
  local used, start, states, numbers
  if limits > 1 then
    numbers, states = {unpack('<' .. string.rep('dd', limits), runs, position + 10)}, {}
    at = position + 10 + 16 * limits
  end
  for j = 1, limits do
    local key, after = keys[i + j], cost
    if numbers then period, capacity = numbers[2 * j - 1], numbers[2 * j] end
    if capacity < 1000000 then
      after = try('INCRBY', key, step)
    else
      local value = try('GET', key)
      if not value or #value ~= 28 then after = try('INCRBY', key, step) else after = nil end
    end
    if type(after) ~= 'number' then break end
    start = now - now % period
    used = after - start - cost -- before
    if after == cost then
      fresh = fresh or {}
      fresh[j] = start
      start, used = 0, 0
    elseif used < 0 or used >= 1000000 - cost then -- it is of another window, or no counter
      call('INCRBY', key, '-' .. step)
      break
    elseif used + cost > capacity then
      all = false
    end
    if states then states[2 * j - 1], states[2 * j] = start, used end
    added = j
  end
  if added < limits or not all then
    for j = 1, added do
      if fresh and fresh[j] then call('DEL', keys[i + j]) else call('INCRBY', keys[i + j], '-' .. step) end
    end
    if added < limits then break end
  elseif fresh then
    for j, from in pairs(fresh) do
      local ttl = ceil((from + (numbers and numbers[2 * j - 1] or period) - now) / 1000) + slack
      call('SET', keys[i + j], from == 0 and step or format('%d%06d', from / 1000000, cost), 'PX', format(ttl < 2147483648 and '%d' or '%.0f', ttl)) -- see write
    end
  end
  local verdict = all and '\2' or '\0'
  if states then
    reply = reply .. verdict .. pack('>' .. string.rep('dd', limits), spread(states))
  else
    reply = reply .. verdict .. pack('>dd', start, used)
  end
  i, position = i + limits, at
end

-- Runs of window counters and buckets, likewise.
while i < #keys do
  local mark, limits, cost, period, capacity, at = unpack('<BBddd', runs, position)
  if mark ~= 254 then break end
  local found, states, values, lifetimes -- of several limits
  local state, value, lifetime -- of one
  if limits == 1 then
    state = try('GET', keys[i + 1])
  else
    found, states, values, lifetimes = try('MGET', spread(keys, i + 1, i + limits)), {}, {}, {}
    if found.err then break end -- the user may not use MGET
  end
  local all, done, absent = true, 0, nil
  for j = 1, limits do
    if j > 1 then period, capacity, at = unpack('<dd', runs, at) end
    local count, strategy
    count, strategy, at = unpack('<dB', runs, at)
    if found then state = found[j] end
    local last, used, part, lives = 0, 0, 0, 0
    if not state then
      state = unused
      if found then
        absent = absent or {}
        absent[#absent + 1] = keys[i + j]
      end
    elseif #state ~= 28 then
      break
    else
      last, used, part, lives = unpack('>dddI4', state)
      if not (last >= 0 and last <= now and last % 1 == 0 and used >= 0 and used < 17592186044416 and used % 1 == 0 and
          part >= 0 and part < 35184372088832 and part % 1 == 0) then
        break
      end
    end
    local level, upto
    if strategy == 1 then -- fixed_window
      local start = now - now % period
      if last < start then used = 0 end
      used, part, upto = used + cost, 0, start + period
      level = used
    elseif strategy == 2 then -- sliding_window_counter
      local elapsed = now % period
      local begin = now - elapsed
      if last < begin then
        if last >= begin - period then part = used else part = 0 end
        used = 0
      end
      local x = (period - elapsed) * part
      if x >= 9007199254740992 then break end
      local fraction = x % period
      local weight = (x - fraction) / period
      if fraction > 0 then weight = weight + 1 end
      used, upto = used + cost, begin + 2 * period
      level = used + weight
    else -- the buckets
      if used > 0 then
        if part >= period then part = period - 1 end
        local x = (now - last) * count + part
        if x >= 9007199254740992 then break end
        part = x % period
        used = used - (x - part) / period
        if used <= 0 then used, part = 0, 0 end
      end
      used = used + cost
      level, upto = used, now + used * period / count
    end
    if level > capacity then
      all = false
    elseif all then
      value, lifetime = pack('>ddd', now, used, part), nil
      if lives * 1000000 < upto then
        if strategy > 3 then upto = 2 * upto - now end
        local most = now + 31622400000000
        lifetime = ceil((upto < most and upto or most) / 1000000) -- see seconds
      end
      if found then
        values[j] = value
        if lifetime then lifetimes[j] = lifetime end
      end
    end
    if found then states[j] = state end
    done = j
  end
  if done < limits or absent and try('EXISTS', spread(absent)) ~= 0 then break end
  if all then
    for j = 1, limits do
      if found then value, lifetime = values[j], lifetimes[j] end
      if not lifetime then
        call('SETRANGE', keys[i + j], '0', value)
      else
        local ttl = lifetime * 1000 - math.floor(now / 1000) + slack
        call('SET', keys[i + j], value .. pack('>I4', lifetime < 4294967296 and lifetime or 0), 'PX', format(ttl < 2147483648 and '%d' or '%.0f', ttl))
      end
    end
  end
  if found then state = table.concat(states) end
  reply = reply .. (all and '\2' or '\0') .. state
  i, position = i + limits, at
end
if i == #keys then return reply end

-- expiry returns the TTL of a key, in milliseconds, that matters for micros. A
-- bucket may take thousands of years until it is unused. Nobody waits for that, and
-- the key must not stay: after 366 days without use it starts again.
local function expiry(micros)
  return math.min(math.ceil(micros / 1000) + slack, 31622400000)
end

-- rare returns what most decisions need none of: functions for sliding window logs, for
-- modes other than take, for large numbers, and for values that are no counters.
local function rare()
  -- muldiv returns the quotient and the remainder of (a x n + c) / p, for whole
  -- numbers a < 2^53, n < 2^44 and c < p < 2^45. A quotient above 2^53 is not
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
    for shift = n < 34359738368 and 28 or 42, 0, -7 do
      x = r * 128 + rest * (math.floor(n / 2 ^ shift) % 128)
      r = x % p
      q = q * 128 + (x - r) / p
    end
    x = r + c
    r = x % p
    return whole + q + (x - r) / p, r
  end

  -- trouble_with returns 3 if failure is a command's error about the type of the value of
  -- key, and raises any other. Without a failure the value is corrupt: it deletes the key,
  -- so that the counter starts again, and returns 4. The run at hand fails: it does not know
  -- what was used. What fails the script instead would fail runs that have nothing to do
  -- with it, some of which have consumed by then.
  local function trouble_with(key, failure)
    if not failure then
      redis.pcall('DEL', key)
      return 4
    end
    if not string.find(failure.err, 'WRONGTYPE', 1, true) then error(failure.err, 0) end
    return 3
  end

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
  -- length; and the index of the first entry younger than the period. If the value of
  -- the key is no log, it returns nil, and which trouble that is.
  local function view(key, cost, period, capacity)
    local n = redis.pcall('STRLEN', key)
    if type(n) == 'table' then return nil, trouble_with(key, n) end
    n = n / 16
    if n == 0 then return 0, 0, 0, 0, 0 end
    if n < 2 or n % 1 ~= 0 or n > 4194304 then -- torn, or longer than any log
      return nil, trouble_with(key)
    end
    local last, total = entry(key, n - 1)
    local oldest = math.max(now, last) - period
    local first = search(key, n, function(at) return at > oldest end)
    local _, before = entry(key, first - 1)
    local used, free = total - before, 0
    if last - now > period then -- a clock was wrong: all that counts becomes one entry at now
      last, before, total, n, first = now, 0, used, 2, 1
      redis.call('SET', key, struct.pack('>dddd', 0, 0, last, total), 'PX', expiry(period))
    end
    if used + cost > capacity and cost <= capacity then
      local enough = search(key, n, function(_, t) return total - t <= capacity - cost end)
      free = entry(key, enough) + period
    end
    if not (last >= 0 and last < 9007199254740992 and last % 1 == 0 and before >= 0 and before % 1 == 0 and
        total >= before and total < 9007199254740992 and total % 1 == 0 and
        free >= 0 and free < 2 * 9007199254740992 and free % 1 == 0) then
      return nil, trouble_with(key)
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
    if now <= last then
      redis.call('SETRANGE', key, (n - 1) * 16, struct.pack('>dd', last, total + cost))
      ttl = expiry(period + last - now)
    else
      local added = struct.pack('>dd', now, total + cost)
      if first > 64 and first > n / 2 then -- more than half of it is old: drop the old part
        redis.call('SET', key, redis.call('GETRANGE', key, (first - 1) * 16, -1) .. added)
      else
        redis.call('APPEND', key, added)
      end
    end
    redis.call('PEXPIRE', key, ttl)
  end

  -- charge returns the instant from which the same cost is allowed after the charge,
  -- and what makes the charge.
  local function charge(key, last, used, free, n, first, cost, count, period, capacity, ceiling)
    local at = math.max(now, last)
    local units = math.max(used, math.min(used + cost, ceiling)) - used
    if capacity == 0 or units == 0 then return free end
    local slot = math.max(1, math.floor(period / count))
    local joins = n > 0 and (last == at or used >= capacity and last >= at - at % slot)
    local total = 0
    if n > 0 then
      local _
      _, total = entry(key, n - 1)
    end
    local after, most = 0, capacity - cost
    if most >= 0 and used + units > most then
      after = at + period
      if units <= most then
        local stop = joins and n - 1 or n
        local enough = search(key, stop, function(_, t) return total - t <= most - units end)
        if enough < stop then after = entry(key, enough) + period end
      end
    end
    return after, function()
      if joins then
        redis.call('SETRANGE', key, (n - 1) * 16, struct.pack('>dd', at, total + units))
        redis.call('PEXPIRE', key, expiry(period + at - now))
      else
        add(key, units, period, n, first)
      end
    end
  end

  -- refund returns how many units it gives back, the instant of the youngest entry
  -- after that, and what gives them back.
  local function refund(key, last, used, n, first, cost, period, consumed_at)
    if used == 0 then return 0, last end
    local from = first
    if consumed_at > 0 then
      if consumed_at <= math.max(now, last) - period then return 0, last end -- too old to count
      from = math.max(first, search(key, n, function(at) return at >= consumed_at end))
    end
    local _, total = entry(key, n - 1)
    local _, before = entry(key, from - 1)
    local units = math.min(total - before, cost)
    if units == 0 then return 0, last end
    if units == used then return units, 0, function() redis.call('DEL', key) end end
    local after, value
    if consumed_at == 0 then -- the youngest first: the last that is left may be cut
      local cut = search(key, n - 1, function(_, t) return total - t <= units end)
      after = entry(key, cut)
      value = function()
        return redis.call('GETRANGE', key, (first - 1) * 16, cut * 16 - 1) .. struct.pack('>dd', after, total - units)
      end
    else
      local left = search(key, n, function(_, t) return t - before > units end)
      after = left < n and last or entry(key, from - 1)
      value = function()
        local parts = {redis.call('GETRANGE', key, (first - 1) * 16, from * 16 - 1)}
        local rest = redis.call('GETRANGE', key, left * 16, -1)
        for i = 1, #rest, 16 do
          local at, t = struct.unpack('>dd', rest, i)
          parts[#parts + 1] = struct.pack('>dd', at, t - units)
        end
        return table.concat(parts)
      end
    end
    return units, after, function() redis.call('SET', key, value(), 'PX', expiry(after + period - now)) end
  end

  -- change returns whether the limit of a window counter or a bucket lets the run consume,
  -- in another mode than take; and the next state, or nothing if that is the same, with
  -- the instant up to which it matters.
  local function change(mode, strategy, last, used, part, cost, count, period, capacity, ceiling, consumed_at, from, to)
    if capacity == 0 then return mode ~= 3 or cost == 0 end
    local at, weight, start = math.max(now, last), 0
    if strategy < 3 then -- the windows
      start = from or at - at % period
      if strategy == 1 then
        if last < start then used = 0 end
        part = 0
      else
        if last < start then
          if last >= start - period then part = used else part = 0 end
          used = 0
        end
        local fraction
        weight, fraction = muldiv(period - at % period, part, 0, period)
        if fraction > 0 then weight = weight + 1 end
      end
    elseif used > 0 then
      if part >= period then part = period - 1 end
      local drained
      drained, part = muldiv(at - last, count, part, period)
      used = used - drained
      if used <= 0 then used, part = 0, 0 end
    else
      part = 0
    end
    local level = used + weight
    if mode == 3 and (level > capacity or level == capacity and cost > 0) then return false end
    if mode == 2 then
      if strategy < 3 then
        if consumed_at > 0 and consumed_at < start then
          if strategy == 1 or consumed_at < start - period or part == 0 then return true end
          part = part - math.min(part, cost)
        else
          if used == 0 then return true end
          used = used - math.min(used, cost)
        end
      else
        if used == 0 then return true end
        if used <= capacity and consumed_at > 0 and consumed_at < at then
          local most = capacity
          if cost > most then most = most + cost end
          if muldiv(at - consumed_at, count, 0, period) >= most then return true end
        end
        if used <= cost then used, part = 0, 0 else used = used - cost end
      end
    elseif strategy < 3 then
      used = math.max(level, math.min(level + cost, ceiling)) - weight
    elseif used <= ceiling then
      if used + cost > ceiling then used, part = ceiling, 0 else used = used + cost end
    end
    local matters
    if strategy < 3 then matters = to or start + strategy * period else matters = at + used * period / count end
    return true, at, used, part, matters
  end

  return {muldiv = muldiv, trouble_with = trouble_with, view = view, add = add, charge = charge, refund = refund, change = change}
end

-- seconds returns up to when a key is to live that matters up to an instant, in whole
-- seconds since the Unix epoch: see expiry.
local function seconds(matters)
  return math.ceil(math.min(matters, now + 31622400000000) / 1000000)
end

-- write sets a counter to a number, or to the three doubles of a state. lives is up to when
-- its key is to live, or nil if it lives long enough. If there is a step, that is what to add
-- to the number, whose key lives long enough too.
local function write(key, value, lives, step)
  if step then
    if type(try('INCRBY', key, step)) ~= 'table' then return end
    -- the number has another form, or the user may not use INCRBY
  elseif not lives then
    call('SETRANGE', key, '0', value)
    return
  end
  if type(value) == 'number' then
    local used = value % 1000000
    value = value == used and format('%d', used) or format('%d%06d', (value - used) / 1000000, used)
  else
    value = value .. pack('>I4', lives < 4294967296 and lives or 0)
  end
  local ttl = lives * 1000 - math.floor(now / 1000) + slack
  call('SET', key, value, 'PX', format(ttl < 2147483648 and '%d' or '%.0f', ttl)) -- '%d' is quick, but for 32 bits alone on some machines
end

local unused_number = '0000000000000000'
local parts = 1
reply = {reply}
local functions -- what rare returns, once something needs it
local values, lifetimes, steps, acts, shadows -- for each limit, what write and acts are to do; made when a run needs them

while i < #keys do
  local first_key = i + 1
  local all, consume, consumed, trouble = true, true, '\0', nil
  parts = parts + 1 -- for consumed
  local verdict, ends = parts, 0

  local limits = string.byte(runs, position)
  position = position + 1
  local mark, same_cost -- of one of the two kinds of shorter runs
  if limits > 253 then
    mark = limits
    limits, same_cost, position = unpack('<Bd', runs, position)
  end
  local found -- the values, if they are read together; false for one that is absent, or no string
  local all_absent -- whether each key without a value is absent: it may hold what is no string
  if limits == 1 then
    found = {try('GET', keys[first_key])}
  elseif limits > 1 then
    found = try('MGET', spread(keys, first_key, i + limits))
    if found.err then
      found = nil -- the user may not use MGET
    else
      local absent = {}
      for j = 1, limits do
        if not found[j] then absent[#absent + 1] = keys[first_key + j - 1] end
      end
      all_absent = #absent > 0 and try('EXISTS', spread(absent)) == 0
    end
  end

  repeat
    i = i + 1
    local key = keys[i]
    local strategy, shadow, mode, cost, count, period, capacity, ceiling, consumed_at
    if same_cost then
      ends, strategy, shadow, mode, cost = i == first_key + limits - 1 and 1 or 0, 8, 0, 1, same_cost
      period, capacity, position = unpack('<dd', runs, position)
      if mark == 254 then count, strategy, position = unpack('<dB', runs, position) end
    else
      ends, strategy, shadow, mode, cost, count, period, capacity, position = unpack('<BBBBdddd', runs, position)
    end
    consume = consume and mode % 2 == 1
    if mode > 1 then
      mode = math.floor(mode / 2)
      ceiling, consumed_at, position = unpack('<dd', runs, position)
    else
      mode = 0
    end
    local from, to -- the window of the calendar
    local numeric = strategy > 7
    if numeric then
      strategy = 1
    elseif strategy == 7 then
      strategy = 1
      from, to, position = unpack('<dd', runs, position)
    end
    if shadow == 1 then
      shadows = shadows or {}
      shadows[i] = true
    end
    local allowed = true -- whether the limit lets the run consume
    parts = parts + 1
    if strategy == 3 then -- sliding_window_log
      functions = functions or rare()
      local last, used, free, n, first = functions.view(key, cost, period, capacity)
      if not last then
        trouble = math.min(trouble or used, used)
        reply[parts] = string.rep('\0', mode > 0 and 32 or 24)
      else
        acts = acts or {}
        if mode == 0 then
          reply[parts] = pack('>ddd', last, used, free)
          allowed = cost == 0 or used + cost <= capacity
          if allowed and cost > 0 then
            acts[i] = function() functions.add(key, cost, period, n, first) end
          end
        else
          local after, act
          if mode == 2 then
            free, after, act = functions.refund(key, last, used, n, first, cost, period, consumed_at)
          else
            after, act = functions.charge(key, last, used, free, n, first, cost, count, period, capacity, ceiling)
          end
          reply[parts] = pack('>dddd', last, used, free, after)
          if mode == 3 then
            if capacity == 0 then used = 0 end
            allowed = used < capacity or cost == 0 and used == capacity
          end
          if cost > 0 and capacity > 0 then acts[i] = act end
        end
      end
    else
      local value = found and found[i - first_key + 1]
      if not value and limits ~= 1 and not all_absent then value = try('GET', key) end
      local last, used, part = 0, 0, 0
      local lives = 0     -- up to when the key lives at least
      local start, stop -- of a fixed window: that of now, or of last if that is later
      if strategy == 1 then
        start = from or now - now % period
        stop = to or start + period
      end
      if not value then
        reply[parts] = numeric and unused_number or unused
      else
        local valid = false
        local number = strategy == 1 and tonumber(value)
        if number then
          valid = number >= 0 and number < 9007199254740992 and number % 1 == 0
          used = number % 1000000
          last = number - used
          if numeric then
            lives = last + period
            reply[parts] = #value == 16 and value or format('%016.0f', number)
          else -- of Envoy's files: this limit has the same name
            reply[parts] = pack('>dddI4', last, used, 0, 0)
          end
        elseif #value == 28 then
          last, used, part, lives = unpack('>dddI4', value)
          lives = lives * 1000000
          valid = last >= 0 and last < 9007199254740992 and last % 1 == 0 and
              used >= 0 and used < 17592186044416 and used % 1 == 0 and
              part >= 0 and part < 35184372088832 and part % 1 == 0
          reply[parts] = numeric and string.sub(value, 1, 16) or value
        end
        if not valid then -- it is no string, or of another length, or has numbers that no state has
          functions = functions or rare()
          local kind = functions.trouble_with(key, type(value) == 'table' and value or nil)
          trouble = math.min(trouble or kind, kind)
          last, used, part = 0, 0, 0
          reply[parts] = numeric and unused_number or unused
        elseif last > now then
          local since = last
          if strategy == 1 and not from then since = last - last % period end
          if since - now > period then -- a clock was wrong: it counts as if consumed now
            lives = 0
            if used + part > 0 then
              last = now
              local rest = 2 * period
              if strategy > 3 then rest = used * period / math.max(count, 1) end
              write(key, pack('>ddd', last, used, part), seconds(now + rest))
            else -- nothing is left to count
              last = 0
              call('DEL', key)
            end
          elseif strategy == 1 and not from then
            start = since
            stop = start + period
          end
        end
      end
      if from and consume and (math.max(now, last) < from or math.max(now, last) >= to) then
        trouble = math.min(trouble or 5, 5)
      elseif consume and (cost > 0 or mode == 3) then
        local at, level, upto = now, 0, 0
        local next_used, next_part = used, part
        if last > now then at = last end
        if mode > 0 then
          functions = functions or rare()
          allowed, at, next_used, next_part, upto = functions.change(mode, strategy, last, used, part, cost, count, period, capacity, ceiling, consumed_at, from, to)
          if cost == 0 then at = nil end
        else
          if strategy == 1 then -- fixed_window
            if last < start then used = 0 end
            next_used, next_part, upto = used + cost, 0, stop
            level = next_used
          elseif strategy == 2 then -- sliding_window_counter
            local elapsed = at % period
            local begin = at - elapsed
            if last < begin then
              if last >= begin - period then part = used else part = 0 end
              used = 0
            end
            local x = (period - elapsed) * part
            local weight, fraction
            if x < 9007199254740992 then
              fraction = x % period
              weight = (x - fraction) / period
            else
              functions = functions or rare()
              weight, fraction = functions.muldiv(period - elapsed, part, 0, period)
            end
            if fraction > 0 then weight = weight + 1 end
            next_used, next_part, upto = used + cost, part, begin + 2 * period
            level = next_used + weight
          else -- the buckets
            if used > 0 then
              if part >= period then part = period - 1 end
              local x = (at - last) * count + part
              local drained
              if x < 9007199254740992 then
                part = x % period
                drained = (x - part) / period
              else
                functions = functions or rare()
                drained, part = functions.muldiv(at - last, count, part, period)
              end
              used = used - drained
              if used <= 0 then used, part = 0, 0 end
            end
            next_used, next_part = used + cost, part
            level, upto = next_used, at + next_used * period / count
          end
          allowed = level <= capacity
          if not allowed then at = nil end
        end
        if at then
          local next_value, step, lifetime
          if numeric and next_used < 1000000 then
            next_value = upto - period + next_used
            if lives == upto and mode == 0 then step = cost == 1 and '1' or format('%d', cost) end
          else
            next_value = pack('>ddd', at, next_used, next_part)
          end
          if numeric then -- and so the value may have another form
            lifetime = seconds(upto)
          elseif lives < upto then
            lifetime = seconds(strategy > 3 and 2 * upto - now or upto)
          end
          if ends == 1 and i == first_key and not trouble then -- it is the only one
            write(key, next_value, lifetime, step)
          else
            if not values then values, lifetimes, steps = {}, {}, {} end
            values[i] = next_value
            if lifetime then lifetimes[i] = lifetime end
            if step then steps[i] = step end
          end
        end
      end
    end
    if not allowed then
      all, consume = false, consume and shadow == 1
    end
  until ends == 1

  if trouble then
    consumed = string.char(trouble)
  elseif consume then
    consumed = all and '\2' or '\1'
    for j = first_key, i do
      if not all and shadows[j] then -- a limit in shadow mode denied: no limit in shadow mode consumes
      elseif values and values[j] then
        write(keys[j], values[j], lifetimes[j], steps[j])
      elseif acts and acts[j] then
        acts[j]()
      end
    end
  end
  reply[verdict] = consumed
end
return table.concat(reply)
