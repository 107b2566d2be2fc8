"""What GradientService gives. All measures are of the decoded picture, judged by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from endoscope.pictures import Picture
from endoscope.results.classes import Classification, ClassScore
from endoscope.results.jobs import Provenance
from endoscope.results.showing import Showing, Shown, present


@dataclass(frozen=True, slots=True, eq=False)
class ClassPicture:
    """The picture of one class.

    Attributes:
        score: The class that was asked for, with its scores.
        image: The picture.
        pixels: The same before it was rounded: channels x height x width in [0, 1], ``float32``.
        classification: The strongest classes.
        transparency: MACO's mask of what mattered: height x width in [0, 1]; None without MACO.
    """

    score: ClassScore
    image: Picture
    pixels: NDArray[Any]
    classification: Classification
    transparency: NDArray[Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class ClassVisualization(Showing):
    """Pictures of classes, in the order of the request."""

    pictures: tuple[ClassPicture, ...]
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """One picture a class."""
        return [
            Shown(f"class-{item.score.class_index}", item.image, str(item.score)) for item in self.pictures
        ]


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePicture:
    """The picture of one objective.

    Attributes:
        value: The objective's value on the decoded picture, untransformed.
        image: The picture.
        pixels: The same before it was rounded: channels x height x width in [0, 1], ``float32``.
        transparency: MACO's mask of what mattered: height x width in [0, 1]; None without MACO.
    """

    value: float
    image: Picture
    pixels: NDArray[Any]
    transparency: NDArray[Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class FeatureVisualization(Showing):
    """Pictures of objectives, in the order of the request."""

    pictures: tuple[FeaturePicture, ...]
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """One picture an objective."""
        return [
            Shown(f"feature-{index}", item.image, f"objective {item.value:.4g}")
            for index, item in enumerate(self.pictures)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class LayerInversion:
    """What one layer still tells of the picture.

    Attributes:
        layer: The layer as it was asked for.
        image: The picture that was found.
        feature_error: ``||Phi(x) - Phi0||^2 / ||Phi0||^2``.
        psnr: Peak signal-to-noise ratio to the original, in decibels.
        ssim: Structural similarity to the original, in [-1, 1].
        perceptual_distance: Distance of the model's normalised feature maps to the original's, 0 or more.
        pixels: The picture before it was rounded: channels x height x width in [0, 1], ``float32``.
        reference_error: ``||Phi(x) - Phi0||^2`` over the mean squared distance of the features of each two
            pictures; None without references.
        value: The ONNX name of the layer's value.
    """

    layer: str
    image: Picture
    feature_error: float
    psnr: float
    ssim: float
    perceptual_distance: float
    pixels: NDArray[Any]
    reference_error: float | None
    value: str


@dataclass(frozen=True, slots=True, eq=False)
class Inversion(Showing):
    """Pictures with the representation of a given one, layer by layer: the privacy curve.

    Attributes:
        layers: In the order of computation.
        original: The picture as the model saw it.
        curve: PSNR and feature error over depth, as a plot.
        provenance: What made it.
    """

    layers: tuple[LayerInversion, ...]
    original: Picture
    curve: Picture | None
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """One picture a layer, the original, the curve."""
        layers = {
            f"layer-{item.layer}": (item.image, f"{item.layer}: {item.psnr:.1f} dB, SSIM {item.ssim:.3f}")
            for item in self.layers
        }
        rest = {
            "original": (self.original, "original"),
            "curve": (self.curve, "PSNR and feature error over depth"),
        }
        return present({**layers, **rest})


@dataclass(frozen=True, slots=True, eq=False)
class Dream(Showing):
    """A picture in which a layer's own activations were amplified.

    Attributes:
        image: The dream, in the size of the picture it began with.
        provenance: What made it.
    """

    image: Picture
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """The dream."""
        return [Shown("dream", self.image)]


@dataclass(frozen=True, slots=True, eq=False)
class Adversarial:
    """One adversarial example.

    Attributes:
        success: Whether it fools the model.
        original: The picture as the model saw it before.
        image: The adversarial picture.
        difference: Their difference, magnified around mid-grey.
        magnification: By how much.
        linf: The largest change of any 8-bit pixel, in [0, 1] units.
        l2: The square root of the sum of squared changes, in [0, 1] units.
        l0: How many pixels were changed.
        original_classification: What the model sees in the original.
        classification: What the model sees in the adversarial picture.
        true_class: The class that was to be avoided.
        target: The class that was to be seen; None if any would do.
    """

    success: bool
    original: Picture
    image: Picture
    difference: Picture
    magnification: float
    linf: float
    l2: float
    l0: int
    original_classification: Classification
    classification: Classification
    true_class: int
    target: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Adversarials(Showing):
    """Adversarial examples, in the order of the request."""

    adversarials: tuple[Adversarial, ...]
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """Adversarial picture, original and difference of each."""
        shown = []
        for index, item in enumerate(self.adversarials):
            after, before = item.classification.top[0], item.original_classification.top[0]
            caption = f"{after}, L-infinity {item.linf * 255:.0f}/255"
            shown += [
                Shown(f"adversarial-{index}", item.image, caption),
                Shown(f"original-{index}", item.original, str(before)),
                Shown(f"difference-{index}", item.difference, f"difference x {item.magnification:.3g}"),
            ]
        return shown


@dataclass(frozen=True, slots=True, eq=False)
class FoolingImage:
    """One picture that shows nothing to people.

    Attributes:
        success: Whether it reaches the confidence that was asked for.
        score: The class asked for, with its scores.
        image: The picture.
        classification: The strongest classes.
    """

    success: bool
    score: ClassScore
    image: Picture
    classification: Classification


@dataclass(frozen=True, slots=True, eq=False)
class FoolingImages(Showing):
    """Fooling pictures, in the order of the request."""

    images: tuple[FoolingImage, ...]
    provenance: Provenance

    def shown(self) -> Sequence[Shown]:
        """One picture a class."""
        return [
            Shown(f"fooling-{item.score.class_index}", item.image, str(item.score)) for item in self.images
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """What in a picture spoke for a class, by one method.

    Attributes:
        method: Such as ``integrated_gradients``.
        values: Channels x height x width, ``float32``; Grad-CAM and occlusion have one channel.
        picture: The values as a heat map over the picture.
        completeness_error: How far their sum is from what it should be, relative to that (integrated
            gradients); None for other methods.
        deletion: Area under the probability as the most important pixels are taken away; lower is better.
        insertion: Area under the probability as they are put back; higher is better.
        deletion_curve: The probability at equal steps from none to all of the pixels taken away.
        insertion_curve: The probability at equal steps from none to all of the pixels put back.
    """

    method: str
    values: NDArray[Any]
    picture: Picture
    completeness_error: float | None
    deletion: float
    insertion: float
    deletion_curve: tuple[float, ...]
    insertion_curve: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Attributions(Showing):
    """The answers of several methods, in the order of the request.

    Attributes:
        attributions: One a method.
        score: The class that was explained, with its scores.
        provenance: What made it.
        original: The picture as the model saw it.
    """

    attributions: tuple[Attribution, ...]
    score: ClassScore
    provenance: Provenance
    original: Picture

    def shown(self) -> Sequence[Shown]:
        """One heat map a method."""
        return [
            Shown(
                item.method.replace("_", "-"),
                item.picture,
                f"{item.method}: deletion {item.deletion:.3f}, insertion {item.insertion:.3f}",
            )
            for item in self.attributions
        ]
