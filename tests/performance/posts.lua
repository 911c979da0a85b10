-- Single-reading posts for wrk, each of another pump and instant; the process's environment says of what.
local head = string.format(
  "POST /api/v1/telemetry HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n" ..
  "Content-Type: application/json\r\nContent-Length: %%d\r\n\r\n", os.getenv("KEY"))
local start_s = tonumber(os.getenv("START_S"))
local channels = os.getenv("CHANNELS")
local pumps = tonumber(os.getenv("PUMPS"))
local sent = 0
local stamped_s, stamp

function request()
  local pump, ms = sent % pumps + 1, math.floor(sent / pumps)
  local second = start_s + math.floor(ms / 1000)
  if second ~= stamped_s then
    stamped_s, stamp = second, os.date("!%Y-%m-%dT%H:%M:%S", second)
  end
  sent = sent + 1
  local body = string.format('{"pump_id":"SIM-%03d","time":"%s.%03dZ",%s}', pump, stamp, ms % 1000, channels)
  return string.format(head, #body) .. body
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"seconds":%f,"refused":%d,"failed":%d,"p50_ms":%f,"p99_ms":%f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
