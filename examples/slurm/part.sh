#!/usr/bin/env bash
# One part of a matrix: a task of a Slurm job array. submit.sh submits it; by itself:
#
#   sbatch --array=1-4 part.sh FILE DIR [--only EXPR] [--repeat N]
#
# Task I of N makes part I/N of FILE in the folder DIR/part-I. Where that is there already (Slurm has started the
# task again because its node failed, or you have), the run in it is continued.
# To submit some tasks again, say how many parts there are: PARTS=4 sbatch --array=3 part.sh ...
#
# A node runs one part at a time (--exclusive): two would share its CPUs and its caches, the loads would fall short
# of their rates, and cells near the threshold would end otherwise. All its memory is the part's (--mem=0).
# A minute before its time is over (--time), a part is told so. It then records the current attempt as
# interrupted, and ends.
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
# `exec`, so that signals reach the program and its exit code is the task's.
if [ -e "$folder" ]; then
    # The folder knows which part it is.
    exec "${run[@]}" --resume "$folder"
fi
exec "${run[@]}" --shard "$SLURM_ARRAY_TASK_ID/${PARTS:-$SLURM_ARRAY_TASK_COUNT}" --out "$folder" "$@"
