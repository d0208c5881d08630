-- For wrk: send one body over and over, print what came of it as one line of JSON.
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
for name, value in os.getenv("BENCH_HEADERS"):gmatch("([^\n:]+): ([^\n]*)") do
  wrk.headers[name] = value
end

done = function(summary, latency, requests)
  local bad = summary.errors
  io.write(string.format('{"requests":%d,"seconds":%.6f,"p50":%.6f,"p99":%.6f,"errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    bad.connect + bad.read + bad.write + bad.status + bad.timeout))
end
