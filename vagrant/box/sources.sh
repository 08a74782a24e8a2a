#!/usr/bin/env bash
# Prints the package sources of a Debian release that are configured on this host, as `.sources` paragraphs:
# the release itself, its updates, its security updates and its backports. Other configured sources are left
# out.
#
# The sources are read from sources.list, *.list and *.sources, with their keys and trust settings. Whether
# a source is Debian's, and of which release, apt knows from the files it has downloaded, so run `apt-get
# update` first.
#
# Usage: sources.sh CODENAME
set -euo pipefail

codename=${1:?usage: sources.sh CODENAME}

# Dir::Etc is not always /etc/apt: APT_CONFIG can change it.
list='' parts=''
eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"

# Prints one line for each URI and suite that has binary packages: URI, suite, key, trust, separated by
# tabs. The lines of a key that is embedded in the file are joined by \001.
configured() {
    local file
    for file in "$list" "$parts"/*.list "$parts"/*.sources; do
        [ -r "$file" ] || continue
        case $file in
            *.sources) awk -f /dev/fd/3 "$file" 3<<'PARAGRAPHS' ;;
function emit(  u, s, i, j, n, m) {
    if (v["types"] ~ /(^|[ \t])deb([ \t]|$)/ && v["enabled"] !~ /^(no|false|0)$/ &&
        v["components"] ~ /(^|[ \t])main([ \t]|$)/) {
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

# Prints URI and suite of each source that apt knows to be Debian's and of this release.
known() {
    # apt expands these variables, not the shell.
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(CREATED_BY)|$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)|$(RELEASE)' |
        awk -F'|' -v c="$codename" '
            $1 == "Packages" && $2 ~ /^Debian( Backports)?$/ && $4 == "main" &&
            ($3 == c || $3 == c "-updates" || $3 == c "-security" || $3 == c "-backports") {
                print $5 "\t" $6
            }' | sort -u
}

# Selects the configured sources that apt knows. The configuration may name a suite `stable`; `known`
# resolves it to its codename. URIs are compared with exactly one slash at the end.
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
