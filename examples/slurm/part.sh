#!/usr/bin/env bash
# Runs one part of a matrix, as a task of a Slurm job array. submit.sh submits it. To submit it directly:
#
#   sbatch --array=1-4 part.sh FILE DIR [--only EXPR] [--repeat N]
#
# Task I of N runs part I/N of FILE in the folder DIR/part-I. If that folder exists, because Slurm started
# the task again after its node failed or because you did, the task continues the run in it. To submit
# single tasks again, set the number of parts: PARTS=4 sbatch --array=3 part.sh ...
#
# A node runs one part at a time (--exclusive). Two would share its CPUs and caches: workloads would fall
# short of their rates, and cells near the threshold would get other outcomes. The part gets all memory of
# its node (--mem=0). A minute before its time limit (--time), Slurm signals the part. It records the current
# attempt as interrupted and ends.
#
#SBATCH --job-name=testbed
#SBATCH --output=testbed-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --nodes=1 --ntasks=1 --exclusive --mem=0
#SBATCH --requeue
#SBATCH --signal=B:TERM@60

set -euo pipefail

file=$1 dir=$2
shift 2
folder=$dir/part-$(printf %04d "$SLURM_ARRAY_TASK_ID")
run=("${TESTBED:-testbed}" run "$file" --lab "${LAB:-local}")
# `exec`: signals reach the program, and its exit code becomes that of the task.
if [ -e "$folder" ]; then
    # The folder records which part it is.
    exec "${run[@]}" --resume "$folder"
fi
exec "${run[@]}" --shard "$SLURM_ARRAY_TASK_ID/${PARTS:-$SLURM_ARRAY_TASK_COUNT}" --out "$folder" "$@"
