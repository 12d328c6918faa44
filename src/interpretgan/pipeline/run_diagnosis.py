"""The whole job in one run folder: what is there is used, what is missing is made, and each step says so.

`run_diagnosis` is what `interpretgan diagnose` does, for a notebook; `Run` is what both go through.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel
from interpretgan.baselines.layer_scores import LAYER_SCORES, MeasuredScore, ScoreInputs, measure_scores
from interpretgan.classifier import Classifier, require_classifier
from interpretgan.data import ImageData, as_image_sets
from interpretgan.diagnosis.diagnose import diagnose
from interpretgan.diagnosis.let_in import LET_IN_UNKNOWN, LetIn, let_in, mending_images, most_examples
from interpretgan.diagnosis.predictions import Predictions, attacker, batch_size
from interpretgan.diagnosis.realism import LEAST, Realism, independent_network, measure_realism
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import ConfigError, ModelError, kind_of
from interpretgan.features.findings import Findings, look_closely
from interpretgan.information import Measurement
from interpretgan.interpreter import Explanation
from interpretgan.judge import Judge
from interpretgan.layers import distinct
from interpretgan.pipeline.attacked import Attacked
from interpretgan.pipeline.chosen_images import ChosenImages
from interpretgan.pipeline.inputs import Inputs
from interpretgan.pipeline.networks import Say
from interpretgan.pipeline.settings import DIAGNOSE, DiagnosisKeywords, Settings
from interpretgan.report import redraw_report, save_explanation
from interpretgan.report.gallery import Gallery, telling, varied
from interpretgan.robustness.attack_checks import require_threat_model
from interpretgan.store.files import read_arrays, write_arrays
from interpretgan.store.machine import peak_memory_mib
from interpretgan.store.progress import OnProgress
from interpretgan.torch_state import plain_torch

EXAMPLES = 6  # in the report's explanation grid
COMPARED = 500  # images, at most, that baselines are measured on


@plain_torch()
def run_diagnosis(
    classifier: Classifier,
    train: ImageData,
    test: ImageData,
    threat_model: ThreatModel,
    *,
    out: str | Path | None = None,
    judge: Judge | str | None = None,
    adversarial: Tensor | str | Path | None = None,
    say: Say | None = None,
    on_progress: OnProgress | bool = True,
    **options: Unpack[DiagnosisKeywords],
) -> Diagnosis:
    """Diagnose a trained classifier: what `interpretgan diagnose` does, for a notebook.

    Trains a judge, the generator and the decoders, attacks the test images, and splits the loss of accuracy among the
    layers. The same inputs give the same numbers here and on the command line.

    Args:
        classifier: The classifier; it comes back untouched.
        train: Training images with their classes: an `ImageSet`, a `torch.utils.data.Dataset` of (image, label), or a
            pair of tensors (images `[N, C, H, W]` within the classifier's bounds, int64 labels `[N]`).
        test: Held-out images, likewise.
        threat_model: The attack.
        out: Folder that keeps the networks, the diagnosis and its report; the same call goes on where it was
            interrupted. `None`: nothing is written.
        judge: A trained judge, or the architecture of one that is trained. `None`: the default architecture.
        adversarial: Adversarial images that were made elsewhere, `[N, C, H, W]` in the order of the test images, or
            their file (see `read_images`); they are held to the threat model. `None`: they are made here.
        say: Told in a line what happens. `None`: it is printed to stderr.
        on_progress: Told how far it is, see `interpretgan.store.progress.OnProgress`. `True`: shown on stderr.
        **options: Options of `interpretgan diagnose`, e.g. `layers`, `generator_steps`, `generator_seeds`, `examples`,
            `seed`; see `DiagnosisKeywords`.

    Returns:
        The diagnosis.

    Raises:
        InterpretGANError: An input or an option is not as it should be; the message says what to do.
    """
    require_classifier(classifier)
    require_threat_model(threat_model)
    given: object = judge  # whatever a caller without type checks hands in
    if not isinstance(given, Judge | str | None):
        do = "make one with train_judge"
        raise ConfigError(expected="a Judge, or the name of its architecture", got=kind_of(judge), do=do)
    settings = Settings.of(**options, **({"judge": judge} if isinstance(judge, str) else {}))
    train_images, test_images = as_image_sets(train, test, bounds=classifier.bounds)
    inputs = Inputs(
        settings,
        classifier=classifier,
        train=train_images,
        test=test_images,
        threat_model=threat_model,
        judge=judge if isinstance(judge, Judge) else None,
        adversarial=adversarial,
    )
    with Run(inputs, DIAGNOSE, None if out is None else Path(out), say, on_progress) as run:
        diagnosis = run.diagnosis()
        if out is not None:
            run.report(diagnosis)
    return diagnosis


class Run(Attacked):
    """One run of the tool: its networks, and the results that rest on them, each kept in the run folder.

    Arguments as of `Networks`.
    """

    # --- diagnosis and report --------------------------------------------------------------------------------

    def diagnosis(self) -> Diagnosis:
        """The diagnosis; made, or read if this folder has it. Writes `predictions.npz`, then `diagnosis.json`.

        Where baselines are wanted and a diagnosis that is read has none, they are measured and added to it.
        """
        options = self.settings.diagnosis
        if self.folder is not None and (file := self.path("diagnosis.json")).exists():
            known = Diagnosis.load(file)
            if not options.baselines or known.baselines:
                return known
            known = replace(known, baselines=self._baselines(known))
            known.save(file)
            return known
        before, began, count = sum(self.seconds.values()), time.perf_counter(), self.examples
        self.tell_price()
        info, judge, interpreters = self.classifier_info(), self.judge, self.interpreters
        information, unknown = self._information(), [*self.flags]
        try:
            let_in = self._let_in()
        except ModelError as error:  # the other question is answered all the same
            self.say(f"mending is left out: {error}")
            let_in = None
            unknown.append(LET_IN_UNKNOWN(reason=f"{error.expected}, got {error.got}"))
        realism = self._realism()
        self.say(f"explaining {count} images, natural, adversarial and of controls, at {len(self.layers)} layers")
        with self.job.stage("diagnosis") as report:
            result = diagnose(
                interpreters, judge, self.inputs.test, threat_model=self.inputs.threat_model, examples=count,
                seed=self.seed, bootstrap=options.bootstrap, confidence=options.confidence,
                adversarial=None if self.inputs.adversarial is None else self.perturb, classifier_info=info,
                information=information, let_in=let_in, realism=realism, blocks=self.blocks, on_progress=report,
                on_predictions=self._keep_predictions,
            )  # fmt: skip
        if options.baselines:
            result = replace(result, baselines=self._baselines(result))
        self.seconds["total"] = time.perf_counter() - began + before
        measured = {"layers": self.layers_record(), "seconds": dict(self.seconds), "peak_memory_mib": peak_memory_mib()}
        if self.inputs.time_budget is not None:
            measured["time_budget"] = self.inputs.time_budget
        flags = (*result.flags, *unknown)
        result = replace(result, flags=flags, provenance={**result.provenance, **measured})
        if self.folder is not None:
            result.save(self.path("diagnosis.json"))
        return result

    def _information(self) -> Measurement | None:
        """What each layer still holds of the first test images and of their classes; writes `information.npz`."""
        if self.decoders is None:
            return None
        with self.job.stage("information") as report:
            found = self.decoders.measure(self.inputs.test, examples=self.examples, on_progress=report)
        if self.folder is not None:
            arrays = {name: value for name, value in vars(found).items() if isinstance(value, np.ndarray)}
            layers = np.array(["image", *found.layers])
            write_arrays(self.path("information.npz"), {"layers": layers, **arrays})
        return found

    def _baselines(self, result: Diagnosis) -> tuple[MeasuredScore, ...]:
        """Other scores of the layers, on the first test images, which are attacked as for the diagnosis."""
        layers, rows = distinct(self.layers)
        count = min(COMPARED, self.examples)
        losses = {row.name: row.information_loss.value for row in result.layers if row.information_loss is not None}
        self.say(f"measuring {len(LAYER_SCORES)} other scores of {len(layers)} layers on {count} images")
        with self.job.stage("baselines"):
            images, labels, adversarial = self.attacked(count)
            inputs = ScoreInputs(
                self.classifier, layers, images, labels, adversarial=adversarial, train=self.inputs.train,
                threat_model=self.inputs.threat_model, seed=self.seed,
                information=np.array([losses[layer.name] for layer in layers]) if losses else None,
            )  # fmt: skip
            scores = measure_scores(LAYER_SCORES, inputs, say=self.say)
        # Layers of one tensor share its score.
        shared = (tuple(score.values[row] for row in rows if score.values) for score in scores)
        return tuple(replace(score, values=values) for score, values in zip(scores, shared, strict=True))

    def _let_in(self) -> LetIn | None:
        """Where the perturbation is let in, on the first of the test images."""
        options, inputs = self.settings.diagnosis, self.inputs
        if not options.let_in_steps:
            return None
        images, labels, adversarial = self.attacked(most_examples(inputs.test.shape))
        natural = mending_images(inputs.train, self.classifier.bounds, seed=self.seed)
        layers, _ = distinct(self.layers)
        with self.job.stage("let in") as report:
            return let_in(
                self.classifier, layers, images, labels, adversarial,
                natural=natural, threat_model=inputs.threat_model, seed=self.seed, steps=options.let_in_steps,
                bootstrap=options.bootstrap, confidence=options.confidence, on_progress=report,
            )  # fmt: skip

    def _realism(self) -> Realism | None:
        """How real explanations look to a network that took no part, where the package has one of these data."""
        if self.examples < 2 * LEAST:
            return None
        networks = (self.classifier, self.judge.classifier, self.recognition_network)
        found = independent_network(self.inputs.train, networks)
        if found is None:
            return None
        with self.job.stage("realism"):
            name, network = found
            return measure_realism(
                self.interpreters[0], self.inputs.test, network,
                name=name, examples=self.examples, seed=self.seed, confidence=self.settings.diagnosis.confidence,
            )  # fmt: skip

    def _keep_predictions(self, predictions: list[Predictions]) -> None:
        """All predictions, class numbers per layer and image, so that other statistics need no new attack."""
        if self.folder is None:
            return
        layers = np.array(["image", *(layer.name for layer in self.layers)])
        shown = [
            {"natural": p.natural, "adversarial": p.adversarial, **p.controls}
            | {f"branches {layer}": patched for layer, patched in p.branches.items()}
            for p in predictions
        ]
        model = np.stack(list(predictions[0].model.values()))
        arrays = {"labels": predictions[0].labels, "layers": layers, "model": model, **shown[0]}
        if len(predictions) > 1:
            arrays |= {f"{name}_all": np.stack([each[name] for each in shown]) for name in shown[0]}
        write_arrays(self.path("predictions.npz"), arrays)

    def report(self, result: Diagnosis) -> Path:
        """Write report.html and its figures."""
        file = self.path("explanations.npz")
        if not file.exists():
            save_explanation(file, self.telling_explanation(self.path("gallery.npz")))
        return redraw_report(result, file.parent)

    # --- explanations ----------------------------------------------------------------------------------------

    def findings(self, chosen: ChosenImages) -> Findings:
        """Attack the chosen images, test images as in the diagnosis, and look closely at what that modified."""
        (images, labels), indices = chosen.load(self.inputs), chosen.indices
        towards = chosen.unseen(self.inputs, self.classifier, images)
        perturb = self.perturb if indices else attacker(self.classifier, self.inputs.threat_model, seed=self.seed)
        numbers = indices or [0] * len(images)  # each file looks as it does alone
        single = zip(torch.split(images, 1), torch.split(labels, 1), numbers, strict=True)
        adversarial = torch.cat([perturb(image, label, index) for image, label, index in single])
        found = look_closely(
            self.interpreters[0], self.judge, images, adversarial, labels, indices=numbers, reference=self.inputs.train,
            layer=chosen.layer, towards=towards, explainers=self.explainers, seed=self.seed, say=self.say,
        )  # fmt: skip
        return found if indices else replace(found, explanation=replace(found.explanation, indices=None))

    def telling_explanation(self, gallery: Path | None = None) -> Explanation:
        """Examples for the report: one a class, fooled by the attack, predicted right while natural.

        `gallery` is the file for the gallery of the report, which has many of the same images; nothing is written where
        the run has no predictions yet.
        """
        images, labels, adversarial = self.attacked(batch_size(self.inputs.test))
        count, shown = len(images), self._shown(len(images))
        if gallery is not None and shown:
            rows = torch.tensor(varied(shown["labels"], shown["natural"], shown["adversarial"]))
            parts = [part.tolist() for part in torch.split(rows, max(1, count // 4))]
            Gallery.of([self._explained(images[p], adversarial[p], labels[p], p) for p in parts]).save(gallery)
        chosen = telling(**shown, count=EXAMPLES) if shown else list(range(min(EXAMPLES, count)))
        return self._explained(images[chosen], adversarial[chosen], labels[chosen], chosen)

    def _explained(self, images: Tensor, adversarial: Tensor, labels: Tensor, indices: list[int]) -> Explanation:
        return self.interpreters[0].explain(
            images, adversarial, labels=labels, judge=self.judge, indices=indices, seed=self.seed
        )

    def _shown(self, count: int) -> dict[str, Any]:
        """Labels and all predictions for the first images, natural and attacked, then the model's; empty: none yet."""
        file = self.path("predictions.npz")
        if not file.exists():
            return {}
        saved = read_arrays(file, "predictions")
        return {name: saved[name][..., :count] for name in ("labels", "natural", "adversarial", "model")}
