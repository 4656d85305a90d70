-- tools/call of `echo`, a fresh JSON-RPC id and message each, every answer checked. For wrk -t1:
--   MCP_SESSION=… MCP_TOKEN=… wrk -t1 -c16 -d5 -s echo.lua URL
-- Prints one line more than wrk does:  result P50-IN-MICROSECONDS CALLS-PER-SECOND WRONG-ANSWERS
local id = 100
local waiting = {}
wrong = 0
first_wrong = ""

function init()
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Accept"] = "application/json, text/event-stream"
  wrk.headers["MCP-Protocol-Version"] = "2025-06-18"
  wrk.headers["Mcp-Session-Id"] = os.getenv("MCP_SESSION")
  local token = os.getenv("MCP_TOKEN")
  if token and token ~= "" then wrk.headers["Authorization"] = "Bearer " .. token end
end

function request()
  id = id + 1
  waiting[id] = true
  return wrk.format(nil, nil, nil, '{"jsonrpc":"2.0","id":' .. id ..
    ',"method":"tools/call","params":{"name":"echo","arguments":{"message":"m' .. id .. '"}}}')
end

function response(status, _, body)
  local answered = tonumber(body:match('"id":(%d+)'))
  local said = tonumber(body:match('Echo: m(%d+)"'))
  if status == 200 and answered and answered == said and waiting[answered] then
    waiting[answered] = nil
  else
    wrong = wrong + 1
    if wrong == 1 then first_wrong = status .. " " .. body:sub(1, 200) end
  end
end

local threads = {}
function setup(thread) threads[#threads + 1] = thread end

function done(summary, latency)
  local bad, example = 0, ""
  for _, thread in ipairs(threads) do
    bad = bad + thread:get("wrong")
    if example == "" then example = thread:get("first_wrong") end
  end
  local errors = summary.errors
  bad = bad + errors.connect + errors.read + errors.write + errors.timeout
  if bad > 0 then io.stderr:write("wrong answers: ", bad, ", the first: ", example, "\n") end
  io.write(string.format("result %d %.0f %d\n", latency:percentile(50), summary.requests / (summary.duration / 1e6), bad))
end
