"""Inversion of a layer by a decoder: what the trained decoders of information draw, behind the interface of explainers.

Source: Dosovitskiy and Brox 2016, Inverting visual representations with convolutional networks (arXiv 1506.02753).
"""

from torch import Tensor

from interpretgan.baselines.explainers import Explainer, ExplainerError
from interpretgan.classifier import Classifier
from interpretgan.information.decoders import Decoders
from interpretgan.layers import Layer, capture


def inversion_by_decoder(decoders: Decoders | None) -> Explainer:
    """The mean image `E[x|z_l]` that fitted decoders draw of a layer's latent, as an `Explainer`.

    An `ExplainerError` where there are none, for another classifier, or a layer that the decoders do not have.
    """

    def explain(classifier: Classifier, layer: Layer, images: Tensor, _targets: Tensor) -> Tensor:
        if decoders is None:
            do = "run `interpretgan diagnose` in this folder first, or explain in the folder of a diagnosis"
            raise ExplainerError(expected="decoders that were trained for the network", got="none", do=do)
        names = [each.name for each in decoders.layers]
        if classifier is not decoders.classifier or layer.name not in names:
            expected, got = f"the classifier of the decoders, and one of {', '.join(names)}", f"'{layer.name}'"
            raise ExplainerError(expected=expected, got=got, do="fit decoders for it")
        own = decoders.distinct_layers[decoders.rows[names.index(layer.name)]]
        return decoders.decode(own, capture(classifier, images, [own])[1][own.name])

    return Explainer(
        "inversion by a decoder", "the mean of the images with the latent of the layer", "arXiv 1506.02753", explain,
        "picture", signed=False, uses_layer=True, captum=False,
    )  # fmt: skip
