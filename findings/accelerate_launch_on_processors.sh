#!/usr/bin/env bash
# "accelerate launch --cpu --num_processes 2" of accelerate 1.15.0 starts one process, and says nothing of the other: without an MPI
# host file the command for processors starts the script once, whatever number it was given. A training then takes twice the time it was
# planned for, with half the batch that it was tuned for, and ends well.
#
# One would expect: two, as on GPUs, or a refusal. torchrun with ACCELERATE_USE_CPU=true starts two, which accelerate joins over gloo.
#
# Seen on Python 3.11, torch 2.13.0:
#   accelerate launch --cpu --num_processes 2: 0 of 1; exit 0
#   torchrun --nproc-per-node 2: 0 of 2, 1 of 2; exit 0
#   still so
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 accelerate==1.15.0
cd "$work"
cat > who.py <<'PY'
import sys

from accelerate import PartialState

state = PartialState(cpu=True)
open(f"{sys.argv[1]}.{state.process_index}", "w").write(f"{state.process_index} of {state.num_processes}")
state.wait_for_everyone()
state.destroy_process_group()
PY
export ACCELERATE_USE_CPU=true GLOO_SOCKET_IFNAME=lo HF_HOME="$work/home" OMP_NUM_THREADS=1
code=0
"$work/venv/bin/accelerate" launch --cpu --num_processes 2 who.py launched > words 2>&1 || code=$?
launched=$(for file in launched.*; do cat "$file"; echo; done | paste -sd, | sed 's/,/, /g')
echo "accelerate launch --cpu --num_processes 2: $launched; exit $code"
second=0
"$work/venv/bin/torchrun" --standalone --nproc-per-node 2 who.py run >> words 2>&1 || second=$?
run=$(for file in run.*; do cat "$file"; echo; done | paste -sd, | sed 's/,/, /g')
echo "torchrun --nproc-per-node 2: $run; exit $second"
if [ "$launched" = "0 of 1" ] && [ $code = 0 ] && [ "$run" = "0 of 2, 1 of 2" ] && [ $second = 0 ]; then
  echo "still so"
else
  echo "this has changed"
  cat words >&2
  exit 1
fi
