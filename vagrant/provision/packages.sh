#!/bin/sh
# Installs those of the given packages that are missing. Downloads nothing if the box has them all.
set -eu
missing=''
for package in "$@"; do
    case $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true) in
        ii*) ;;
        *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# Unquoted, so that each package is a word.
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $missing
