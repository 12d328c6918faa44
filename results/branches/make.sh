#!/usr/bin/env bash
# Trains a residual network and a transformer on CIFAR-10, and diagnoses them whole, their blocks split among their branches.
# Each wants at least 75 % of the natural test images right. wrn-16-1 is committed: 1 h on one busy core in all. The
# transformer was not trained yet: it needs more than an hour of a core to itself.
#
#   DATA=DIR results/branches/make.sh          wrn-16-1
#   DATA=DIR results/branches/make.sh NAME     wrn-16-1 or vit-small
#
# What a folder of OUT (runs/branches) has already is not made again.
set -euo pipefail
export INTERPRETGAN_DATA=${DATA:?set DATA to the folder that holds cifar10/ as parquet}
here=${OUT:-runs/branches}

diagnosed() { # MODEL [OPTION OF TRAINING...]
  interpretgan train --data cifar10 --model "$1" --out "$here/$1/classifier" "${@:2}"
  interpretgan diagnose --data cifar10 --model "$1" --weights "$here/$1/classifier/classifier.safetensors" --eps 2/255 \
    --recognition-network vgg-small-avg-trades --judge-weights results/cifar10-vgg-small-max/judge.safetensors \
    --examples 1000 --out "$here/$1/diagnosis"
}

[ $# -gt 0 ] || set -- wrn-16-1
for model in "$@"; do
  case $model in
    wrn-16-1) diagnosed wrn-16-1 --epochs 12 ;;
    vit-small) diagnosed vit-small --epochs 60 --lr 1e-3 --weight-decay 0.05 ;;
    *) echo "expected wrn-16-1 or vit-small, got $model" >&2; exit 2 ;;
  esac
done
