#!/bin/sh
# curl against BASE_URL (…/v1), as people use it by hand. Needs a folder to write to: TMP.
set -eu
ask='{"model":"test-model","messages":[{"role":"user","content":"hi"}]}'
stream='{"model":"test-model","stream":true,"messages":[{"role":"user","content":"hello there"}]}'

expect() { # expect WHAT FOUND EXPECTED
    [ "$2" = "$3" ] || {
        echo "$1: found '$2', expected '$3'" >&2
        exit 1
    }
    echo "$1: ok"
}
run() { curl -sS --max-time 60 "$@"; }
status() { run -o /dev/null -w '%{http_code}' "$@"; }

for n in 1 2 3 4 5 6 7 8; do
    expect "chat $n" "$(status "$BASE_URL/chat/completions" -d "$ask")" 200
done
expect "a stream ends as it should" \
    "$(run -N "$BASE_URL/chat/completions" -d "$stream" | grep '^data' | tail -n 1)" "data: [DONE]"
expect "health" "$(status "${BASE_URL%/v1}/health")" 200
expect "HTTP/1.0" "$(status --http1.0 "$BASE_URL/models")" 200
expect "an HTTP/1.0 stream" \
    "$(run -N --http1.0 "$BASE_URL/chat/completions" -d "$stream" | grep -c '^data')" 5
expect "HEAD" "$(status --head "$BASE_URL/models")" 200
expect "two requests on one connection" \
    "$(run -o /dev/null -o /dev/null -w '%{num_connects} ' "$BASE_URL/models" "$BASE_URL/models")" "1 0 "

dd if=/dev/urandom of="$TMP/upload" bs=1024 count=1500 2>/dev/null
sum=$(od -An -v -tu1 "$TMP/upload" | awk '{ for (i = 1; i <= NF; i++) s += $i } END { print s }')
expected="{\"bytes\":1536000,\"sum\":$sum}"
expect "Expect: 100-continue" \
    "$(run -H 'Expect: 100-continue' --data-binary "@$TMP/upload" "$BASE_URL/echo")" "$expected"
expect "a chunked upload" \
    "$(run -H 'Transfer-Encoding: chunked' -X POST -T - "$BASE_URL/echo" <"$TMP/upload")" "$expected"
expect "an error passes as it is" "$(status "$BASE_URL/no-such-thing")" 404
