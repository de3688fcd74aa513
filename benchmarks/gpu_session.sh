#!/usr/bin/env bash
# A quarter of an hour with a GPU (docs/gpu.md): what runs there, from the root of the working tree.
#
#   bash benchmarks/gpu_session.sh measure [MINUTES]              # benchmarks/gpu.py; gpu.json and measure.log in $OUT
#   bash benchmarks/gpu_session.sh train [MINUTES] [OPTION ...]   # editkit train prior; the network in parts in $OUT
#
# What is not on that machine lies in .gpu (python benchmarks/gpu_pack.py). DEVICE=cpu TINY=1 tries the same anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?measure or train}
minutes=${2:-}
shift $(($# < 2 ? $# : 2))
OUT=${OUT:?the folder whose files come back}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
site=${SITE:-/tmp/editkit-site}
if compgen -G '.gpu/wheels/*.whl' > /dev/null && [ ! -e "$site/.done" ]; then
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" .gpu/wheels/*.whl
    touch "$site/.done"
fi
export PYTHONPATH="$PWD/.gpu/site:$PWD:$PWD/plugins:$site" PYTHONUNBUFFERED=1
photos=.gpu/photos
case $what in
measure)
    [ -z "${TINY:-}" ] || set -- --tiny "$@"
    "$PYTHON" -W ignore benchmarks/gpu.py --device "$DEVICE" --minutes "${minutes:-4}" --photos "$photos" \
        --json "$OUT/gpu.json" "$@" 2>&1 | tee "$OUT/measure.log"
    ;;
train)
    run=${RUN:-/tmp/editkit-run}
    shape=(--window 128 --channels 96,160,256,288 --batch 512 --learning-rate 1.5e-3)
    [ -z "${TINY:-}" ] || shape=(--window 16 --channels 32,32 --batch 4)
    "$PYTHON" -W ignore -c 'import sys; from editkit.cli.train import app; app(sys.argv[1:])' prior \
        --device "$DEVICE" --images "$photos" --output "$run" --heldout assets/pocket/heldout.txt \
        --steps 1000000 --minutes "${minutes:-6}" --warmup 100 --cooldown 0.35 --report-every 50 --measure-every 400 \
        --checkpoint-every 400 --sheet-every 100000 "${shape[@]}" "$@" 2>&1 | tee "$OUT/train.log"
    cp "$run/log.jsonl" "$OUT/"
    cp "$run"/sheets/step*.png "$OUT/sheet.png"
    # 8 files of 16 MiB come back: the network in at most four parts. cat export.tar.* | tar x
    tar -C "$run" -cf - export | split -b 15M - "$OUT/export.tar."
    ;;
*)
    echo "measure or train, not $what" >&2
    exit 2
    ;;
esac
