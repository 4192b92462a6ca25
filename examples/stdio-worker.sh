# A worker of examples/stdio.ts, in plain sh. It reads and writes one JSON message per line.
while IFS= read -r line; do
  id=$(printf '%s\n' "$line" | sed -n 's/^{"jsonrpc":"2.0","id":\([0-9]*\),.*/\1/p')
  [ -n "$id" ] || continue # a notification
  case $line in
    *'"method":"kernel"'*) answer="\"result\":\"$(uname -sr)\"" ;;
    *'"method":"date"'*) answer="\"result\":\"$(date -u +%FT%TZ)\"" ;;
    *) answer='"error":{"code":-32601,"message":"no such method"}' ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$answer"
done
