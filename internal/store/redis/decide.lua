-- Decides runs of limits, one after the other. If no limit of a run stops it, and
-- the run is to consume, it consumes from all of them. The algorithms are those of
-- internal/strategy, which explains them. This file has only what must happen
-- inside Redis. Go computes the rest of the answer from the states it returns.
--
-- KEYS      the counters of the limits; in a cluster, all in one slot
-- ARGV[1]   packed. For each run: how many limits it has. For each limit of it: the
--           number of the strategy; 1 if in shadow mode; 1 to consume or 0 to look,
--           the same for the whole run, plus twice the mode (0 take, 1 charge, 2
--           refund, 3 overdraw); cost (at most 1e9 + 1, or 1e13 if it is not a take);
--           count; period in microseconds; capacity. If it is not a take: the most
--           units that a charge may fill it with; and consumed_at, or 0. If the number
--           of the strategy is 7, a fixed window that follows the calendar: its first
--           instant, and that of the next one
-- ARGV[2]   if given, the first key is no counter: it only says which server to ask
-- variables now, in microseconds since the Unix epoch; slack, in milliseconds: how
--           long keys are kept after they are unused. The lines that set them are
--           before this file: see script.go
-- returns   packed: now. For each run: from which limits it consumed (0 none, 1
--           those that are not in shadow mode, 2 all, 3 none, because a key has a
--           value that is not a string, 4 none, because a value was corrupt and is
--           deleted now, 5 none, because the window is not that of now); and the states
--           before that, in order. The
--           state of a sliding window log has a fourth double if it is not a take
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

-- rare_functions returns the functions for sliding window logs, and for modes other than
-- take.
local function rare_functions()
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

  -- change returns the next state of a window counter or a bucket in another mode than
  -- take, or nil if that is the same; for how many microseconds to keep it; and whether
  -- the limit lets the run consume.
  local function change(mode, strategy, last, used, part, cost, count, period, capacity, ceiling, consumed_at, from, to)
    if capacity == 0 then return nil, nil, mode ~= 3 or cost == 0 end
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
    if mode == 3 and (level > capacity or level == capacity and cost > 0) then return nil, nil, false end
    if mode == 2 then
      if strategy < 3 then
        if consumed_at > 0 and consumed_at < start then
          if strategy == 1 or consumed_at < start - period or part == 0 then return nil, nil, true end
          part = part - math.min(part, cost)
        else
          if used == 0 then return nil, nil, true end
          used = used - math.min(used, cost)
        end
      else
        if used == 0 then return nil, nil, true end
        if used <= capacity and consumed_at > 0 and consumed_at < at then
          local most = capacity
          if cost > most then most = most + cost end
          if muldiv(at - consumed_at, count, 0, period) >= most then return nil, nil, true end
        end
        if used <= cost then used, part = 0, 0 else used = used - cost end
      end
    elseif strategy < 3 then
      used = math.max(level, math.min(level + cost, ceiling)) - weight
    elseif used <= ceiling then
      if used + cost > ceiling then used, part = ceiling, 0 else used = used + cost end
    end
    local matters
    if strategy < 3 then matters = (to or start + strategy * period) - now else matters = used * period / count + at - now end
    return struct.pack('>ddd', at, used, part), matters, true
  end

  return view, add, charge, refund, change
end

local unused = '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0'
local runs, position = ARGV[1], 1
local reply = {struct.pack('>d', now)}
local values, matters = {}, {} -- for each limit: its next state, and for how many microseconds to keep it
local shadows, view, add, charge, refund, acts, change -- most decisions need none of these

local last_key = ARGV[2] and 1 or 0
while last_key < #KEYS do
  local first_key = last_key + 1
  local limits
  limits, position = struct.unpack('>I4', runs, position)
  last_key = last_key + limits
  local states, all, consume, foreign, elsewhere = '', true, true, false, false
  damaged = false

  for i = first_key, last_key do
    local key = KEYS[i]
    local strategy, shadow, mode, cost, count, period, capacity, ceiling, consumed_at
    strategy, shadow, mode, cost, count, period, capacity, position = struct.unpack('>BBBdddd', runs, position)
    consume = consume and mode % 2 == 1
    if mode > 1 then
      mode = math.floor(mode / 2)
      ceiling, consumed_at, position = struct.unpack('>dd', runs, position)
    else
      mode = 0
    end
    local from, to -- the window of the calendar
    if strategy == 7 then
      strategy = 1
      from, to, position = struct.unpack('>dd', runs, position)
    end
    if shadow == 1 then
      shadows = shadows or {}
      shadows[i] = true
    end
    local allowed = true -- whether the limit lets the run consume
    if strategy == 3 then -- sliding_window_log
      if not view then
        view, add, charge, refund, change = rare_functions()
        acts = {}
      end
      local last, used, free, n, first = view(key, cost, period, capacity)
      if not last then
        states, foreign = states .. unused, true
        if mode > 0 then states = states .. string.sub(unused, 1, 8) end
      elseif mode == 0 then
        states = states .. struct.pack('>ddd', last, used, free)
        allowed = cost == 0 or used + cost <= capacity
        if allowed and cost > 0 then
          acts[i] = function() add(key, cost, period, n, first) end
        end
      else
        local after, act
        if mode == 2 then
          free, after, act = refund(key, last, used, n, first, cost, period, consumed_at)
        else
          after, act = charge(key, last, used, free, n, first, cost, count, period, capacity, ceiling)
        end
        states = states .. struct.pack('>dddd', last, used, free, after)
        if mode == 3 then
          if capacity == 0 then used = 0 end
          allowed = used < capacity or cost == 0 and used == capacity
        end
        if cost > 0 and capacity > 0 then acts[i] = act end
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
          if last - now > period then -- a clock was wrong: it counts as if consumed now
            if used + part > 0 then
              last = now
              local rest = 2 * period
              if strategy > 3 then rest = used * period / math.max(count, 1) end
              redis.call('SET', key, struct.pack('>ddd', last, used, part), 'PX', expiry(rest))
            else -- nothing is left to count
              last = 0
              redis.call('DEL', key)
            end
          end
        else -- of another length, or with numbers that no state has
          last, used, part = 0, 0, 0
          states = states .. unused
          set_aside(key)
        end
      else
        states = states .. unused
      end
      if from and consume and (math.max(now, last) < from or math.max(now, last) >= to) then
        elsewhere = true
      elseif mode > 0 then
        if consume and (cost > 0 or mode == 3) then
          if not change then
            view, add, charge, refund, change = rare_functions()
            acts = {}
          end
          values[i], matters[i], allowed = change(mode, strategy, last, used, part, cost, count, period, capacity, ceiling, consumed_at, from, to)
          if cost == 0 then values[i] = nil end
        end
      elseif consume and cost > 0 then
        local at, level = now
        if last > now then at = last end
        if strategy == 1 then -- fixed_window
          local start = from or at - at % period
          if last < start then used = 0 end
          used, part, matters[i] = used + cost, 0, (to or start + period) - at
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
        if allowed then
          values[i] = struct.pack('>ddd', at, used, part)
          if at > now then matters[i] = matters[i] + at - now end
        end
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
  elseif elsewhere then
    consumed = 5
  elseif consume then
    consumed = all and 2 or 1
    for i = first_key, last_key do
      if not all and shadows[i] then -- a limit in shadow mode denied: no limit in shadow mode consumes
      elseif values[i] then
        redis.call('SET', KEYS[i], values[i], 'PX', expiry(matters[i]))
      elseif acts and acts[i] then
        acts[i]()
      end
    end
  end
  reply[#reply + 1] = string.char(consumed)
  reply[#reply + 1] = states
end
return table.concat(reply)
