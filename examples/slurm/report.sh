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
"${TESTBED:-testbed}" report "$dir"/part-* | tee "$dir/table.txt"
"${TESTBED:-testbed}" report --csv "$dir"/part-* 2>/dev/null >"$dir/summary.csv"
