"""What a user can choose: typed, in groups as the command line shows them, with each default, checked on its own."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from interpretgan.errors import ConfigError
from interpretgan.pipeline.numbers import CheckedOptions, Number, Numbers, Seconds, Size, parse_names

if TYPE_CHECKING:
    from interpretgan.attacks import ThreatModel
    from interpretgan.data import ImageSet
    from interpretgan.gan.train import GANConfig
    from interpretgan.information import InformationConfig
    from interpretgan.training import Objective, Recipe


Norm = Literal["linf", "l2"]


@Parameter(name="*", group="Data")
@dataclass(frozen=True)
class DataOptions:
    """Which images."""

    data: str = "digits"
    """digits (embedded), mnist, cifar10, or the path of a folder of images, one subfolder a class."""
    data_dir: Annotated[Path | None, Parameter(env_var="INTERPRETGAN_DATA")] = None
    """Where mnist/ and cifar10/ lie as parquet. Without it they come from the public hub (extra 'hub')."""
    image_size: Size = None
    """Pixels a side that the images are brought to, or height and width as 96x128 [default: as they are, all of one
    size]."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for RGB [default: RGB where any image has colour]."""
    classes: str | None = None
    """The classes of a folder in the order of the network's logits: a,b,c or a file with one a line [default: by name,
    whole numbers by size]."""


@Parameter(name="*", group="Classifier")
@dataclass(frozen=True)
class ModelOptions(CheckedOptions):
    """Which classifier."""

    model: str = "lenet5"
    """An architecture or a pretrained classifier that `interpretgan models` lists; your own as package.module:factory,
    a function that returns the module; a public one as hf:OWNER/NAME, timm:NAME or torchvision:NAME; or a .pt2 file."""
    pool: Literal["max", "avg", "stride", "blur"] | None = None
    """Pooling of an architecture [default: the one that it was published with]."""
    width: Number | None = None
    """Multiplies the channels of an architecture [default: 1]."""
    weights: Literal["pretrained"] | Path | None = None
    """Its weights: a file, .safetensors or a state dict in .pt, or the word pretrained, for those that come with the
    model [default: it is trained]."""
    pretrained: Annotated[bool, Parameter(negative="")] = False
    """The same as --weights pretrained, for a model of your own."""
    mean: Numbers = None
    """Mean per channel that the model wants subtracted, for pixels in [0, 1]: a,b,c."""
    std: Numbers = None
    """Deviation per channel that the model wants divided by: a,b,c."""
    epochs: int | None = None
    """Passes over the training images, where the classifier is trained [default: by the size of the data]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained and (self.file is not None or not self.external):
            got = f"model {self.model}" + (f" with weights {self.weights}" if self.weights else "")
            do = "name the model as package.module:factory, or say --weights pretrained for one of this package"
            raise ConfigError(expected="--pretrained with a factory of your own and no weights", got=got, do=do)
        if (self.pool is not None or self.width is not None) and self.named:
            expected, do = f"{self.model} as it was trained", "leave --pool and --width out"
            raise ConfigError(expected=expected, got="a pooling or a width", do=do)
        if self.shipped and (self.mean is not None or self.std is not None):
            expected = f"{self.model} with the normalisation that it was trained with"
            raise ConfigError(expected=expected, got="--mean or --std", do="leave them out")
        if self.epochs is not None and self.given:
            raise ConfigError(expected="weights or epochs of a classifier", got="both", do="leave --epochs out")

    @property
    def external(self) -> bool:
        """Whether the model is none of this package's architectures."""
        return ":" in self.model or self.named

    @property
    def named(self) -> bool:
        """Whether the model comes with its weights by name, from a hub, a folder or a file."""
        from interpretgan.models import is_named

        return is_named(self.model)

    @property
    def given(self) -> bool:
        """Whether there are weights, so that nothing is trained."""
        return self.pretrained or self.weights is not None or self.named

    @property
    def shipped(self) -> bool:
        """Whether the weights are those inside this package."""
        return self.weights == "pretrained" and not self.external

    @property
    def as_returned(self) -> bool:
        """Whether the weights are those that the user's factory returns."""
        return self.external and self.given and self.file is None

    @property
    def file(self) -> Path | None:
        """The file of weights, if they are in one of the user's."""
        return self.weights if isinstance(self.weights, Path) else None


@Parameter(name="*", group="Training")
@dataclass(frozen=True)
class TrainingOptions:
    """How the classifier is trained."""

    objective: Literal["natural", "fast", "pgd", "trades"] = "natural"
    """What for: accuracy on natural images, or robustness: fast (one gradient step), pgd, trades."""
    eps: Number | None = None
    """Largest perturbation to be robust against, for pixels in [0, 1]; fractions like 8/255 are fine."""
    norm: Norm = "linf"
    """How the size of a perturbation is measured."""
    inner_steps: int | None = None
    """Steps of the attack inside the training [default: 7 for pgd, 10 for trades]."""
    step_size: Number | None = None
    """Length of such a step [default: by eps and the number of steps]."""
    beta: Number | None = None
    """How much trades values robustness over natural accuracy [default: 6]."""
    batch_size: int | None = None
    """Images per step [default: by the size of the data]."""
    lr: Number | None = None
    """Highest learning rate [default: by the data and the objective, as for all settings below]."""
    weight_decay: Number | None = None
    """Decay of the weights."""
    optimizer: Literal["adamw", "sgd"] | None = None
    """What takes the steps; sgd has momentum 0.9."""
    schedule: Literal["one-cycle", "step"] | None = None
    """How the learning rate changes: up and down once, or down in steps."""
    augmentation: Literal["none", "shift", "shift-flip"] | None = None
    """Random changes of the training images: shifts, and mirror images."""
    averaging: Number | None = None
    """Decay of the running mean of the weights that is kept in their place, e.g. 0.995; 0 keeps the weights."""
    validation: int | None = None
    """Training images held out to choose the best epoch on; 0 keeps the last."""

    def build(self) -> Objective:
        """The checked objective."""
        from interpretgan.training import build_objective

        return build_objective(
            self.objective,
            eps=self.eps,
            norm=self.norm,
            steps=self.inner_steps,
            step_size=self.step_size,
            beta=self.beta,
        )

    def recipe(self, data: ImageSet, epochs: int | None = None) -> Recipe:
        """The recipe that suits the data and the objective, with what was chosen in place of its defaults."""
        from interpretgan.training import default_recipe

        recipe = default_recipe(data, self.objective)
        chosen = {item.name: getattr(self, item.name, None) for item in fields(recipe)} | {"epochs": epochs}
        recipe = replace(recipe, **{name: value for name, value in chosen.items() if value is not None})
        if recipe.validation >= len(data):
            expected = f"at most {len(data) - 1} of the {len(data)} training images held out"
            raise ConfigError(expected=expected, got=str(recipe.validation), do="hold out fewer with --validation")
        return recipe


@dataclass(frozen=True)
class AdversaryOptions(CheckedOptions):
    """How large perturbations are, and how long PGD looks for them: of an attack and of an evaluation."""

    norm: Norm = "linf"
    """How the size of a perturbation is measured."""
    eps: Number | None = None
    """Largest perturbation, for pixels in [0, 1], e.g. 8/255 [default: in linf on digits and mnist 0.2, on cifar10
    8/255]."""
    steps: int = 20
    """Steps of PGD."""
    restarts: int = 1
    """Random starts, of which the worst case per example counts."""
    step_size: Number | None = None
    """Length of a step [default: eps/4 with ten steps or more]."""

    def threat_model(self, data: str) -> ThreatModel:
        """The checked threat model, on this data."""
        from interpretgan.attacks import ThreatModel, usual_eps

        eps = usual_eps(data, self.norm) if self.eps is None else self.eps
        return ThreatModel(self.norm, eps, "pgd", self.steps, self.restarts, self.step_size)


@Parameter(name="*", group="Attack")
@dataclass(frozen=True)
class AttackOptions(AdversaryOptions):
    """The threat model."""

    attack: Literal["fgsm", "pgd"] = "pgd"
    """How the adversary searches."""
    adversarial: Path | None = None
    """Adversarial images made elsewhere, in the order of the test images: .npy, .npz or .safetensors of floats [N, C,
    H, W] [default: they are made here]."""

    def threat_model(self, data: str) -> ThreatModel:
        """The checked threat model, on this data; FGSM takes one step."""
        found = super().threat_model(data)
        return found if self.attack == "pgd" else replace(found, attack=self.attack, steps=1)


@Parameter(name="*", group="Judge")
@dataclass(frozen=True)
class JudgeOptions(CheckedOptions):
    """Who predicts the class that an explanation shows."""

    judge: str = "judge"
    """Its architecture: another one than the classifier's; or a trained model of the same classes by its name:
    hf:NAME, timm:NAME, torchvision:NAME or a .pt2 file."""
    judge_weights: Path | None = None
    """Its weights [default: it is trained against the threat model]."""
    judge_epochs: int | None = None
    """Passes over the training images, where it is trained [default: by the size of the data]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge_epochs is not None and self.comes_trained:
            raise ConfigError(expected="weights or epochs of a judge", got="both", do="leave --judge-epochs out")

    @property
    def comes_trained(self) -> bool:
        """Whether it has its weights, so that none is trained."""
        from interpretgan.models import is_named

        return self.judge_weights is not None or is_named(self.judge)


@Parameter(name="*", group="InterpretGAN")
@dataclass(frozen=True)
class GeneratorOptions(CheckedOptions):
    """How the generator is trained."""

    layers: str | None = None
    """Layers to explain, a,b,c, as `interpretgan layers` names them; patterns like 'blocks.*'; or blocks, activations
    or all [default: all up to 15, of more that many, chosen by depth]."""
    generator_steps: int | None = None
    """Training steps [default: 300, where images have colour 1200]."""
    generator_seeds: int = 1
    """Generators to train; with five or more, the intervals cover their training."""
    images_per_layer: int = 8
    """Images per layer and step."""
    recognition_network: str | None = None
    """What classifies explanations in that training: a robust classifier of `interpretgan models`, a file with weights
    of the judge's architecture, or robust, which trains one [default: the classifier itself]. Photographs need it."""
    information: float = 3.0
    """Weight of the mutual information term."""
    latent: float | None = None
    """Weight of latent consistency; 0 is the plain method [default: 10, with a recognition network 2]."""
    image_noise: float | None = None
    """Largest random noise in the images of that training, as a share of the range of pixels: explanations then leave
    out what the network makes nothing of. 0 is the plain method [default: 0.3 on grey images, unless it changes more
    than a tenth of the predictions; on others 0]."""
    diversity: float = 0.0
    """Weight of the energy score: explanations of a latent then differ by what it leaves open. Try 50 and five times
    the steps; 0 is the plain method."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the training; auto takes bf16 where the processor is fast at it."""

    def config(self, channels: int) -> GANConfig:
        """The checked settings of the training on images of so many channels."""
        from interpretgan.gan.train import GANConfig

        config = GANConfig(
            steps=self.generator_steps, precision=self.precision, images_per_layer=self.images_per_layer,
            information=self.information, latent=self.latent, image_noise=self.image_noise,
            diversity=self.diversity,
        )  # fmt: skip
        return config.resolved(self.recognition_network is not None, channels)

    @property
    def recognition_file(self) -> Path | None:
        """The file of the recognition network, if it is one, which has a suffix or a folder; names have neither."""
        file = Path(self.recognition_network or "")
        return file if file.suffix or len(file.parts) > 1 else None

    def names(self) -> list[str] | None:
        """The chosen layers, or `None` for all."""
        if self.layers is None:
            return None
        if not (names := parse_names(self.layers)):
            raise ConfigError(expected="names of layers a,b,c", got=f"'{self.layers}'", do="leave --layers out for all")
        return names


@Parameter(name="*", group="Information")
@dataclass(frozen=True)
class InformationOptions(CheckedOptions):
    """How the information at each layer is measured."""

    information_steps: int = 250
    """Training steps of the decoders and probes that measure the information loss of each layer; 0 leaves that out."""

    def config(self, precision: str) -> InformationConfig | None:
        """The checked settings of the training, in the generator's precision; `None` where information is left out."""
        from interpretgan.information import InformationConfig

        return InformationConfig(steps=self.information_steps, precision=precision) if self.information_steps else None


@Parameter(name="*", group="Diagnosis")
@dataclass(frozen=True)
class DiagnosisOptions(CheckedOptions):
    """How many images are attacked, and how sure the intervals are."""

    examples: int = 2000
    """Test images that are attacked and explained, from the first."""
    let_in_steps: int = 60
    """Training steps that mend a layer, or two, to see where the perturbation is let in; 0 leaves that out."""
    branches: bool = True
    """Split each block's vulnerability among its branches: skip and residual, attention and MLP."""
    groups: str | None = None
    """Split layers or branches among equal groups of channels or heads: relu3=4, blocks.3.attention=heads."""
    bootstrap: int = 2000
    """Bootstrap replicates behind each interval."""
    confidence: float = 0.95
    """Level of the intervals."""
    time_budget: Seconds = None
    """Time that all may take, e.g. 90s, 3m, 1h30m, or a number of seconds: fewer steps and examples are taken where
    needed, and said so."""
    baselines: Annotated[bool, Parameter(negative="")] = False
    """Also measure other scores of the layers, in print or for control, and put them beside the vulnerability."""


@Parameter(name="*", group="Evaluation")
@dataclass(frozen=True)
class EvaluationOptions(AdversaryOptions):
    """Which attacks, how large, on how many images."""

    attacks: str = "fgsm,pgd,autoattack"
    """Attacks with commas between, of fgsm, pgd, cw, deepfool and autoattack."""
    steps: int = 40
    """Steps of PGD, and of CW in linf."""
    restarts: int = 5
    """Their random starts, of which the worst case per example counts."""
    examples: int = 1000
    """Test images that are attacked, from the first."""
    curve_examples: int = 500
    """How many of these the curves over eps and over steps are drawn from."""
    confidence: float = 0.95
    """Level of the intervals."""

    def names(self) -> tuple[str, ...]:
        """The checked names of the attacks."""
        from interpretgan.attacks.named_attacks import check_names

        return check_names(parse_names(self.attacks))


@Parameter(name="*", group="Run")
@dataclass(frozen=True)
class RunOptions:
    """Where and how the run happens."""

    out: Path | None = None
    """Folder of the run; what it has, made with the same settings, is not made again [default: runs/COMMAND
    of commands that make one]."""
    seed: int = 0
    """Of everything random. The same seed gives the same run on the same machine."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, or cuda[:k]."""
    devices: int = 1
    """How many devices share the training of the generator: --device and the GPUs after it."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise ConfigError(expected="0 <= seed < 2^31", got=str(self.seed), do="choose another seed")
