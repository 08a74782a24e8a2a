#!/usr/bin/env bash
# Prints where this machine's apt gets packages of a Debian release, as apt's own `.sources` paragraphs: the release
# itself, its updates, its security updates and its backports, whichever are configured, and nothing else that is.
#
# What is configured is read from sources.list, *.list and *.sources, with keys and trust as they are there. What of that
# is Debian's, and of which release, apt knows from what it has fetched: so `apt-get update` must have been run.
#
# Usage: sources.sh CODENAME
set -euo pipefail

codename=${1:?usage: sources.sh CODENAME}

# Dir::Etc may be anywhere: APT_CONFIG can say so.
list='' parts=''
eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"

# One line for each address and suite that has programs: address, suite, key, trust. The lines of a key that is part of the
# file are joined by \001.
configured() {
    local file
    for file in "$list" "$parts"/*.list "$parts"/*.sources; do
        [ -r "$file" ] || continue
        case $file in
            *.sources) awk -f /dev/fd/3 "$file" 3<<'PARAGRAPHS' ;;
function emit(  u, s, i, j, n, m) {
    if (v["types"] ~ /(^|[ \t])deb([ \t]|$)/ && v["enabled"] !~ /^(no|false|0)$/ && v["components"] ~ /(^|[ \t])main([ \t]|$)/) {
        n = split(v["uris"], u, /[ \t]+/); m = split(v["suites"], s, /[ \t]+/)
        for (i = 1; i <= n; i++) for (j = 1; j <= m; j++)
            printf "%s\t%s\t%s\t%s\n", u[i], s[j], v["signed-by"], v["trusted"]
    }
    split("", v); field = ""
}
/^#/ { next }
/^[ \t]*$/ { emit(); next }
/^[ \t]/ { if (field != "") v[field] = v[field] (field == "signed-by" ? "\001" $0 : " " $0); next }
{
    at = index($0, ":"); field = tolower(substr($0, 1, at - 1))
    value = substr($0, at + 1); gsub(/^[ \t]+|[ \t]+$/, "", value); v[field] = value
}
END { emit() }
PARAGRAPHS
            *) awk -f /dev/fd/3 "$file" 3<<'LINES' ;;
{ sub(/#.*/, "") }
$1 == "deb" {
    key = ""; trusted = ""; at = 2
    if ($2 ~ /^\[/) {
        options = $0; sub(/^[^[]*\[/, "", options); sub(/\].*/, "", options)
        n = split(options, option, /[ \t]+/)
        for (i = 1; i <= n; i++) {
            if (option[i] ~ /^signed-by=/) { key = substr(option[i], 11); gsub(/,/, " ", key) }
            if (option[i] ~ /^trusted=/) trusted = substr(option[i], 9)
        }
        while (at <= NF && $at !~ /\]$/) at++
        at++
    }
    for (i = at + 2; i <= NF; i++)
        if ($i == "main") printf "%s\t%s\t%s\t%s\n", $at, $(at + 1), key, trusted
}
LINES
        esac
    done
}

# What apt says is Debian's, of this release and in use: address and suite.
known() {
    # The variables are apt's.
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(CREATED_BY)|$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)' |
        awk -F'|' -v c="$codename" '
            $1 == "Packages" && $2 ~ /^Debian( Backports)?$/ && $4 == "main" &&
            ($3 == c || $3 == c "-updates" || $3 == c "-security" || $3 == c "-backports") { print $5 "\t" $6 }' | sort -u
}

# A suite may be called `stable` in the configuration: apt knows its codename, and the address has one slash at its end.
awk -F'\t' '
    function address(text) { sub(/\/*$/, "/", text); return text }
    NR == FNR { known[address($1) "\t" $2] = 1; next }
    (address($1) "\t" $2) in known && !printed[address($1) "\t" $2]++ {
        print "Types: deb\nURIs: " $1 "\nSuites: " $2 "\nComponents: main"
        gsub(/\001/, "\n", $3)
        if ($3 != "") print "Signed-By: " $3
        if ($4 != "") print "Trusted: " $4
        print ""
    }' <(known) <(configured)
