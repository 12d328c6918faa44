#!/usr/bin/env bash
# Draws folders of textured shapes, trains a ResNet-18 of a quarter's width for each size, and one judge and one recognition
# network for all, and diagnoses the classifiers whole. On two cores a judge takes half an hour, a classifier of 128 pixels
# eight minutes, its diagnosis 35. Larger images want a GPU, and were not tried.
#
#   results/shapes/make.sh             images of 128 pixels a side
#   results/shapes/make.sh 128 224     of these sizes
#
# What a folder of OUT (runs/shapes) has already is not made again.
set -euo pipefail
here=${OUT:-runs/shapes}

drawn() { # SIDE IMAGES
  [ -d "$here/$1/images" ] || python -m examples.textured_shapes "$here/$1/images" --side "$1" --train "$2" --test 100
}

judged() { # NAME SEED: it sees any image at 64 pixels
  drawn 128 1000
  interpretgan train --data "$here/128/images" --model examples.textured_shapes:make_judge --objective fast --eps 4/255 \
    --epochs 12 --batch-size 128 --lr 2e-3 --seed "$2" --out "$here/$1"
}

diagnosed() { # SIDE IMAGES EXAMPLES
  drawn "$1" "$2"
  interpretgan train --data "$here/$1/images" --model examples.textured_shapes:make_resnet --epochs 14 --batch-size 128 \
    --lr 2e-3 --out "$here/$1/classifier"
  interpretgan diagnose --data "$here/$1/images" --model examples.textured_shapes:make_resnet \
    --weights "$here/$1/classifier/classifier.safetensors" --eps 4/255 --judge examples.textured_shapes:make_judge \
    --judge-weights "$here/judge/classifier.safetensors" \
    --recognition-network "$here/recognition/classifier.safetensors" --generator-steps 1300 --information-steps 100 \
    --examples "$3" --out "$here/$1/diagnosis"
}

[ $# -gt 0 ] || set -- 128
judged judge 1
judged recognition 2
for side in "$@"; do
  if [ "$side" -le 128 ]; then diagnosed "$side" 1000 600; else diagnosed "$side" 600 400; fi
done
