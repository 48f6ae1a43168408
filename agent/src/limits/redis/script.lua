-- Counters in Redis or Valkey: the arithmetic of limits/record.rs and limits/book.rs, where the
-- counters are, so that one call's uses are reserved in one step. What changes there changes here;
-- the tests of the room try both.
--
-- Numbers are doubles. All that is kept is a whole number below 2^53: amounts and limits up to 2^51
-- (redis/ask.rs sees to that), times in microseconds since 1970, lengths up to a year. So sums are exact, and
-- products are taken apart (`muldiv`).
--
-- KEYS: those of the charges that are given back, then those of the uses, or those to be read.
-- ARGV: what is asked: 'reserve' or 'read'; the wall clock, or '' for this server's; microseconds
-- since the asking host's start, and which start that was; how many charges are given back; then
-- for each of these: its stamp, its amount; then for each use: the window's kind (c, s, b), its
-- length in microseconds, max, amount.
--
-- Answers: {'ok', wall, a stamp for each use or a number for each key read},
-- {'full', wall, which use (from 1), how much is used, microseconds to wait or ''}.

local MOST_CELLS = 39
local asked, since_boot, boot, olds = ARGV[1], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local wall = tonumber(ARGV[2])
if not wall then
  local time = redis.call('TIME')
  wall = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
-- A clock that is told may stand while this server's, by which keys expire, goes on.
local spare = ARGV[2] == '' and 0 or 86400000

local floor, fmod, max_of, min_of = math.floor, math.fmod, math.max, math.min

local function text(number)
  return string.format('%.0f', number)
end

-- The quotient and the rest of a * b / m, for whole numbers from 0: a and b below 2^53, m up to 2^51.
local function muldiv(a, b, m)
  local product = a * b
  if product < 9007199254740992 then
    local rest = fmod(product, m)
    return (product - rest) / m, rest
  end
  local part = fmod(a, m)
  local whole = (a - part) / m
  local quotient, rest = 0, 0
  local bit = 4503599627370496
  while bit >= 1 do
    quotient, rest = quotient * 2, rest * 2
    if b >= bit then
      b, quotient, rest = b - bit, quotient + whole, rest + part
    end
    while rest >= m do
      quotient, rest = quotient + 1, rest - m
    end
    bit = bit / 2
  end
  return quotient, rest
end

-- A record is { version, kind, length, at, since, boot, ... } as words; then
-- c: start, count
-- s: first, last, amount of each cell, oldest first
-- b: flow, since when, tokens that are out, and the part of one (in 1/length)

local function decode(value)
  local words = {}
  for word in string.gmatch(value, '%S+') do
    words[#words + 1] = word
  end
  local numbers = {}
  for at = 1, #words do
    if at ~= 2 and at ~= 6 then
      local number = tonumber(words[at])
      if not number or number < 0 or number > 9007199254740992 or number ~= floor(number) then
        return nil
      end
      numbers[at] = number
    end
  end
  local kind, rest = words[2], #words - 6
  if numbers[1] ~= 1 or rest < 0 or numbers[3] < 1 then
    return nil
  end
  local record = {
    kind = kind, length = numbers[3], at = numbers[4], since = numbers[5], boot = words[6],
  }
  if kind == 'c' and rest == 2 then
    record.start, record.count = numbers[7], numbers[8]
  elseif kind == 's' and rest % 3 == 0 and rest <= 3 * MOST_CELLS then
    record.cells = {}
    for at = 7, #words, 3 do
      record.cells[#record.cells + 1] = { numbers[at], numbers[at + 1], numbers[at + 2] }
    end
  elseif kind == 'b' and rest == 4 and numbers[10] < numbers[3] then
    record.flow, record.flowing = numbers[7], numbers[8]
    record.out, record.part = numbers[9], numbers[10]
  else
    return nil
  end
  return record
end

local function encode(record)
  local words = {
    '1', record.kind, text(record.length), text(record.at), text(record.since), record.boot,
  }
  local function put(number)
    words[#words + 1] = text(number)
  end
  if record.kind == 'c' then
    put(record.start)
    put(record.count)
  elseif record.kind == 's' then
    for _, cell in ipairs(record.cells) do
      put(cell[1])
      put(cell[2])
      put(cell[3])
    end
  else
    put(record.flow)
    put(record.flowing)
    put(record.out)
    put(record.part)
  end
  return table.concat(words, ' ')
end

local function new(kind, length)
  local record = { kind = kind, length = length, at = wall, since = since_boot, boot = boot }
  if kind == 'c' then
    record.start, record.count = wall - fmod(wall, length), 0
  elseif kind == 's' then
    record.cells = {}
  else
    record.flow, record.flowing, record.out, record.part = 0, wall, 0, 0
  end
  return record
end

local function used(record)
  if record.kind == 'c' then
    return record.count
  elseif record.kind == 's' then
    local sum = 0
    for _, cell in ipairs(record.cells) do
      sum = sum + cell[3]
    end
    return sum
  end
  return record.out + (record.part > 0 and 1 or 0)
end

-- Tokens of a bucket, and parts of one, that are no longer out.
local function flow_back(record, tokens, part)
  if tokens > record.out or (tokens == record.out and part >= record.part) then
    record.out, record.part = 0, 0
    return
  end
  record.out, record.part = record.out - tokens, record.part - part
  if record.part < 0 then
    record.out, record.part = record.out - 1, record.part + record.length
  end
end

-- Moves a record to now. True if that must be kept, whatever comes after.
local function advance(record)
  local anchored = record.boot ~= boot and wall < record.at
  local elapsed, since = 0, since_boot
  if record.boot == boot then
    elapsed = max_of(0, since_boot - record.since)
    since = max_of(since_boot, record.since)
  end
  local at = max_of(wall, record.at + floor(elapsed / 2))
  local passed = at - record.at
  record.at, record.since, record.boot = at, since, boot
  if record.kind == 'c' then
    local start = at - fmod(at, record.length)
    if start > record.start then
      record.start, record.count = start, 0
    end
  elseif record.kind == 's' then
    local cells = {}
    for _, cell in ipairs(record.cells) do
      if cell[2] + record.length > at then
        cells[#cells + 1] = cell
      end
    end
    record.cells = cells
  else
    flow_back(record, muldiv(passed, record.flow, record.length))
    if record.out == 0 and record.part == 0 then
      record.flow, record.flowing = 0, at
    end
  end
  return anchored
end

-- By the record's own time, when a use fits: nothing if it does now.
local function until_it_fits(record, amount, most)
  if record.kind == 'c' then
    if record.count + amount <= most then
      return nil
    end
    return record.start + record.length
  elseif record.kind == 's' then
    local left, leaving = used(record), nil
    for _, cell in ipairs(record.cells) do
      if left + amount <= most then
        break
      end
      left, leaving = left - cell[3], cell[2] + record.length
    end
    if leaving then
      return leaving
    end
    return left + amount > most and record.at or nil
  end
  local over = record.out + amount - most
  if over < 0 or (over == 0 and record.part == 0) then
    return nil
  end
  local flow = max_of(record.flow, 1)
  local passed, rest = muldiv(over, record.length, flow)
  rest = rest + record.part
  local last = fmod(rest, flow)
  return record.at + passed + (rest - last) / flow + (last > 0 and 1 or 0)
end

-- How long it is until the record's own time, moved from now on, shows this.
local function wait(record, target)
  local left = max_of(0, target - record.at)
  return left + min_of(left, max_of(0, record.at - wall))
end

local function join_closest(cells)
  if #cells <= MOST_CELLS then
    return
  end
  local closest, span
  for at = 1, #cells - 1 do
    local apart = cells[at + 1][2] - cells[at][1]
    if not span or apart < span then
      closest, span = at, apart
    end
  end
  local earlier, joined = cells[closest], cells[closest + 1]
  joined[1], joined[3] = earlier[1], joined[3] + earlier[3]
  table.remove(cells, closest)
end

local function charge(record, amount, most)
  if record.kind == 'c' then
    record.count = record.count + amount
    return record.start
  elseif record.kind == 's' then
    if amount > 0 then
      record.cells[#record.cells + 1] = { record.at, record.at, amount }
      join_closest(record.cells)
    end
  else
    if record.flow == 0 or most < record.flow then
      record.flow, record.flowing = most, record.at
    end
    record.out = record.out + amount
  end
  return record.at
end

local function refund(record, stamp, amount)
  if record.kind == 'c' then
    if record.start == stamp then
      record.count = max_of(0, record.count - amount)
    end
  elseif record.kind == 's' then
    if stamp + record.length <= record.at then
      return
    end
    local left, cells = amount, {}
    for _, cell in ipairs(record.cells) do
      if cell[1] <= stamp and stamp <= cell[2] then
        local given = min_of(left, cell[3])
        cell[3], left = cell[3] - given, left - given
      end
      if cell[3] > 0 then
        cells[#cells + 1] = cell
      end
    end
    record.cells = cells
  elseif stamp >= record.flowing then
    -- What has flowed back since could be this use's own.
    local tokens, part = muldiv(max_of(0, record.at - stamp), record.flow, record.length)
    if tokens < amount then
      if part > 0 then
        tokens, part = tokens + 1, record.length - part
      end
      flow_back(record, amount - tokens, part)
    end
  end
end

-- Writes a record down for as long as it counts, by its own time and by the clock.
local function keep(key, record)
  local target = record.at
  if used(record) > 0 then
    if record.kind == 'c' then
      target = record.start + record.length
    elseif record.kind == 's' then
      target = record.cells[#record.cells][2] + record.length
    else
      -- When nothing is out any more.
      target = until_it_fits(record, 0, 0)
    end
  end
  if target <= wall then
    redis.call('DEL', key)
  else
    local left = min_of(floor((target - wall) / 1000) + 1 + spare, 100000000000000)
    redis.call('SET', key, encode(record), 'PX', text(left))
  end
end

local damaged
local records, order = {}, {}
local function find(key)
  local record = records[key]
  if record then
    return record
  end
  local value = redis.call('GET', key)
  if not value then
    return nil
  end
  record = decode(value)
  if not record then
    damaged = key
    return nil
  end
  if advance(record) and asked == 'reserve' then
    keep(key, record)
  end
  records[key], order[#order + 1] = record, key
  return record
end

local answer = { 'ok', text(wall) }

if asked == 'read' then
  for at, key in ipairs(KEYS) do
    local record = find(key)
    answer[at + 2] = text(record and used(record) or 0)
  end
  if damaged then
    return redis.error_reply('DAMAGED what is in ' .. damaged .. ' is no counter')
  end
  return answer
end

for at = 1, olds do
  local record = find(KEYS[at])
  if record then
    refund(record, tonumber(ARGV[4 + 2 * at]), tonumber(ARGV[5 + 2 * at]))
  end
end
local worst, longest
for at = olds + 1, #KEYS do
  local key, from = KEYS[at], 5 + 2 * olds + 4 * (at - olds - 1)
  local kind, length = ARGV[from + 1], tonumber(ARGV[from + 2])
  local most, amount = tonumber(ARGV[from + 3]), tonumber(ARGV[from + 4])
  local record = find(key)
  if damaged then
    break
  end
  if not record then
    record = new(kind, length)
    records[key], order[#order + 1] = record, key
  end
  local target = until_it_fits(record, amount, most)
  if target then
    local takes = amount <= most and wait(record, target) or math.huge
    if not worst or takes > longest then
      longest = takes
      worst = {
        'full', text(wall), tostring(at - olds), text(used(record)),
        takes < math.huge and text(takes) or '',
      }
    end
  else
    answer[#answer + 1] = text(charge(record, amount, most))
  end
end
if damaged then
  return redis.error_reply('DAMAGED what is in ' .. damaged .. ' is no counter')
end
if worst then
  return worst
end
for _, key in ipairs(order) do
  keep(key, records[key])
end
return answer
