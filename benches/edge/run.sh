#!/bin/bash
# The edge alone before a fast backend, beside nginx with TLS and auth_request. Prints absolute figures and ratios.
# Both proxies get the same backend program over Unix sockets with kept-alive connections, the same load (wrk, one
# thread, POST of a tools/call with a bearer token), and as many workers as WORKERS says (default 2).
#   CPU: the proxy's user and system time from /proc, so that "per core" means requests per CPU second of the proxy.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${BIN:-target/$(uname -m)-unknown-linux-gnu/release/examples/edge_bench}
seconds=${SECONDS_EACH:-8}
workers=${WORKERS:-2}
rounds=${ROUNDS:-2}
[ -n "${BIN:-}" ] || cargo build --locked --release --example edge_bench
dir=$(mktemp -d /tmp/edge-bench.XXXXXX)
pids=()
trap 'for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; rm -rf "$dir"' EXIT
edge_port=${EDGE_PORT:-18443} nginx_port=${NGINX_PORT:-18444}

# --- our edge, with the backend dialling in
mkdir -p "$dir/berth"
"$bin" edge "$dir/berth" "$edge_port" "${LAYOUT:-own:$workers}" > "$dir/edge.out" & edge_pid=$!; pids+=($edge_pid)
until [ -s "$dir/edge.out" ]; do sleep 0.1; done
read -r id token < "$dir/edge.out"
"$bin" backend dial "$dir/berth/i/$id/agent.sock" 64 & pids+=($!)

# --- nginx, with the same backend listening; auth_request asks it too, over kept-alive connections
"$bin" backend unix "$dir/backend.sock" & pids+=($!)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -keyout "$dir/key.pem" -out "$dir/cert.pem" 2>/dev/null
server() {
    cat <<CONF
    server {
        listen 127.0.0.1:$1 ssl;
        server_name localhost;
        ssl_certificate $dir/cert.pem;
        ssl_certificate_key $dir/key.pem;
        ssl_session_cache shared:s$1:1m;
        location /mcp {
            auth_request /auth;
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "";
            proxy_buffering off;
        }
        location = /auth { internal; $2 }
    }
CONF
}
cat > "$dir/nginx.conf" <<CONF
user root;
worker_processes $workers;
pid $dir/nginx.pid;
error_log $dir/error.log crit;
daemon off;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path $dir; proxy_temp_path $dir; fastcgi_temp_path $dir; uwsgi_temp_path $dir; scgi_temp_path $dir;
    map_hash_bucket_size 256;
    map \$http_authorization \$allowed { default 401; "Bearer $token" 204; }
    upstream backend { server unix:$dir/backend.sock; keepalive 64; keepalive_requests 1000000000; }
$(server "$nginx_port" 'proxy_pass http://backend; proxy_pass_request_body off; proxy_set_header Content-Length "";
                proxy_http_version 1.1; proxy_set_header Connection "";')
$(server $((nginx_port + 1)) 'if ($allowed = 204) { return 204; } return 401;')
}
CONF
nginx -c "$dir/nginx.conf" -e "$dir/error.log" & nginx_pid=$!; pids+=($nginx_pid)
sleep 1
# A figure for an answer that is wrong is worth nothing: each must answer 200 with a token and 401 without.
for url in "$edge_port/mcp/$id" "$nginx_port/mcp" "$((nginx_port + 1))/mcp"; do
    ok=$(curl -sk -o /dev/null -w '%{http_code}' -d '{}' -H "Authorization: Bearer $token" "https://localhost:$url")
    [ "$ok" = 200 ] || { echo "https://localhost:$url answers $ok" >&2; cat "$dir/error.log" >&2; exit 1; }
done

cat > "$dir/post.lua" <<LUA
wrk.method = "POST"
wrk.body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello"}}}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.headers["MCP-Protocol-Version"] = "2025-06-18"
wrk.headers["Authorization"] = "Bearer $token"
done = function(s, l, r)
    io.write(string.format("RESULT %.0f %.4f %.4f %d\n", s.requests / (s.duration / 1e6), l:percentile(50) / 1000,
        l:percentile(99) / 1000, s.errors.status + s.errors.read + s.errors.write + s.errors.timeout))
end
LUA
ticks() { # user + system ticks of a process and of its children's processes that live
    local sum=0 p
    for p in "$@" $(pgrep -P "$1" || true); do
        [ -r "/proc/$p/stat" ] && sum=$((sum + $(sed 's/.*) //' "/proc/$p/stat" | awk '{print $12 + $13}')))
    done
    echo "$sum"
}
hz=$(getconf CLK_TCK)
measure() { # name pid url connections
    local before after out
    wrk -t1 -c"$4" -d1s -s "$dir/post.lua" "$3" > /dev/null
    before=$(ticks "$2")
    out=$(wrk -t1 -c"$4" -d"${seconds}s" -s "$dir/post.lua" "$3" | grep RESULT)
    after=$(ticks "$2")
    read -r _ rps p50 p99 errors <<< "$out"
    awk -v n="$1" -v c="$4" -v r="$rps" -v p="$p50" -v q="$p99" -v e="$errors" -v t=$((after - before)) -v hz="$hz" -v s="$seconds" \
        'BEGIN { cpu = t / hz; printf "%-22s %3d %8d %8.3f %8.3f %6d %7.2f %10.0f\n", n, c, r, p, q, e, cpu, r * s / cpu }' | tee -a "$dir/table"
}
printf '%-22s %3s %8s %8s %8s %6s %7s %10s\n' proxy c req/s p50/ms p99/ms errors cpu/s req/cpu-s
for _ in $(seq "$rounds"); do
    for c in 1 32; do
        measure berth "$edge_pid" "https://localhost:$edge_port/mcp/$id" "$c"
        [ -z "${BERTH_ONLY:-}" ] || continue
        measure nginx-auth_request "$nginx_pid" "https://localhost:$nginx_port/mcp" "$c"
        measure nginx-auth-internal "$nginx_pid" "https://localhost:$((nginx_port + 1))/mcp" "$c"
    done
done
[ -z "${BERTH_ONLY:-}" ] || exit 0
echo
echo "ratios, berth to nginx (best round of each; p50 below 1 is better)"
awk '{ k = $1 " " $2; if ($3 > r[k]) r[k] = $3; if (!(k in p) || $4 < p[k]) p[k] = $4; if ($8 > u[k]) u[k] = $8 }
    END { for (n = 1; n <= 2; n++) for (i = 1; i <= 2; i++) { c = n == 1 ? 1 : 32; o = i == 1 ? "nginx-auth_request" : "nginx-auth-internal";
        printf "c=%-3d vs %-20s req/s x%.2f   p50 x%.2f   req per cpu second x%.2f\n", c, o,
            r["berth " c] / r[o " " c], p["berth " c] / p[o " " c], u["berth " c] / u[o " " c] } }' "$dir/table"
