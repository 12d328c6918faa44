"""Inversion of a layer by a network that was trained to draw it, behind the interface of explainers.

Sources: Dosovitskiy and Brox 2016, Inverting visual representations with convolutional networks (arXiv 1506.02753), and
Generating images with perceptual similarity metrics based on deep networks (arXiv 1602.02644).
"""

import torch
from torch import Tensor

from interpretgan.baselines.explainers import Explainer, ExplainerError
from interpretgan.classifier import Classifier
from interpretgan.gan.train import GANConfig
from interpretgan.information.decoders import Decoders
from interpretgan.interpreter import InterpretGAN
from interpretgan.layers import Layer, capture

#: What makes an InterpretGAN a perceptual decoder: a discriminator, the error of features (latent consistency) and that
#: of pixels (by the energy score), without the information term.
PERCEPTUAL = GANConfig(information=0.0, diversity=100.0)


def inversion_by_decoder(decoders: Decoders | None) -> Explainer:
    """The mean image `E[x|z_l]` that fitted decoders draw of a layer's latent, as an `Explainer`.

    An `ExplainerError` where there are none, for another classifier, or a layer that the decoders do not have.
    """

    def explain(classifier: Classifier, layer: Layer, images: Tensor, _targets: Tensor) -> Tensor:
        if decoders is None:
            do = "explain in the folder of a diagnosis, made with --information-steps above 0"
            raise ExplainerError(expected="decoders that were trained for the network", got="none", do=do)
        own = _own(decoders, classifier, layer)
        return decoders.decode(own, capture(classifier, images, [own])[1][own.name])

    return Explainer(
        "inversion by a decoder", "the mean of the images with the latent of the layer", "arXiv 1506.02753", explain,
        "picture", signed=False, uses_layer=True, captum=False,
    )  # fmt: skip


def inversion_by_generator(interpreter: InterpretGAN) -> Explainer:
    """What a fitted generator draws of a layer's latent, as an `Explainer`; without information a perceptual decoder.

    The noise of an image follows from its place among the images, and the interpreter's seed. Errors as above.
    """

    def explain(classifier: Classifier, layer: Layer, images: Tensor, _targets: Tensor) -> Tensor:
        own = _own(interpreter, classifier, layer)
        noise = interpreter.noise_of(torch.arange(len(images)), seed=interpreter.seed)
        return interpreter.draw_from(own, capture(classifier, images, [own])[1][own.name], noise)

    name, source = "InterpretGAN", "arXiv 2007.08716"
    if not interpreter.resolved_config.information:
        name, source = "inversion by a perceptual decoder", "arXiv 1602.02644"
    return Explainer(
        name, "an image with the latent of the layer, like natural ones", source, explain,
        "picture", signed=False, uses_layer=True, captum=False,
    )  # fmt: skip


def _own(fitted: Decoders | InterpretGAN, classifier: Classifier, layer: Layer) -> Layer:
    """The layer that is drawn in place of this one, which may hold the same tensor."""
    names = [each.name for each in fitted.layers]
    if classifier is not fitted.classifier or layer.name not in names:
        expected, got = f"the classifier of the decoders, and one of {', '.join(names)}", f"'{layer.name}'"
        raise ExplainerError(expected=expected, got=got, do="fit decoders for it")
    return fitted.distinct_layers[fitted.rows[names.index(layer.name)]]
