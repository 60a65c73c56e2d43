-- Decides one request by all of its limits, and if every one of them allows it
-- and it is to consume, consumes from all. The algorithms are those of
-- internal/strategy, which says how and why; this file has just what must
-- happen inside Redis, and Go works out the rest of the answer from the states
-- that are returned.
--
-- KEYS      the limits' counters, all in one slot
-- ARGV      cost (at most 1e9 + 1), 1 to consume or 0 to look, and of each limit:
--           strategy number, count, period in microseconds, capacity; then, if
--           any limit is in shadow mode, a digit for each limit: 1 if it is; or
--           instead, if the limits are of several requests, the cost of each
-- before    now, in microseconds since the Unix epoch; slack, in milliseconds,
--           which keys outlive their last use by. (The lines that set them
--           come first: see script.go.)
-- returns   now; from which limits it consumed: 0 none, 1 those that are not in
--           shadow mode, 2 all; and the states before, in order
--
-- A state is text: "last used part". A sliding window log is a string of
-- 16-byte entries, each a pair of doubles: the instant, and the total of units
-- consumed up to and with it. Its first entry only holds the total before.
--
-- Numbers are doubles: all stay whole and below 2^53 (see muldiv), which
-- microseconds since the epoch do until the year 2255.

-- muldiv returns the quotient and the remainder of (a x n + c) / p, for whole
-- numbers a < 2^53, n < 2^30 and c < p < 2^45. A quotient above 2^53 is not
-- exact, and is more than any level.
local function muldiv(a, n, c, p)
  local x = a * n + c
  if x < 9007199254740992 then
    local r = x % p
    return (x - r) / p, r
  end
  local rest = a % p
  local whole = (a - rest) / p * n
  -- rest x n by n's digits in base 128, so that no step reaches 2^53.
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

-- Each take function returns the counter's next state (used, part) and how
-- many microseconds it matters, or nothing if the limit denies.

local function take_fixed_window(last, used, part, at, cost, count, period, capacity)
  local elapsed = at % period
  if last < at - elapsed then used = 0 end
  if used + cost > capacity then return end
  return used + cost, 0, period - elapsed
end

local function take_sliding_window_counter(last, used, part, at, cost, count, period, capacity)
  local elapsed = at % period
  local start = at - elapsed
  if last < start then
    if last >= start - period then part = used else part = 0 end
    used = 0
  end
  local weight, fraction = muldiv(period - elapsed, part, 0, period)
  if fraction > 0 then weight = weight + 1 end
  if used + weight + cost > capacity then return end
  return used + cost, part, 2 * period - elapsed
end

local function take_bucket(last, used, part, at, cost, count, period, capacity)
  if used > 0 then
    if part >= period then part = period - 1 end
    local drained
    drained, part = muldiv(at - last, count, part, period)
    used = used - drained
    if used <= 0 then used, part = 0, 0 end
  end
  if used + cost > capacity then return end
  used = used + cost
  return used, part, used * period / count
end

local takes = {
  ['1'] = take_fixed_window,
  ['2'] = take_sliding_window_counter,
  ['4'] = take_bucket,
  ['5'] = take_bucket,
  ['6'] = take_bucket,
}

local function text(last, used, part)
  return string.format('%.0f %.0f %.0f', last, used, part)
end

local function expiry(micros)
  return math.min(math.ceil(micros / 1000), 1e15) + slack
end

local function log_entry(key, i)
  return struct.unpack('>dd', redis.call('GETRANGE', key, i * 16, i * 16 + 15))
end

-- log_search returns the first of the entries 1 to n-1 for which found(at,
-- total) holds, or n.
local function log_search(key, n, found)
  local low, high = 1, n
  while low < high do
    local middle = math.floor((low + high) / 2)
    if found(log_entry(key, middle)) then high = middle else low = middle + 1 end
  end
  return low
end

-- log_view returns the state of a sliding window log, as strategy.Log.View
-- does; its length; and the index of the first entry younger than the period.
local function log_view(key, cost, period, capacity)
  local n = redis.call('STRLEN', key) / 16
  if n < 2 or n % 1 ~= 0 then return 0, 0, 0, 0, 0 end -- none, or not a log
  local last, total = log_entry(key, n - 1)
  local oldest = math.max(now, last) - period
  local first = log_search(key, n, function(at) return at > oldest end)
  local _, before = log_entry(key, first - 1)
  local used, free = total - before, 0
  if used + cost > capacity and cost <= capacity then
    local enough = log_search(key, n, function(_, t) return total - t <= capacity - cost end)
    free = log_entry(key, enough) + period
  end
  return last, used, free, n, first
end

local function log_add(key, cost, period, n, first)
  local ttl = expiry(period)
  if n == first then -- nothing in it is younger than the period
    redis.call('SET', key, struct.pack('>dddd', 0, 0, now, cost), 'PX', ttl)
    return
  end
  local last, total = log_entry(key, n - 1)
  local entry = struct.pack('>dd', math.max(now, last), total + cost)
  if now <= last then
    redis.call('SETRANGE', key, (n - 1) * 16, entry)
  elseif first > 64 and first > n / 2 then -- more than half of it is old: drop that
    redis.call('SET', key, redis.call('GETRANGE', key, (first - 1) * 16, -1) .. entry)
  else
    redis.call('APPEND', key, entry)
  end
  redis.call('PEXPIRE', key, ttl)
end

local cost, consume = tonumber(ARGV[1]), ARGV[2] == '1'
local shadows, costs = ARGV[#KEYS * 4 + 3], #ARGV > #KEYS * 4 + 3 and #KEYS * 4 + 2
if costs then shadows = nil end
local reply, pending, all = {now, 0}, {}, true

-- deny notes that limit i does not allow the request.
local function deny(i)
  if not shadows or string.byte(shadows, i) ~= 49 then consume = false end
  all = false
end

for i = 1, #KEYS do
  local key, strategy = KEYS[i], ARGV[i * 4 - 1]
  local cost = costs and tonumber(ARGV[costs + i]) or cost
  local count, period, capacity = tonumber(ARGV[i * 4]), tonumber(ARGV[i * 4 + 1]), tonumber(ARGV[i * 4 + 2])
  if strategy == '3' then
    local last, used, free, n, first = log_view(key, cost, period, capacity)
    reply[i + 2] = text(last, used, free)
    if used + cost > capacity and cost > 0 then
      deny(i)
    elseif cost > 0 then
      pending[i] = function() log_add(key, cost, period, n, first) end
    end
  else
    local state = redis.call('GET', key)
    reply[i + 2] = state
    if consume and cost > 0 then
      local last, used, part = 0, 0, 0
      if state then
        last, used, part = string.match(state, '^(%d+) (%d+) (%d+)$')
        last, used, part = tonumber(last or 0), tonumber(used or 0), tonumber(part or 0)
      end
      local at = math.max(now, last)
      local micros
      used, part, micros = takes[strategy](last, used, part, at, cost, count, period, capacity)
      if used then
        pending[i] = function() redis.call('SET', key, text(at, used, part), 'PX', expiry(micros)) end
      else
        deny(i)
      end
    end
  end
end
if consume then
  for i = 1, #KEYS do
    if pending[i] and (all or string.byte(shadows, i) ~= 49) then pending[i]() end
  end
  reply[2] = all and 2 or 1
end
return reply
