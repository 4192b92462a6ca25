#!/bin/sh
# Installs what the system tests, the proofs and the benches need from Debian, if it is missing. Says nothing when all is there.
set -eu
missing=
for pair in gcc:gcc strace:strace setpriv:util-linux unshare:util-linux mount:mount nm:binutils spin:spin \
	chromium:chromium nginx:nginx-light wrk:wrk; do
	command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
[ -z "$missing" ] && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list
apt-get install -qq -y --no-install-recommends $missing >/dev/null
