#!/usr/bin/env bash
# The report on all parts: a Slurm job that submit.sh has wait for the last of them. By itself, at any time:
#
#   report.sh DIR
#
# Says which parts and attempts are missing, and where the nodes differ.
#
#SBATCH --job-name=testbed-report
#SBATCH --output=testbed-%j.log
#SBATCH --ntasks=1

set -euo pipefail

dir=$1
"${TESTBED:-testbed}" report "$dir"/part-* | tee "$dir/table.txt"
"${TESTBED:-testbed}" report --csv "$dir"/part-* 2>/dev/null >"$dir/summary.csv"
