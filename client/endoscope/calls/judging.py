"""GradientService: pictures that mislead a model, and what in a picture led it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from endoscope.calls.call import Streaming
from endoscope.calls.options import Encoding, Pictures, PreprocessingLike, job_options
from endoscope.messages import encode
from endoscope.pictures import PictureLike
from endoscope.results.gradients import Adversarials, Attributions, FoolingImages
from endoscope.v1 import gradient_pb2, gradient_pb2_grpc

_STUB = gradient_pb2_grpc.GradientServiceStub

Attack: TypeAlias = Literal[
    "fgsm",
    "ifgsm",
    "pgd",
    "mifgsm",
    "deepfool",
    "carlini_wagner",
    "apgd_ce",
    "apgd_dlr",
    "apgd_targeted",
    "fab",
    "square",
]
AttributionMethod: TypeAlias = Literal[
    "gradient",
    "gradient_x_input",
    "smoothgrad",
    "integrated_gradients",
    "guided_backpropagation",
    "deconvnet",
    "grad_cam",
    "occlusion",
]


def create_adversarial(
    model: str,
    images: Pictures,
    *,
    method: Attack | None = None,
    norm: Literal["linf", "l2"] | None = None,
    epsilon: float | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    restarts: int | None = None,
    targets: int | Sequence[int] = (),
    true_classes: int | Sequence[int] = (),
    early_stop: bool = False,
    confidence: float = 0.0,
    seed: int = 0,
    preprocessing: PreprocessingLike | None = None,
    image_format: Encoding | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[Adversarials]:
    """Pictures changed so little that people see no difference, but the model does.

    Args:
        model: ``models/{model}``, or the last part alone.
        images: At most 64; they run as one batch, and are brought to the model's size first.
        method: Default: PGD (Madry et al. 2018).
        norm: How the change is measured. Default: L-infinity; for DeepFool and Carlini-Wagner L2.
        epsilon: The largest change, in [0, 1] pixel units. Default: 4/255 for L-infinity, 0.5 for L2; none
            for attacks that seek the smallest change.
        steps: 1 to 100000. Default: the method's own.
        step_size: In [0, 1] pixel units. Default: the method's own.
        restarts: Random restarts, 1 to 100. Default: 1; 9 for targeted Auto-PGD.
        targets: The classes that the model is to see, one for each picture or one for all. Default: any but
            the true one.
        true_classes: One for each picture. Default: what the model sees.
        early_stop: True: each picture stops as soon as it fools the model.
        confidence: The margin between logits at which a picture counts as fooling, 0 or more.
        seed: Seed of all random numbers, 0 or more.
        preprocessing: Overrides the model's own, field by field.
        image_format: Of the results; the attack is judged on the decoded file. Default: PNG.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never. Default: 10.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        gradient_pb2.CreateAdversarialRequest,
        model=model,
        images=images,
        method=method,
        norm=norm,
        epsilon=epsilon,
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        targets=targets,
        true_classes=true_classes,
        early_stop=early_stop,
        confidence=confidence,
        seed=seed,
        preprocessing=preprocessing,
        image_format=image_format,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "CreateAdversarial", request, Adversarials)


def create_fooling_image(
    model: str,
    classes: int | Sequence[int],
    *,
    method: Literal["gradient", "cppn"] | None = None,
    confidence: float | None = None,
    steps: int | None = None,
    image: PictureLike | None = None,
    seed: int = 0,
    preprocessing: PreprocessingLike | None = None,
    image_format: Encoding | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[FoolingImages]:
    """Pictures that show nothing to people, and which the model is sure of (Nguyen et al. 2015).

    Args:
        model: ``models/{model}``, or the last part alone.
        classes: The classes that the model is to be sure of, at most 64.
        method: Gradient ascent, or evolution of pattern-producing networks. Default: gradient.
        confidence: At which to stop, in (0, 1). Default: 0.996.
        steps: The most steps or generations, 1 to 100000. Default: the method's own.
        image: The picture to start from (gradient only). Default: noise.
        seed: Seed of all random numbers, 0 or more.
        preprocessing: Overrides the model's own, field by field.
        image_format: Of the results; they are judged on the decoded file. Default: PNG.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never. Default: 10.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        gradient_pb2.CreateFoolingImageRequest,
        model=model,
        classes=classes,
        method=method,
        confidence=confidence,
        steps=steps,
        image=image,
        seed=seed,
        preprocessing=preprocessing,
        image_format=image_format,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "CreateFoolingImage", request, FoolingImages)


def attribute(
    model: str,
    image: PictureLike,
    methods: AttributionMethod | Sequence[AttributionMethod],
    *,
    class_index: int | None = None,
    samples: int | None = None,
    noise: float | None = None,
    layer: str | None = None,
    window: int | None = None,
    stride: int | None = None,
    baseline: float | None = None,
    seed: int = 0,
    preprocessing: PreprocessingLike | None = None,
    image_format: Encoding | None = None,
    detached: bool = False,
    preview_every: int | None = None,
    priority: Literal["interactive", "batch"] = "interactive",
) -> Streaming[Attributions]:
    """What in a picture spoke for a class.

    Args:
        model: ``models/{model}``, or the last part alone.
        image: The picture.
        methods: Each at most once.
        class_index: Default: the class that the model sees.
        samples: Noisy copies or steps of the path, 1 to 1000. Default: 50.
        noise: SmoothGrad's, as a share of the picture's range. Default: 0.15.
        layer: Grad-CAM's. Default: the last with positions.
        window: Side of the occluded window, in pixels. Default: 32.
        stride: Pixels between two windows. Default: 16.
        baseline: The grey level that stands for nothing, in [0, 1]. Default: the one that becomes zero.
        seed: Seed of all random numbers, 0 or more.
        preprocessing: Overrides the model's own, field by field.
        image_format: Of the results. Default: PNG.
        detached: True: the job goes on when the client goes away.
        preview_every: A preview comes every this many steps; 0: never. Default: 10.
        priority: Batch jobs advance when no interactive one does.
    """
    request = encode(
        gradient_pb2.AttributeRequest,
        model=model,
        image=image,
        methods=methods,
        class_index=class_index,
        samples=samples,
        noise=noise,
        layer=layer,
        window=window,
        stride=stride,
        baseline=baseline,
        seed=seed,
        preprocessing=preprocessing,
        image_format=image_format,
        options=job_options(detached, preview_every, priority),
    )
    return Streaming(_STUB, "Attribute", request, Attributions)
