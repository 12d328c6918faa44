#!/usr/bin/env bash
# Trains a residual network and a transformer on CIFAR-10, and diagnoses them whole, their blocks split among their branches.
# Each wants at least 75 % of the natural test images right. The diagnosis of wrn-16-1 took 29 minutes on one of two busy cores.
# vit-small wants a GPU: on an H200 it took four minutes. Its weights (11 MB) are not committed.
#
#   DATA=DIR results/branches/make.sh          wrn-16-1
#   DATA=DIR results/branches/make.sh NAME     wrn-16-1 or vit-small
#
# What a folder of OUT (runs/branches) has already is not made again.
set -euo pipefail
export INTERPRETGAN_DATA=${DATA:?set DATA to the folder that holds cifar10/ as parquet}
here=${OUT:-runs/branches}

trained() { # MODEL [OPTION...]
  interpretgan train --data cifar10 --model "$1" --out "$here/$1/classifier" "${@:2}"
}

diagnosed() { # MODEL [OPTION...]
  interpretgan diagnose --data cifar10 --model "$1" --weights "$here/$1/classifier/classifier.safetensors" --eps 2/255 \
    --recognition-network vgg-small-avg-trades --judge-weights results/cifar10-vgg-small-max/judge.safetensors \
    --out "$here/$1/diagnosis" "${@:2}"
}

[ $# -gt 0 ] || set -- wrn-16-1
for model in "$@"; do
  case $model in
    wrn-16-1)
      trained wrn-16-1 --epochs 12
      diagnosed wrn-16-1 --examples 1000
      ;;
    vit-small)
      trained vit-small --epochs 60 --batch-size 512 --lr 1e-3 --weight-decay 0.05
      diagnosed vit-small --generator-steps 1200 --images-per-layer 12 --examples 1000
      ;;
    *) echo "expected wrn-16-1 or vit-small, got $model" >&2; exit 2 ;;
  esac
done
