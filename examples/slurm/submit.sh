#!/usr/bin/env bash
# Runs a matrix in parts on the nodes of a Slurm cluster, and reports on all of them when the last has ended.
#
#   submit.sh FILE PARTS DIR [--only EXPR] [--repeat N]
#
# FILE is the matrix, PARTS the number of parts, DIR a folder that all nodes see. Each part is a task of a job
# array with a folder DIR/part-I of its own; the report goes to DIR/table.txt and DIR/summary.csv.
# Called again with the same DIR, it goes on: each part makes what is missing of it.
#
#   TESTBED   the program, where it is not in the nodes' PATH
#   LAB       an inventory, to migrate between hosts instead of in namespaces of a node. All parts then use the
#             same hosts, so set AT_ONCE=1
#   AT_ONCE   how many parts may run at the same time; by default as many as there are nodes

set -euo pipefail

if [ "$#" -lt 3 ]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
file=$1 parts=$2 dir=$3
shift 3
here=$(dirname "${BASH_SOURCE[0]}")

# Whatever is wrong with the file and the options is said here and not by each task, also that there are more
# parts than cells.
"${TESTBED:-testbed}" plan "$file" --shard "$parts/$parts" "$@" >/dev/null

mkdir -p "$dir"
job=$(sbatch --parsable --array="1-$parts${AT_ONCE:+%$AT_ONCE}" "$here/part.sh" "$file" "$dir" "$@")
# Some clusters add their name behind a semicolon.
job=${job%%;*}
# A part that ends with exit code 1 or 3 has results too, so the report waits for the end of all, however they end.
report=$(sbatch --parsable --dependency="afterany:$job" "$here/report.sh" "$dir")
echo "job $job: $parts parts in $dir/part-*; job ${report%%;*}: the report, in $dir/table.txt"
