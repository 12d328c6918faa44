#!/usr/bin/env bash
# Trains a transformer and a residual network on CIFAR-10, and diagnoses both whole, their blocks split among their branches.
# Each wants at least 75 % of the natural test images right. Not run yet: hours on CPU cores, a GPU is advised.
#
#   DATA=DIR results/branches/make.sh          both
#   DATA=DIR results/branches/make.sh NAME     vit-small or wrn-16-4
#
# What a folder of OUT (runs/branches) has already is not made again.
set -euo pipefail
export INTERPRETGAN_DATA=${DATA:?set DATA to the folder that holds cifar10/ as parquet}
here=${OUT:-runs/branches}

diagnosed() { # MODEL [OPTION OF TRAINING...]
  interpretgan train --data cifar10 --model "$1" --out "$here/$1/classifier" "${@:2}"
  interpretgan diagnose --data cifar10 --model "$1" --weights "$here/$1/classifier/classifier.safetensors" --eps 2/255 \
    --recognition-network vgg-small-avg-trades --generator-steps 1200 --out "$here/$1/diagnosis"
}

[ $# -gt 0 ] || set -- vit-small wrn-16-4
for model in "$@"; do
  case $model in
    vit-small) diagnosed vit-small --epochs 60 --lr 1e-3 --weight-decay 0.05 ;;
    wrn-16-4) diagnosed wrn-16-4 --epochs 20 ;;
    *) echo "expected vit-small or wrn-16-4, got $model" >&2; exit 2 ;;
  esac
done
