"""A worker in Python. It uses ctypes only. To try it, start a client, and within 30 s the worker:

bun -e 'import { SlotBus } from "slotbus"; await using bus = await SlotBus.create({ name: "shop" });
        console.log((await bus.request({ path: "/hello", body: "Ada" })).text())' &
SLOTBUS_LIB=../native/linux-x64-gnu/libslotbus.so python3 python-worker.py shop

In a checkout, the library is zig-out/lib/libslotbus.so. The worker serves all clients of a shared bus.
It ends when the last client has left.
"""

import ctypes
import json
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_int32, c_uint32, c_uint64, c_void_p

EINVAL, ECLOSED = -1, -14


class Call(ctypes.Structure):  # struct sb_call
    _fields_ = [("client", c_void_p)]
    _fields_ += [(name, c_uint32) for name in ("slot", "token", "method", "timeout_ms", "parameters", "headers")]
    _fields_ += [("serial", c_uint64)]
    _fields_ += [(name, c_char_p) for name in ("method_text", "path", "query", "pattern", "id", "pairs")]
    _fields_ += [("body", c_void_p), ("body_bytes", c_uint64)]


class Answer(ctypes.Structure):  # struct sb_answer
    _fields_ = [("status", c_uint32), ("reserved", c_uint32), ("content_type", c_char_p)]
    _fields_ += [("headers", POINTER(c_char_p)), ("body", c_char_p), ("body_bytes", c_uint64)]


lib = ctypes.CDLL(os.environ["SLOTBUS_LIB"])


def prototype(name, returns, *takes):
    function = getattr(lib, name)
    function.restype, function.argtypes = returns, takes
    return function


open_service = prototype("sb_service_open", c_void_p, c_char_p, c_char_p, c_uint32, c_uint32)
receive = prototype("sb_service_receive", c_int32, c_void_p, POINTER(Call), c_uint32)
answer = prototype("sb_service_answer", c_int32, c_void_p, POINTER(Call), POINTER(Answer))
fail = prototype("sb_service_fail", c_int32, c_void_p, POINTER(Call), c_char_p, c_char_p)
close_service = prototype("sb_service_close", None, c_void_p)
error_last = prototype("sb_error_last", c_int32)
error_text = prototype("sb_error_text", c_char_p, c_int32)


kept = b""


def handle(path, body):
    global kept
    if path == "/keep":
        kept = body
        return b""
    if path == "/kept":
        return kept
    if path == "/hello":
        return f"hello {body.decode()}, from process {os.getpid()}".encode()
    if path == "/sum":
        return str(sum(json.loads(body))).encode()
    if path == "/echo":
        return body
    raise LookupError(f"no handler for {path}")


def main(name):
    service = open_service(None, name.encode(), 8, 5000)
    if not service:
        sys.exit(error_text(error_last()).decode())
    print("attached", flush=True)
    call, got = Call(), 0
    while got >= 0:
        got = receive(service, byref(call), 1000)
        if got != 1:
            continue
        try:
            # call.body is valid only until the call is answered; string_at makes a copy.
            body = handle(call.path.decode(), ctypes.string_at(call.body, call.body_bytes))
            if answer(service, byref(call), byref(Answer(body=body, body_bytes=len(body)))) == EINVAL:
                raise ValueError(f"the client does not accept a response of {len(body)} bytes")
        except Exception as error:  # the caller gets every error
            fail(service, byref(call), type(error).__name__.encode(), str(error).encode(errors="replace"))
    close_service(service)
    print(error_text(got).decode())
    sys.exit(0 if got == ECLOSED else 1)


main(sys.argv[1] if len(sys.argv) > 1 else "shop")
