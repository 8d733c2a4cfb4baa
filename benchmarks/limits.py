"""How fast a part could run on this machine at best: its operations at the rate of the fastest matrix products, or its
bytes at the bandwidth of the fastest reading, whichever takes longer. What activations move is left out.

An operation is a multiplication or an addition, so a product [M, K] x [K, N] has 2·M·K·N.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, reduce

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import torch
from openvino import opset13 as opset
from transformers import BlipConfig

from blip_openvino.runtime.products import products_as_convolutions

ROWS, WIDTH, INNER, PAIRS = 577, 768, 3072, 4
"""The products whose rate is measured: four of BLIP base's feed-forward pairs over an image's tokens."""
OPERATIONS = 2 * ROWS * WIDTH * INNER * 2 * PAIRS
STATE_BYTES = 4
"""A kept key or value is a float32."""
SCALE_BYTES = 2 / 64
"""INT4 weights come with an FP16 scale for each 64."""


@dataclass(frozen=True)
class Precision:
    """Bytes of a weight in the layers and in the vocabulary's product (INT8 where layers are INT4); what multiplies."""

    layer_bytes: float
    vocabulary_bytes: float
    products: str


PRECISIONS = {
    "FP16": Precision(2, 2, "float"),
    "INT8": Precision(1, 1, "int8"),
    "INT4": Precision(0.5 + SCALE_BYTES, 1, "int8"),
}


Rates = Mapping[str, float]
"""What a machine does in a second: operations of products in "float" and in "int8", and "bytes" that it reads."""


@dataclass(frozen=True)
class Work:
    """What a part has to do at least."""

    operations: float
    bytes: float

    def seconds(self, rates: Rates, precision: Precision) -> float:
        return max(self.operations / rates[precision.products], self.bytes / rates["bytes"])


@dataclass(frozen=True)
class Geometry:
    """The sizes that the formulas need."""

    patch_tokens: int
    patch_values: int
    vision_width: int
    vision_inner: int
    vision_layers: int
    width: int
    heads: int
    inner: int
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, config: BlipConfig) -> "Geometry":
        vision, text = config.vision_config, config.text_config
        return cls(
            (vision.image_size // vision.patch_size) ** 2,
            3 * vision.patch_size**2,
            vision.hidden_size,
            vision.intermediate_size,
            vision.num_hidden_layers,
            text.hidden_size,
            text.num_attention_heads,
            text.intermediate_size,
            text.num_hidden_layers,
            text.vocab_size,
        )

    @property
    def image_tokens(self) -> int:
        return self.patch_tokens + 1


def vision(g: Geometry, precision: Precision) -> Work:
    """Patches, then for each layer query, key, value, output and the feed-forward pair, and attention itself."""
    patches = g.patch_values * g.vision_width
    layer = 4 * g.vision_width**2 + 2 * g.vision_width * g.vision_inner
    attention = 2 * g.image_tokens**2 * g.vision_width
    operations = 2 * (g.patch_tokens * patches + g.vision_layers * (g.image_tokens * layer + attention))
    return Work(operations, precision.layer_bytes * (patches + g.vision_layers * layer))


def projections(g: Geometry, precision: Precision, encoder_rows: int, encoder_tokens: int, encoder_width: int) -> Work:
    """The encoder's tokens to every layer's keys and values."""
    weights = g.layers * 2 * encoder_width * g.width
    return Work(2 * encoder_rows * encoder_tokens * weights, precision.layer_bytes * weights)


def text_layers(g: Geometry, precision: Precision, rows: int, new: int, past: int, encoder: tuple[int, int]) -> Work:
    """All layers over `new` tokens a row and `past` ones before them.

    `encoder` is rows and tokens of an encoder whose keys and values are kept.
    """
    encoder_rows, encoder_tokens = encoder
    weights = 6 * g.width**2 + 2 * g.width * g.inner  # self-attention, query and output; feed-forward
    # Attention's scores, and their product with the values.
    attention = 2 * 2 * rows * new * (past + new + encoder_tokens) * g.width
    operations = 2 * rows * new * weights + attention
    kept = 2 * g.width * (rows * past + encoder_rows * encoder_tokens)
    return Work(g.layers * operations, g.layers * (precision.layer_bytes * weights + STATE_BYTES * kept))


def vocabulary(g: Geometry, precision: Precision, rows: int) -> Work:
    """The last position's transform, and its product with the vocabulary."""
    transform, words = g.width**2, g.width * g.vocabulary
    return Work(2 * rows * (transform + words), precision.layer_bytes * transform + precision.vocabulary_bytes * words)


def together(*works: Work) -> Work:
    return Work(sum(work.operations for work in works), sum(work.bytes for work in works))


def text_encoder(g: Geometry, precision: Precision, tokens: int, first: bool) -> Work:
    """A question about an image; of a `first` one whichever is less, projecting the image too or doing without."""
    work = text_layers(g, precision, 1, tokens, 0, (1, g.image_tokens))
    if not first:
        return work
    projected = together(work, projections(g, precision, 1, g.image_tokens, g.vision_width))
    return min(projected, unprojected(g, precision, tokens), key=lambda each: each.operations)


def unprojected(g: Geometry, precision: Precision, tokens: int) -> Work:
    """A question read without keys and values of the image (`blip_openvino.runtime.unprojected`).

    In every layer each head's queries, and what they see, are multiplied by its part of both matrices, and with all
    numbers of the image's tokens.
    """
    weights = g.layers * 2 * g.vision_width * g.width
    seen = g.layers * 2 * g.heads * g.image_tokens * g.vision_width
    looking = Work(2 * tokens * (weights + seen), precision.layer_bytes * weights)
    return together(text_layers(g, precision, 1, tokens, 0, (0, 0)), looking)


def decoder_step(g: Geometry, precision: Precision, rows: int, past: int, encoder: tuple[int, int]) -> Work:
    """One new token for each row."""
    return together(text_layers(g, precision, rows, 1, past, encoder), vocabulary(g, precision, rows))


@dataclass(frozen=True)
class Tokens:
    """How much the workloads ask for: tokens of a question, an answer and a caption, beams, and images in a batch."""

    question: int
    answer: int
    caption: int
    beams: int
    batch: int


def limits(config: BlipConfig, beside: Mapping[str, Rates], tokens: Tokens) -> dict[str, dict[str, float]]:
    """Seconds by precision and task, or part of one, at the rates that the machine had `beside` each.

    Tasks that have no limit are left out.
    """
    g = Geometry.of(config)
    return {
        name: {
            task: found[task]
            for task, rates in beside.items()
            if task in (found := limits_at(precision, g, rates, tokens))
        }
        for name, precision in PRECISIONS.items()
    }


def limits_at(precision: Precision, g: Geometry, rates: Rates, tokens: Tokens) -> dict[str, float]:
    """Seconds for each part and workload: a whole's limit is the sum of its parts'."""

    def seconds(work: Work) -> float:
        return work.seconds(rates, precision)

    def generate(new_tokens: int, rows: int, encoder: tuple[int, int]) -> float:
        steps = [decoder_step(g, precision, rows, past, encoder) for past in range(new_tokens)]
        steps[0] = together(steps[0], projections(g, precision, *encoder, g.width))
        return sum(map(seconds, steps))

    one_image, images = (1, g.image_tokens), (tokens.batch, g.image_tokens)
    image = seconds(vision(g, precision))
    question = seconds(text_encoder(g, precision, tokens.question, first=True))
    another_question = seconds(text_encoder(g, precision, tokens.question, first=False))
    answer = generate(tokens.answer, 1, (1, tokens.question))
    return {
        "vision model": image,
        "text encoder, first question": question,
        "text encoder, another question": another_question,
        "decoder, first step over the image": generate(1, 1, one_image),
        "decoder, later step over the image": seconds(decoder_step(g, precision, 1, tokens.caption // 2, one_image)),
        "answer": image + question + answer,
        "answer again": another_question + answer,
        "caption": image + generate(tokens.caption, 1, one_image),
        f"caption, {tokens.beams} beams": image + generate(tokens.caption, tokens.beams, one_image),
        "batch": tokens.batch * image + generate(tokens.caption, tokens.batch, images),
    }


@dataclass(frozen=True)
class Way:
    """Something to be timed: it does that `amount` of operations, or reads so many bytes."""

    amount: float
    run: Callable[[], object]

    def rate(self, runs: int = 10) -> float:
        """The amount a second, in the quickest of some runs after one that does not count."""
        self.run()
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            self.run()
            seconds.append(time.perf_counter() - start)
        return self.amount / min(seconds)


def feed_forward(precision: str) -> ov.Model:
    """`PAIRS` pairs of products [1, ROWS, WIDTH] -> [1, ROWS, INNER] -> [1, ROWS, WIDTH] and nothing else.

    Weights are "float32", "FP16", or "INT8" with INT8 activations.
    """
    draw = np.random.default_rng(0)
    tokens = node = opset.parameter([1, ROWS, WIDTH], ov.Type.f32)
    for columns, rows in [(WIDTH, INNER), (INNER, WIDTH)] * PAIRS:
        weights = draw.integers(-127, 128, (rows, columns), dtype=np.int8)
        scale = opset.constant(np.full((rows, 1), 1 / (73 * columns**0.5), np.float32))
        product = opset.multiply(opset.convert(opset.constant(weights), "f32"), scale)
        if precision == "INT8":
            low, high = (opset.constant(np.float32(edge)) for edge in (-4, 4))
            node = opset.fake_quantize(node, low, high, low, high, 256)
        elif precision == "FP16":
            product = opset.convert(opset.constant((weights * scale.data).astype(np.float16)), "f32")
        else:
            product = opset.constant((weights * scale.data).astype(np.float32))
        node = opset.matmul(node, product, False, True)
    return ov.Model([node], [tokens])


def openvino_products(precision: str, hint: str, convolved: bool = False) -> Way:
    """The products of `feed_forward` in OpenVINO, under an inference precision hint."""
    model = feed_forward(precision)
    if convolved:
        products_as_convolutions(model, precision)
    request = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint}).create_infer_request()
    tokens = np.random.default_rng(0).standard_normal((1, ROWS, WIDTH), dtype=np.float32)
    return Way(OPERATIONS, lambda: request.infer([tokens], share_inputs=True))


def torch_products() -> Way:
    """The same products in PyTorch, float32."""
    weights = [torch.randn(*shape) for shape in [(WIDTH, INNER), (INNER, WIDTH)] * PAIRS]
    return Way(OPERATIONS, lambda: reduce(torch.matmul, weights, torch.randn(ROWS, WIDTH)))


def onnx_product() -> Way:
    """One such product of 8-bit integers in ONNX Runtime."""
    draw = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(draw.integers(-127, 128, (WIDTH, INNER), dtype=np.int8), "weights")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["tokens", "weights"], ["product"])],
        "product",
        [onnx.helper.make_tensor_value_info("tokens", onnx.TensorProto.UINT8, [ROWS, WIDTH])],
        [onnx.helper.make_tensor_value_info("product", onnx.TensorProto.INT32, [ROWS, INNER])],
        [weights],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tokens = draw.integers(0, 256, (ROWS, WIDTH), dtype=np.uint8)
    return Way(2 * ROWS * WIDTH * INNER, lambda: session.run(None, {"tokens": tokens}))


def ways() -> dict[str, list[Way]]:
    """How what `Rates` counts could be done here, by kind."""
    hints = ["f32"] + ["bf16"] * ("BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    floating = [torch_products(), *(openvino_products("float32", hint) for hint in hints)]
    if "bf16" in hints:
        floating.append(openvino_products("FP16", "bf16", convolved=True))
    int8 = [onnx_product(), openvino_products("INT8", "f32", convolved=True)]
    int8 += [openvino_products("INT8", hint) for hint in hints]
    much, vector = torch.ones(2**15, 2**12), torch.ones(2**12)  # 512 MiB, far more than any cache
    size = much.numel() * much.element_size()
    return {
        "float": floating,
        "int8": floating + int8,
        "bytes": [Way(size, much.sum), Way(size, lambda: much @ vector)],
    }


class Meter:
    """Measures what this machine does at the moment; finding the fastest ways first takes some five seconds."""

    def __init__(self):
        rate = cache(Way.rate)  # float products are tried for both kinds of products
        self.fastest = {kind: max(each, key=rate) for kind, each in ways().items()}

    def read(self) -> Rates:
        """In some 0.2 seconds."""
        return {kind: way.rate(runs=3) for kind, way in self.fastest.items()}
