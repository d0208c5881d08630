-- For wrk: send one body over and over, print what came of it as one line of JSON.
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
for name, value in os.getenv("BENCH_HEADERS"):gmatch("([^\n:]+): ([^\n]*)") do
  wrk.headers[name] = value
end

-- With BENCH_STEADY, how the count of answers grows with time: the sums of a least-squares line, kept by the thread. For
-- models of a few answers a second, of which a fixed time cuts the last calls off and so counts too little.
if os.getenv("BENCH_STEADY") then
  local ffi = require("ffi")
  ffi.cdef[[typedef struct { long seconds, nanos; } instant; int clock_gettime(int, instant *);]]
  local now, first = ffi.new("instant"), nil
  n, st, stt, sit, last = 0, 0, 0, 0, 0
  response = function()
    ffi.C.clock_gettime(1, now)
    local t = tonumber(now.seconds) + tonumber(now.nanos) / 1e9
    first = first or t
    t = t - first
    n, st, stt, sit, last = n + 1, st + t, stt + t * t, sit + n * t, t
  end
end

local threads = {}
setup = function(thread) table.insert(threads, thread) end

-- Answers per second. One burst of them has no slope: they must be spread over half of the time at least.
local function rate(summary)
  local seconds = summary.duration / 1e6
  local n, last = threads[1]:get("n"), threads[1]:get("last")
  if n == nil or n < 3 or last < seconds / 2 then return summary.requests / seconds end
  local st, stt, sit = threads[1]:get("st"), threads[1]:get("stt"), threads[1]:get("sit")
  return (sit - st * (n - 1) / 2) / (stt - st * st / n)
end

done = function(summary, latency, requests)
  local bad = summary.errors
  io.write(string.format('{"requests":%d,"seconds":%.6f,"p50":%.6f,"p99":%.6f,"errors":%d,"rate":%.6f}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    bad.connect + bad.read + bad.write + bad.status + bad.timeout, rate(summary)))
end
