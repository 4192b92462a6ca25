# A worker of examples/stdio.ts. It reads and writes one JSON message per line; logs go to standard error.
import json
import sys


def send(message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def mean(numbers, _):
    return sum(numbers) / len(numbers)


def primes(limit, request):
    found = []
    for n in range(2, limit):
        if all(n % p for p in found):
            found.append(n)
            if len(found) % 4 == 0:  # progress, sent before the response
                send({"method": "$/progress", "params": {"id": request, "value": found}})
    return found


methods = {"mean": mean, "primes": primes}

for line in sys.stdin:
    message = json.loads(line)
    method, request = message.get("method"), message.get("id")
    if method is None or request is None:
        continue  # a notification, such as $/cancelRequest
    try:
        send({"id": request, "result": methods[method](message.get("params"), request)})
    except KeyError:
        send({"id": request, "error": {"code": -32601, "message": f"no method {method}"}})
    except Exception as error:
        send({"id": request, "error": {"code": -32000, "message": str(error)}})
