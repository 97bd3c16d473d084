#!/usr/bin/env bash
# A run on Slurm's nodes, one Ray node each: sbatch docker/slurm.sh --config C resources.root=/fs/runs ...
# From the repository's root, on a file system that all nodes share, where .venv is made. Change what is asked for:
#SBATCH --job-name=widemargin
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=12:00:00
# Whole nodes: at its end `ray symmetric-run` stops every Ray that it finds on them. What was finished is kept, and a
# job that is put back into the queue goes on from there.
#SBATCH --exclusive
#SBATCH --requeue
set -euo pipefail

export PATH="${VENV:-$PWD/.venv}/bin:$PATH"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export ADDRESS="$head:$((6379 + SLURM_JOB_ID % 1000))"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600  # seconds that nodes may take to come up; its own: 30
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$(openssl rand -hex 32)}"

# symmetric-run starts the head on the node of ADDRESS and, once all nodes are up, the command there. Where Ray does not
# start it says so and ends with 0. So the command writes down how it ended, and no such file means that nothing ran.
export STATUS="$PWD/.slurm-$SLURM_JOB_ID.status"
rm -f "$STATUS"
trap 'rm -f "$STATUS"' EXIT
# shellcheck disable=SC2016  # what expands does so on the head's node
run='RAY_ADDRESS="$ADDRESS" python -m jobs.run "$@" && code=0 || code=$?; echo "$code" > "$STATUS"; exit "$code"'

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    ray symmetric-run --address "$ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" -- bash -c "$run" jobs.run "$@" ||
    echo "srun ended with status $?" >&2

if [ ! -s "$STATUS" ]; then
    echo "error: Ray did not start, and nothing was run; what it says stands above" >&2
    exit 1
fi
exit "$(cat "$STATUS")"
