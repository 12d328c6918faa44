#!/usr/bin/env bash
# Makes the pretrained classifiers again, and what stands beside them: training, packing, evaluation, card. Run folders go to
# OUT (runs/pretrained), weights and cards into the package: run it in a clone of its own, with interpretgan installed there.
#
#   DATA=DIR results/zoo/make.sh                all twelve; those of CIFAR-10 take hours on two CPU cores
#   DATA=DIR results/zoo/make.sh NAME...        some of them, or mnist-wide-pgd
#   DATA=DIR results/zoo/make.sh published      VGG-16 and WRN-28-10 on CIFAR-10 at the published size: needs a GPU
#
# What a folder has already is not made again. A training goes on where it was interrupted; an evaluation starts over.
# Two committed records had other settings: vgg-small-avg-trades is without AutoAttack (--attacks fgsm,pgd), and
# vgg-small-max-pgd had PGD with its default steps and restarts.
set -euo pipefail
export INTERPRETGAN_DATA=${DATA:?set DATA to the folder that holds mnist/ and cifar10/ as parquet}
here=${OUT:-runs/pretrained}

# train NAME DATA MODEL [OPTION...]
train() { interpretgan train --data "$2" --model "$3" --out "$here/$1" "${@:4}"; }

ship() { # NAME DATA EPS EXAMPLES [OPTION...]
  python -m tools.pack_zoo weights "$here/$1" "$1"
  interpretgan evaluate --data "$2" --model "$1" --weights pretrained --attacks fgsm,pgd,autoattack --eps "$3" \
    --examples "$4" --out "$here/$1/evaluation" "${@:5}"
  python -m tools.pack_zoo figures "$here/$1/evaluation" "$1"
}

lenet() { # POOL
  train "lenet5-$1" mnist lenet5 --pool "$1"
  ship "lenet5-$1" mnist 0.3 1000
}
lenet_robust() { # POOL OBJECTIVE
  train "lenet5-$1-$2" mnist lenet5 --pool "$1" --objective "$2" --eps 0.3 --inner-steps 7 --epochs 10
  ship "lenet5-$1-$2" mnist 0.3 1000
}
vgg() { # POOL
  train "vgg-small-$1" cifar10 vgg-small --pool "$1" --epochs 12
  ship "vgg-small-$1" cifar10 8/255 1000 --steps 20 --restarts 1 --curve-examples 200
}
vgg_robust() { # POOL OBJECTIVE EPOCHS EXAMPLES
  train "vgg-small-$1-$2" cifar10 vgg-small --pool "$1" --objective "$2" --eps 8/255 --inner-steps 2 \
    --step-size 6/255 --epochs "$3"
  ship "vgg-small-$1-$2" cifar10 8/255 "$4" --steps 20 --restarts 1 --curve-examples 200
}
mnist_wide() {
  train mnist-wide-pgd mnist mnist-wide --objective pgd --eps 0.3 --inner-steps 5 --epochs 8
  interpretgan evaluate --data mnist --model mnist-wide --weights "$here/mnist-wide-pgd/classifier.safetensors" \
    --attacks fgsm,pgd,autoattack --eps 0.3 --examples 500 --restarts 1 --curve-examples 200 \
    --out "$here/mnist-wide-pgd/evaluation"
}
published() { # Madry et al. 2018 and Rice et al. 2020: PGD-10, SGD, step schedule, best epoch kept
  local model
  for model in vgg16 wrn-28-10; do
    train "$model-pgd" cifar10 "$model" --objective pgd --eps 8/255 --inner-steps 10 --step-size 2/255 --epochs 110 \
      --optimizer sgd --lr 0.1 --schedule step --averaging 0 --validation 1000
    train "$model" cifar10 "$model" --epochs 200 --optimizer sgd --lr 0.1 --schedule step
    for name in "$model" "$model-pgd"; do
      interpretgan evaluate --data cifar10 --model "$model" --weights "$here/$name/classifier.safetensors" \
        --attacks fgsm,pgd,autoattack --eps 8/255 --examples 10000 --out "$here/$name/evaluation"
    done
  done
}

make_one() {
  case $1 in
    lenet5-max) lenet max ;; lenet5-avg) lenet avg ;;
    lenet5-*-*) lenet_robust "$(cut -d- -f2 <<<"$1")" "$(cut -d- -f3 <<<"$1")" ;;
    vgg-small-max) vgg max ;; vgg-small-avg) vgg avg ;;
    vgg-small-max-pgd) vgg_robust max pgd 10 500 ;; vgg-small-avg-pgd) vgg_robust avg pgd 24 1000 ;;
    vgg-small-max-trades) vgg_robust max trades 8 500 ;; vgg-small-avg-trades) vgg_robust avg trades 8 1000 ;;
    mnist-wide-pgd) mnist_wide ;;
    published) published ;;
    *) echo "no such classifier: $1" >&2; exit 2 ;;
  esac
}

if [ $# -eq 0 ]; then
  set -- {lenet5,vgg-small}-{max,avg}{,-pgd,-trades}
fi
for name in "$@"; do make_one "$name"; done
