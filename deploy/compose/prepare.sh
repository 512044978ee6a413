#!/bin/sh
# Makes the secrets of a new installation, once, and gives every volume to the user that works with it. A service gets the
# volume with its own secrets and no other.
set -eu
umask 022

random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# Kept as they are on every later start: changing one is for whoever runs this (docs/operations.md).
keep() { [ -s "$1" ] || { "$2" > "$1.new" && mv "$1.new" "$1"; }; }

# A password that begins with a digit would be read as a number by nats-server.
password() { printf 'n%s' "$(random)"; }

keep /secrets/auth/jwt-secret random
for service in gateway auth fanout; do
  keep "/secrets/nats/$service" password
  login="$service:$(cat "/secrets/nats/$service")"
  urls=
  for host in $NATS_HOSTS; do
    urls="$urls${urls:+,}nats://$login@$host:4222"
  done
  printf '%s' "$urls" > "/secrets/$service/nats-url"
done

chown 65532:65532 /data/*
