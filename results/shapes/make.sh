#!/usr/bin/env bash
# Draws folders of textured shapes, trains a classifier for each size and one judge for all, and diagnoses the classifiers whole.
# Written for a GPU. On an H200 the diagnosis at 128 pixels took 141 s, before layers could wait; from relu3_2 on the judge predicted
# a tenth of the natural explanations right. It has not been run since, and no record is committed.
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

judged() { # the judge sees any image at 64 pixels
  drawn 128 1000
  interpretgan train --data "$here/128/images" --model examples.textured_shapes:make_judge --objective pgd --eps 4/255 \
    --inner-steps 3 --epochs 24 --batch-size 128 --lr 2e-3 --seed 1 --out "$here/judge"
}

diagnosed() { # SIDE IMAGES EXAMPLES
  drawn "$1" "$2"
  interpretgan train --data "$here/$1/images" --model vgg11 --width 0.25 --epochs 20 --batch-size 128 --lr 2e-3 \
    --out "$here/$1/classifier"
  interpretgan diagnose --data "$here/$1/images" --model vgg11 --width 0.25 \
    --weights "$here/$1/classifier/classifier.safetensors" --eps 4/255 --judge examples.textured_shapes:make_judge \
    --judge-weights "$here/judge/classifier.safetensors" --recognition-network robust --generator-steps 600 \
    --examples "$3" --out "$here/$1/diagnosis"
}

[ $# -gt 0 ] || set -- 128
judged
for side in "$@"; do
  if [ "$side" -le 128 ]; then diagnosed "$side" 1000 1000; else diagnosed "$side" 600 400; fi
done
