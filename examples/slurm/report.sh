#!/usr/bin/env bash
# Reports on all parts in a folder, including missing parts and attempts and differences between the nodes.
# submit.sh submits it as a Slurm job that waits for all parts. It can also be run at any time:
#
#   report.sh DIR
#
#SBATCH --job-name=testbed-report
#SBATCH --output=testbed-%j.log
#SBATCH --ntasks=1

set -euo pipefail

dir=$1
# An exit code of 1 or 3 is a verdict on the parts; both files are written all the same.
code=0
"${TESTBED:-testbed}" report "$dir"/part-* | tee "$dir/table.txt" || code=$?
"${TESTBED:-testbed}" report --csv "$dir"/part-* 2>/dev/null >"$dir/summary.csv" || code=$?
exit "$code"
