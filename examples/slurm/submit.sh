#!/usr/bin/env bash
# Runs a matrix in parts on the nodes of a Slurm cluster, and writes a report when all parts have ended.
#
#   submit.sh FILE PARTS DIR [--only EXPR] [--repeat N]
#
# FILE is the matrix, PARTS the number of parts, DIR a folder that all nodes share. Each part is a task of a
# job array with its own folder DIR/part-I; the report goes to DIR/table.txt and DIR/summary.csv. Called
# again with the same DIR, it continues: each part runs its missing attempts.
#
# Environment variables:
#
#   TESTBED   the program, if it is not in the nodes' PATH
#   LAB       an inventory, to migrate between hosts instead of inside each node. All parts then use the same
#             hosts, so set AT_ONCE=1
#   AT_ONCE   how many parts may run at the same time [as many as there are nodes]

set -euo pipefail

if [ "$#" -lt 3 ]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
file=$1 parts=$2 dir=$3
shift 3
here=$(dirname "${BASH_SOURCE[0]}")

# Report errors in the file and the options here, once, and not in each task. This includes more parts than
# cells.
"${TESTBED:-testbed}" plan "$file" --shard "$parts/$parts" "$@" >/dev/null

mkdir -p "$dir"
job=$(sbatch --parsable --array="1-$parts${AT_ONCE:+%$AT_ONCE}" "$here/part.sh" "$file" "$dir" "$@")
# Some clusters append a semicolon and their name.
job=${job%%;*}
# Parts that end with exit code 1 or 3 have results too, so the report waits for all parts, not only
# successful ones.
report=$(sbatch --parsable --dependency="afterany:$job" "$here/report.sh" "$dir")
echo "job $job: $parts parts in $dir/part-*; job ${report%%;*}: report in $dir/table.txt"
