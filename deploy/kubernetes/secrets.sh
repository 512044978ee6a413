#!/bin/sh
# Prints the secrets of a new installation, random ones, to be applied once:
#   deploy/kubernetes/secrets.sh | kubectl apply --namespace carillon --filename -
# Whoever keeps secrets in a vault makes the same four there. With keys of your own, carillon-auth has yours.
set -eu
random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
# A password that begins with a digit would be read as a number by nats-server.
gateway=n$(random) auth=n$(random) fanout=n$(random)

secret() { printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\nstringData:\n' "$1"; }
nats_url() { printf '  nats-url: "nats://%s:%s@carillon-nats:4222"\n' "$1" "$2"; }

secret carillon-nats
printf '  gateway: "%s"\n  auth: "%s"\n  fanout: "%s"\n' "$gateway" "$auth" "$fanout"
secret carillon-gateway
nats_url gateway "$gateway"
secret carillon-fanout
nats_url fanout "$fanout"
secret carillon-auth
nats_url auth "$auth"
printf '  jwt-secret: "%s"\n' "$(random)"
