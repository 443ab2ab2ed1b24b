#!/usr/bin/env bash
# Everything that a new GPU should do, in under 10 minutes and in order of worth:
#
#     benchmarks/gpu.sh [-toy] [-data DIR] [-output DIR]
#
# Each step has its own time limit, and a step that fails or takes too long does not stop the next one. The output folder
# (default: output/gpu) gets what each step printed and wrote, then results.json and results.md. The last step trains
# EDSR-baseline-MSIT in what time is left, on the images in -data (DIV2K or bsds400), else on images made for the purpose; the
# same command continues it. -toy runs every step on the CPU at a small size.
set -u
python=$(command -v "${PYTHON:-python}")
total=590 toy='' data=data output=output/gpu began=$SECONDS
while [ $# -gt 0 ]; do
    case $1 in
        -toy | --toy) toy=yes; shift ;;
        -data | --data | -output | --output)
            [ $# -gt 1 ] || { echo "error: $1: expected a folder after it" >&2; exit 2; }
            name=${1##*-}
            printf -v "$name" %s "$2"
            shift 2 ;;
        *) echo "error: $1: no such option, expected -toy, -data DIR or -output DIR" >&2; exit 2 ;;
    esac
done
data=$(realpath -m "$data") output=$(realpath -m "$output")
cd "$(dirname "$0")/.." || exit 1
mkdir -p "$output" || exit 1
rm -f "$output"/*.json "$output"/*.log "$output/steps.tsv"

step() {  # NAME SECONDS COMMAND…: runs the command within so many seconds; SIGTERM lets a training save
    local name=$1 limit=$2 started=$SECONDS status
    shift 2
    echo "$name, at most $limit s"
    timeout --preserve-status -k 20 "$limit" "$@" > "$output/$name.log" 2>&1
    status=$?
    printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - started)) >> "$output/steps.tsv"
    [ $status = 0 ] || echo "  ended with status $status: $(tail -n 1 "$output/$name.log")"
}
bench() {  # NAME SECONDS MODULE OPTIONS…: a benchmark that writes NAME.json
    step "$1" "$2" "$python" -m "benchmarks.$3" -output "$output/$1.json" -device "$device" "${@:4}"
}

device=cuda batch=32 cases='96x2 96x4 256x2 256x4' repeats=5 precisions='float32 bfloat16' kernels=() run=()
config=$PWD/configs/train/train_edsr_baseline_MsIT.yaml fast=$PWD/configs/train/train_edsr_baseline_MsIT_fast.yaml
if [ -n "$toy" ]; then
    device=cpu batch=1 cases=6x2 repeats=1 precisions=float32 kernels=(-channels 8)
    config=$output/toy.yaml fast=$output/toy.yaml
    "$python" train.py -config configs/train/train_msit_s.yaml -print-config -set model.args.base_dim=16 model.args.heads=2 \
        model.args.msc_convs=2 'model.args.imnet_spec.args.hidden_list=[16]' train_dataset.wrapper.args.inp_size=8 \
        train_dataset.wrapper.args.sample_q=16 model.args.encoder_spec.args.n_resblocks=1 > "$config" || exit 1
    run=(train_dataset.batch_size=1 train_dataset.epoch_batches=2 epoch_max=1)
fi

step tests 120 "$python" -m pytest -q -n0 -p no:cacheprovider tests/test_fused_cuda.py tests/test_waiting.py
bench kernels 40 kernels -batch "$batch" -repeats "$repeats" "${kernels[@]}"
# shellcheck disable=SC2086
bench steps 110 steps -config "$config" -batch "$batch" -repeats "$repeats" -precisions $precisions
for precision in $precisions; do
    # shellcheck disable=SC2086
    bench "upscale_$precision" 75 queries -config "$config" -batch 0 -repeats "$repeats" -cases $cases -precision "$precision"
done

images=DIV2K/DIV2K_train_HR
[ -d "$data/$images" ] || images=bsds400/HR
if [ -n "$toy" ] || ! [ -d "$data/$images" ]; then
    data=$output images=images
    [ -d "$output/images" ] || step images 30 "$python" -c "import sys; from pathlib import Path; from benchmarks.data import \
make_images; make_images(Path(sys.argv[1]), 4, 256, 256)" "$output/images"
fi
left=$((total - (SECONDS - began) - 40))  # 20 s to save, 20 s for the report
root=$PWD
cd "$output" && step training $((left > 20 ? left : 20)) "$python" "$root/train.py" -config "$fast" -name gpu -resume auto \
    -data "$data" -device "$device" -set val_dataset=null "train_dataset.dataset.args.root_path=$images" \
    train_dataset.dataset.args.cache=in_memory train_dataset.num_workers=4 "${run[@]}"
cd "$root" && "$python" -m benchmarks.gpu "$output"
