"""What the numbers of a report mean.

A name is a path below ``chapters`` in the JSON; ``[]`` stands for each item of a list, ``*`` for each key.
"""

from __future__ import annotations

from collections.abc import Mapping

SCHEMA = "endoscope.audit/1"
"""Changes when a name goes or means something else; new names may come."""

_VALUE = {
    "name": "its ONNX name",
    "dtype": "its element type",
    "shape": "its shape; a word stands for a free dimension",
}
_CLASS = {"class_index": "the position of the class's logit", "label": "the class's label, or its index"}


def _below(path: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{path}.{name}": meaning for name, meaning in names.items()}


def _pair(path: str, last: str, meaning: str) -> dict[str, str]:
    return {
        **_below(f"{path}.first", _CLASS),
        **_below(f"{path}.second", _CLASS),
        f"{path}.{last}": meaning,
    }


def _norm(path: str, norm: str) -> dict[str, str]:
    attacks = {
        "pgd": "projected gradient descent (Madry et al. 2018)",
        "apgd": "Auto-PGD on the cross-entropy (Croce and Hein 2020)",
        "deepfool": "DeepFool (Moosavi-Dezfooli et al. 2016)",
        "fab": "the fast adaptive boundary attack (Croce and Hein 2020)",
    }
    return {
        f"{path}.curve[].epsilon": f"radius in {norm}, in [0, 1] pixel units",
        f"{path}.curve[].name": "the radius as people write it",
        f"{path}.curve[].pgd": f"share of the pictures still right under {attacks['pgd']}",
        f"{path}.curve[].apgd": f"share of the pictures still right under {attacks['apgd']}",
        f"{path}.curve[].robust_accuracy": "share of the pictures still right under both attacks",
        f"{path}.minimal.pictures": "pictures that were right before any attack",
        f"{path}.minimal.found": "pictures for which any attack found a perturbation that fools the model",
        f"{path}.minimal.median": f"median {norm} norm of the smallest perturbation found; null if not known",
        f"{path}.minimal.lower_quartile": "a quarter of the pictures fall to at most this norm",
        f"{path}.minimal.upper_quartile": "three quarters of the pictures fall to at most this norm",
        f"{path}.minimal.norms[]": "the smallest perturbation found, one a picture, rising",
        **{
            f"{path}.minimal.found_by.{name}": f"pictures whose smallest perturbation was found by {title}"
            for name, title in attacks.items()
        },
    }


def _picture(path: str) -> dict[str, str]:
    return {
        f"{path}.name": "the picture's name in the dataset",
        f"{path}.true": "null where the picture has no label",
        **_below(f"{path}.true", _CLASS),
        **_below(f"{path}.predicted", _CLASS),
        f"{path}.confidence": "probability of the class that the model sees",
    }


NAMES: Mapping[str, str] = {
    "identity.model.name": "the model's resource name",
    "identity.model.title": "as its authors write it",
    "identity.model.source": "where it comes from",
    "identity.model.license": "SPDX identifier",
    "identity.model.bytes": "size of the file",
    "identity.model.fingerprint": "SHA-256 of the model's content",
    "identity.model.producer": "the program that made the file",
    "identity.model.ir_version": "ONNX IR version of the file",
    "identity.model.opsets.*": "version of the operator set of a domain",
    **_below("identity.model.inputs[]", _VALUE),
    **_below("identity.model.outputs[]", _VALUE),
    "identity.model.inputs[].shape[]": "an extent",
    "identity.model.outputs[].shape[]": "an extent",
    "identity.model.logits": "the value before the softmax",
    "identity.model.classes": "how many classes there are",
    "identity.model.labels": "how many of them have labels",
    "identity.model.nodes": "nodes of the graph",
    "identity.model.layers": "layers of the graph",
    "identity.model.parameters": "numbers in the weights",
    "identity.model.multiply_adds": "multiplications for one picture; null where shapes are free",
    "identity.preprocessing.*": "how a picture becomes the model's input",
    "identity.preprocessing.mean[]": "subtracted, one number a channel",
    "identity.preprocessing.std[]": "divided by, one number a channel",
    "identity.preprocessing_assumed": "whether nobody said how, and it was assumed from the input's shape",
    "identity.dataset.name": "the dataset's resource name",
    "identity.dataset.pictures": "pictures in the dataset",
    "identity.dataset.looked_at": "pictures that were looked at, a random sample",
    "identity.dataset.skipped": "pictures of the sample that can't be decoded",
    "identity.dataset.skipped_items[].name": "the picture's name",
    "identity.dataset.skipped_items[].reason": "why it can't be decoded",
    "identity.dataset.labelled": "pictures looked at whose class is known",
    "identity.dataset.label_mapping": "how labels name classes: text, index or none",
    "identity.dataset.sha256": "SHA-256 of the SHA-256 of each file that was looked at, in order",
    "identity.versions.*": "version of a library",
    "identity.device": "where gradients were computed",
    "parity.passed": "whether all values agree within the tolerance and all operators can be mirrored",
    "parity.tolerance": "largest relative difference that is accepted",
    "parity.compared": "values that were compared",
    "parity.worst_relative": "largest difference over largest magnitude of any value",
    "parity.worst_absolute": "largest absolute difference of any value",
    "parity.worst_value": "the value with the largest relative difference",
    "parity.worst_operator": "the operator that computes it",
    "parity.first_difference": "the first value beyond the tolerance; null if none",
    "parity.worst[].value": "a value with a large difference",
    "parity.worst[].operator": "the operator that computes it",
    "parity.worst[].relative": "its relative difference",
    "parity.worst[].absolute": "its absolute difference",
    "parity.notes[]": "what a reader must know",
    "accuracy.pictures": "pictures whose class is known",
    "accuracy.right": "pictures in which the model sees that class",
    "accuracy.top1": "share of pictures that are right",
    "accuracy.top1_low": "lower end of its 95% interval (Wilson 1927)",
    "accuracy.top1_high": "upper end of its 95% interval",
    "accuracy.top5": "share of pictures whose class is among the five strongest; null if there are no more",
    "accuracy.mean_class_accuracy": "mean over the classes of each class's share that is right",
    "accuracy.ece": "expected calibration error, 15 bins (Guo et al. 2017)",
    "accuracy.mce": "largest gap between confidence and accuracy of any bin",
    "accuracy.brier": "mean squared distance of the probabilities to the truth, 0 to 2 (Brier 1950)",
    "accuracy.log_loss": "mean negative logarithm of the true class's probability",
    "accuracy.mean_confidence": "mean of the largest probability",
    "accuracy.scores_are_probabilities": "whether the model's scores are probabilities, taken as they are",
    "accuracy.bins[].low": "confidences are above this",
    "accuracy.bins[].high": "and at most this",
    "accuracy.bins[].pictures": "pictures of that confidence",
    "accuracy.bins[].confidence": "their mean confidence; null without pictures",
    "accuracy.bins[].accuracy": "share of them that is right; null without pictures",
    **_below("accuracy.classes[]", _CLASS),
    "accuracy.classes[].pictures": "pictures of the class",
    "accuracy.classes[].right": "of them those that are right",
    "accuracy.classes[].accuracy": "their share",
    **_below("accuracy.confusions[].true", _CLASS),
    **_below("accuracy.confusions[].predicted", _CLASS),
    "accuracy.confusions[].pictures": "pictures of the true class that are taken for the other",
    "accuracy.confusion_matrix": "null where more than 20 classes are there",
    **_below("accuracy.confusion_matrix.classes[]", _CLASS),
    "accuracy.confusion_matrix.pictures[][]": "pictures by true class (rows) and class seen (columns)",
    "robustness.reference": "what is right: the labels, or the model's own predictions where there are none",
    "robustness.pictures": "pictures that were chosen for attack, as many of each class as there can be",
    "robustness.clean_accuracy": "share of them that is right without attack",
    "robustness.attack_steps": "steps of each attack",
    **_norm("robustness.linf", "L-infinity"),
    **_norm("robustness.l2", "L2"),
    "fooling.confidence": "probability from which on the model counts as sure",
    "fooling.steps": "the most steps that were tried",
    "fooling.reached_share": "share of the classes of which noise could be made to convince the model",
    "fooling.median_steps": "median of the steps that it took, where it could; null if it never could",
    **_below("fooling.classes[]", _CLASS),
    "fooling.classes[].reached": "whether the model became sure of the class",
    "fooling.classes[].steps": "after how many steps; null if it did not",
    "fooling.classes[].confidence": "the class's probability in the picture's file at the end",
    "privacy.pictures[]": "names of the pictures that were inverted",
    "privacy.steps": "steps for each layer",
    "privacy.layers[].layer": "the layer's alias",
    "privacy.layers[].value": "the ONNX name of its value",
    "privacy.layers[].psnr": "peak signal-to-noise ratio to the original in decibels, mean over the "
    "pictures; where every pixel came back, as if one value were off by one",
    "privacy.layers[].ssim": "structural similarity to the original, -1 to 1 (Wang et al. 2004)",
    "privacy.layers[].feature_error": "squared distance of the features over the original's squared norm",
    "privacy.layers[].reference_error": "the same over the mean squared distance of pictures' features",
    "privacy.layers[].perceptual_distance": "distance of the model's normalised feature maps",
    "privacy.left_out[].layer": "a layer that can't be inverted",
    "privacy.left_out[].reason": "why",
    "features.dead_units": "null where the model has no rectifiers",
    "features.dead_units.units": "channels times positions of all rectified layers",
    "features.dead_units.dead": "units that are never above zero over the pictures looked at",
    "features.dead_units.share": "their share",
    "features.dead_units.channels": "channels of all rectified layers",
    "features.dead_units.dead_channels": "channels all of whose units are dead",
    "features.dead_units.channel_share": "their share",
    "features.dead_units.layers[].layer": "the layer's alias",
    "features.dead_units.layers[].value": "the ONNX name of its value",
    "features.dead_units.layers[].units": "its channels times positions",
    "features.dead_units.layers[].dead": "its units that are never above zero",
    "features.dead_units.layers[].share": "their share",
    "features.dead_units.layers[].channels": "its channels",
    "features.dead_units.layers[].dead_channels": "its channels all of whose units are dead",
    **_pair(
        "features.similar_classes.by_weights[]",
        "cosine",
        "cosine of the last layer's weights, measured from their mean",
    ),
    **_pair(
        "features.similar_classes.by_features[]",
        "cosine",
        "cosine of the mean features of the classes' pictures, measured from the mean of all",
    ),
    **_pair("features.similar_classes.by_confusion[]", "pictures", "pictures of one taken for the other"),
    "features.visualizations": "null where they can't be had",
    "features.left_out": "why there are no visualisations; empty if there are",
    "features.visualizations.preset": "the preset of VisualizeClass",
    "features.visualizations.steps": "steps",
    **_below("features.visualizations.classes[]", _CLASS),
    "features.visualizations.classes[].confidence": "the class's probability in the picture's file",
    "features.visualizations.classes[].logit": "the class's score before the softmax in the picture's file",
    **_below("features.visualizations.classes[].seen_as", _CLASS),
    "errors.pictures": "pictures whose class is known",
    "errors.errors": "of them those that are taken for another class",
    "errors.share": "their share",
    "errors.neighbors": "neighbours that are told for each",
    "errors.searched": "where neighbours were sought; null if there was nothing to seek",
    "errors.searched.dataset": "resource name of the dataset",
    "errors.searched.audited": "whether it is the dataset that was audited",
    "errors.searched.pictures": "pictures in it",
    "errors.searched.searched": "of them those that were searched, a random sample if not all",
    "errors.searched.skipped": "pictures of those that can't be decoded",
    **_picture("errors.shown[]"),
    **_picture("errors.shown[].neighbors[]"),
    "errors.shown[].neighbors[].distance": "Euclidean distance of the features before the logits",
}
"""Meanings by name."""
