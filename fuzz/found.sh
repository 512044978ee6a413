#!/usr/bin/env bash
# Between the corpus of a target, a file an input, and what is committed of it, a line an input:
# `found.sh pack|unpack TARGET`. Packing takes what is in the corpus without a name of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p found "corpus/$2"
case $1 in
pack)
    find "corpus/$2" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -print0 | sort -z |
        while IFS= read -rd '' file; do base64 -w0 "$file" && echo; done >"found/$2"
    ;;
unpack)
    while read -r line; do
        file=$(mktemp) && base64 -d <<<"$line" >"$file"
        mv "$file" "corpus/$2/$(sha1sum <"$file" | cut -c1-40)"
    done <"found/$2"
    ;;
*) exit 64 ;;
esac
