import shutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from conftest import EMBEDDED, F32, ROOT, in_openvino, padded, random_model
from PIL import Image
from transformers import GenerationMixin, MaxLengthCriteria, StoppingCriteriaList, set_seed
from transformers.generation.streamers import BaseStreamer

from blip_model import OVBlipModel
from blip_openvino.ir.checkpoint import generate_caption
from blip_openvino.ir.convert import convert
from blip_openvino.ir.files import PARTS_OF_ARCHITECTURE, TEXT_ENCODER, VISION_MODEL, load_config
from blip_openvino.runtime.arrays import is_tensor
from blip_openvino.runtime.decoder import OVTextDecoder

PARTS = PARTS_OF_ARCHITECTURE["BlipForQuestionAnswering"]


@pytest.fixture(scope="module")
def sample(easy_vqa):
    """500 questions spread over the test split."""
    return list(range(0, len(easy_vqa.questions), len(easy_vqa.questions) // 500))[:500]


@pytest.fixture(scope="module")
def mixed_questions(easy_vqa, processor):
    """64 questions of different lengths about 64 images, in one padded batch."""
    chosen = sorted(range(640), key=lambda index: (index * 37) % 101)[:64]
    texts = [easy_vqa.questions[index].question * (1 + place % 3) for place, index in enumerate(chosen)]
    batch = processor(text=texts, padding=True, return_tensors="pt")
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) > 5
    return easy_vqa.pixel_values[[easy_vqa.image_row[index] for index in chosen]], batch


def test_greedy_answers_equal_pytorch_on_the_whole_test_split(easy_vqa, f32_model, torch_greedy, all_questions):
    assert len(torch_greedy) == 9673
    assert torch.equal(easy_vqa.openvino_answers(f32_model, all_questions), torch_greedy)


def test_greedy_captions_equal_pytorch_on_all_test_images(easy_vqa, f32_model, torch_captions):
    assert len(torch_captions) == 1000
    assert torch.equal(padded(list(f32_model.generate_caption(easy_vqa.pixel_values))), torch_captions)


def test_fp16_weights_change_at_most_one_answer_and_caption_in_a_thousand(
    easy_vqa, fp16_model, torch_greedy, torch_captions, all_questions
):
    same = (easy_vqa.openvino_answers(fp16_model, all_questions) == torch_greedy).all(dim=1)
    assert same.float().mean() >= 0.999
    same = (padded(list(fp16_model.generate_caption(easy_vqa.pixel_values))) == torch_captions).all(dim=1)
    assert same.float().mean() >= 0.999


@pytest.mark.parametrize("num_beams", [3, 5])
def test_beam_search_equals_pytorch(easy_vqa, checkpoint, f32_model, sample, num_beams):
    expected = easy_vqa.torch_answers(checkpoint, sample, num_beams=num_beams)
    assert torch.equal(easy_vqa.openvino_answers(f32_model, sample, num_beams=num_beams), expected)
    images = easy_vqa.pixel_values[:100]
    expected = generate_caption(checkpoint, images, num_beams=num_beams)
    assert torch.equal(f32_model.generate_caption(images, num_beams=num_beams), expected)


@pytest.fixture(scope="module", params=[1, 2, 3])
def random_pair(request):
    """A model with random weights in PyTorch and in OpenVINO: it writes long, varied texts, the embedded one words."""
    model = random_model(request.param)
    return model, in_openvino(model)


def test_generation_of_random_models_equals_pytorch(random_pair):
    model, ours = random_pair
    size = model.config.vision_config.image_size
    pixel_values = torch.randn(4, 3, size, size)
    input_ids = torch.randint(5, 80, (4, 6))
    for arguments in (
        {"max_new_tokens": 30},
        {"num_beams": 3, "max_new_tokens": 30},
        {"num_beams": 4, "num_return_sequences": 2},
        {"max_length": 12, "repetition_penalty": 1.5},
        {"use_cache": False},
    ):
        expected = model.generate(input_ids=input_ids, pixel_values=pixel_values, **arguments)
        assert torch.equal(ours.generate_answer(pixel_values, input_ids, **arguments), expected), arguments
        expected = generate_caption(model, pixel_values, **arguments)
        assert torch.equal(ours.generate_caption(pixel_values, **arguments), expected), arguments


SAMPLING = {"do_sample": True, "temperature": 2.0, "top_p": 0.95, "max_new_tokens": 8}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sampling_with_a_seed_equals_pytorch(easy_vqa, checkpoint, f32_model, seed):
    images = easy_vqa.pixel_values[:50]
    set_seed(seed)
    expected = generate_caption(checkpoint, images, **SAMPLING)
    set_seed(seed)
    assert torch.equal(f32_model.generate_caption(images, **SAMPLING), expected)


def test_sampling_of_random_models_equals_pytorch(random_pair):
    model, ours = random_pair
    size = model.config.vision_config.image_size
    pixel_values, input_ids = torch.randn(8, 3, size, size), torch.randint(5, 80, (8, 6))
    set_seed(7)
    expected = model.generate(input_ids=input_ids, pixel_values=pixel_values, **SAMPLING)
    set_seed(7)
    assert torch.equal(ours.generate_answer(pixel_values, input_ids, **SAMPLING), expected)


def test_answer_does_not_depend_on_batch(f32_model, mixed_questions):
    pixel_values, batch = mixed_questions
    together = f32_model.generate_answer(pixel_values, **batch)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = f32_model.generate_answer(pixel_values[order], batch["input_ids"][order], batch["attention_mask"][order])
    assert torch.equal(shuffled, together[order])
    for index in range(64):
        length = batch["attention_mask"][index].sum()
        alone = f32_model.generate_answer(
            pixel_values[index : index + 1], batch["input_ids"][index : index + 1, :length]
        )
        assert torch.equal(padded(list(alone)), padded(list(together[index : index + 1])))


def test_one_image_serves_all_questions_and_is_encoded_once(f32_model, mixed_questions, monkeypatch):
    pixel_values, batch = mixed_questions
    encoded = []
    encode = f32_model.encode_images
    monkeypatch.setattr(f32_model, "encode_images", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    shared = f32_model.generate_answer(pixel_values[:1], **batch, num_beams=2)
    assert encoded == [1]
    repeated = f32_model.generate_answer(pixel_values[:1].expand(64, -1, -1, -1), **batch, num_beams=2)
    assert torch.equal(shared, repeated)


def test_caption_continues_a_prompt_as_pytorch(processor, checkpoint, f32_model, easy_vqa):
    prompt = processor(text="a teal", return_tensors="pt")
    found = f32_model.generate_caption(easy_vqa.pixel_values[:20], **{n: t.expand(20, -1) for n, t in prompt.items()})
    config = checkpoint.config.text_config
    with torch.no_grad():
        embeds = checkpoint.vision_model(easy_vqa.pixel_values[:20]).last_hidden_state
        start = prompt["input_ids"][:, :-1].clone()
        start[:, 0] = config.bos_token_id
        expected = checkpoint.text_decoder.generate(
            start.expand(20, -1),
            encoder_hidden_states=embeds,
            encoder_attention_mask=torch.ones(embeds.shape[:2]),
            eos_token_id=config.sep_token_id,
            pad_token_id=config.pad_token_id,
        )
    assert torch.equal(found, expected)
    assert all(text.startswith("a teal") for text in processor.batch_decode(found, skip_special_tokens=True))


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_caption_does_not_depend_on_other_prompts_in_its_batch(processor, f32_model, easy_vqa, arguments):
    prompts = ["a", "a teal", "a red circle a blue", "a green", "a"]
    images, rows = easy_vqa.pixel_values[:5], arguments.get("num_return_sequences", 1)
    batch = processor(text=prompts, padding=True, return_tensors="pt")
    original = batch["input_ids"].clone()
    together = f32_model.generate_caption(images, **batch, **arguments)
    assert torch.equal(batch["input_ids"], original)
    for index, prompt in enumerate(prompts):
        alone = f32_model.generate_caption(
            images[index : index + 1], **processor(text=prompt, return_tensors="pt"), **arguments
        )
        # Texts, not ids: beam search fills up finished rows with [SEP] while others in the batch go on.
        found = processor.batch_decode(together[index * rows : (index + 1) * rows], skip_special_tokens=True)
        assert found == processor.batch_decode(alone, skip_special_tokens=True)


class TokenCollector(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


@pytest.mark.parametrize("arguments", [{}, {"repetition_penalty": 1.0}], ids=["bare loop", "transformers' loop"])
def test_streamer_gets_every_token(f32_model, easy_vqa, arguments):
    streamer = TokenCollector()
    ids = f32_model.generate_caption(easy_vqa.pixel_values[:1], streamer=streamer, **arguments)
    assert streamer.ended
    assert streamer.tokens == ids[0].tolist()


@pytest.mark.parametrize("arguments", [{}, {"max_new_tokens": 1}, {"min_new_tokens": 6, "max_new_tokens": 7}])
def test_plain_greedy_search_gives_what_transformers_loop_gives_without_running_it(
    f32_model, mixed_questions, monkeypatch, arguments
):
    pixel_values, batch = mixed_questions
    images = f32_model.encode_images(pixel_values)
    answers = f32_model.generate_answer(images, **batch, **arguments, repetition_penalty=1.0)
    captions = f32_model.generate_caption(images, **arguments, repetition_penalty=1.0)
    monkeypatch.setattr(GenerationMixin, "generate", None)
    assert torch.equal(f32_model.generate_answer(images, **batch, **arguments, do_sample=False, num_beams=1), answers)
    assert torch.equal(f32_model.generate_caption(images, **arguments), captions)


@pytest.mark.parametrize("length", [0, -1])
def test_impossible_lengths_are_refused(f32_model, easy_vqa, length):
    with pytest.raises(ValueError, match="max_new_tokens"):
        f32_model.generate_caption(easy_vqa.pixel_values[:1], max_new_tokens=length)


def test_what_the_generation_configuration_asks_for_is_done(random_pair):
    model, ours = random_pair
    size = model.config.vision_config.image_size
    images = ours.encode_images(torch.randn(3, 3, size, size))
    expected = ours.generate_caption(images, max_new_tokens=9, no_repeat_ngram_size=1)
    assert not torch.equal(ours.generate_caption(images, max_new_tokens=9), expected)
    wishes = {"no_repeat_ngram_size": 1}
    decoder = OVTextDecoder(model.config.text_config, ours.text_decoder.text_decoder, wishes)
    wishful = OVBlipModel(model.config, model.decoder_start_token_id, ours.vision_model, ours.text_encoder, decoder)
    assert torch.equal(wishful.generate_caption(images, max_new_tokens=9), expected)


def test_encoded_images_are_asked_again_without_a_second_look(f32_model, mixed_questions):
    pixel_values, batch = mixed_questions
    expected = f32_model.generate_answer(pixel_values, **batch)
    images = f32_model.encode_images(pixel_values)
    others = {name: tensor.flip(0) for name, tensor in batch.items()}
    f32_model.generate_answer(images, **others)
    images.image_embeds[:] = 0
    assert torch.equal(f32_model.generate_answer(images, **batch), expected)


def test_images_that_another_model_encoded_are_refused(f32_model, random_pair):
    model, other = random_pair
    size = model.config.vision_config.image_size
    images = other.encode_images(torch.zeros(1, 3, size, size))
    with pytest.raises(ValueError, match="encoded by another model: use this one's encode_images"):
        f32_model.generate_answer(images, torch.tensor([[2, 9, 4]]))


def test_default_length_is_that_of_transformers_without_its_warning(random_pair, recwarn):
    model, ours = random_pair
    size = model.config.vision_config.image_size
    pixel_values, prompt = torch.randn(2, 3, size, size), torch.tensor([[2, 9, 10, 4]] * 2)
    found = ours.generate_caption(pixel_values, prompt)
    assert not [warning for warning in recwarn if "max_length" in str(warning.message)]
    with pytest.warns(UserWarning, match="max_length"):
        expected = generate_caption(model, pixel_values)
    assert torch.equal(ours.generate_caption(pixel_values), expected)
    assert found.shape[1] <= 3 + 20


def test_stopping_criteria_end_the_generation(f32_model, easy_vqa):
    criteria = StoppingCriteriaList([MaxLengthCriteria(2)])
    ids = f32_model.generate_caption(easy_vqa.pixel_values[:1], stopping_criteria=criteria)
    assert ids.shape == (1, 2)


def test_published_cells_run_as_written(converted, checkpoint, easy_vqa, processor):
    """The cells of the published notebook that compile the parts, patch the PyTorch decoder and generate."""
    import copy

    import openvino as ov

    model = copy.deepcopy(checkpoint)  # a shallow copy would share its parts, and the decoder is patched
    VISION_MODEL_OV, TEXT_ENCODER_OV, TEXT_DECODER_OV = (converted / part for part in PARTS)  # noqa: N806
    raw_image = Image.open(easy_vqa.paths[0]).convert("RGB")
    inputs = processor(raw_image, "what color is the shape?", return_tensors="pt")
    text_decoder = model.text_decoder

    core = ov.Core()
    ov_vision_model = core.compile_model(VISION_MODEL_OV, "CPU")
    ov_text_encoder = core.compile_model(TEXT_ENCODER_OV, "CPU")
    ov_text_decoder_with_past = core.compile_model(TEXT_DECODER_OV, "CPU")

    from blip_model import text_decoder_forward

    text_decoder.forward = partial(text_decoder_forward, ov_text_decoder_with_past=ov_text_decoder_with_past)

    ov_model = OVBlipModel(model.config, model.decoder_start_token_id, ov_vision_model, ov_text_encoder, text_decoder)
    out = ov_model.generate_answer(**inputs, max_length=20)
    answer = processor.decode(out[0], skip_special_tokens=True)
    out = ov_model.generate_caption(inputs["pixel_values"], max_length=20)
    caption = processor.decode(out[0], skip_special_tokens=True)

    expected = checkpoint.generate(**inputs, max_length=20)
    assert answer == processor.decode(expected[0], skip_special_tokens=True)
    expected = generate_caption(checkpoint, inputs["pixel_values"], max_length=20)
    assert caption == processor.decode(expected[0], skip_special_tokens=True)
    beams = {"num_beams": 3}
    assert torch.equal(ov_model.generate_answer(**inputs, **beams), checkpoint.generate(**inputs, **beams))


def test_threads_get_the_answers_they_would_get_alone(fp16_model, mixed_questions):
    pixel_values, batch = mixed_questions

    def answer(index: int) -> torch.Tensor:
        rows = {name: tensor[index : index + 1] for name, tensor in batch.items()}
        return fp16_model.generate_answer(pixel_values[index : index + 1], **rows, num_beams=1 + index % 3)

    alone = [answer(index) for index in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for found, expected in zip(pool.map(answer, range(64)), alone, strict=True):
            assert torch.equal(found, expected)


def test_loading_takes_no_pytorch_weights(f32_model, fp16_model, easy_vqa, converted):
    assert not list(converted.glob("*.safetensors"))
    fp16_model.generate_caption(easy_vqa.pixel_values[:1], num_beams=2)
    assert not list(fp16_model.text_decoder._driver.parameters())


def test_arrays_give_arrays_and_tensors_tensors(fp16_model, easy_vqa, processor):
    """Whichever search is asked for, and when images were encoded before."""
    pixels = easy_vqa.pixel_values[:2]
    text = dict(processor(text=["what color is the shape?", "is there a circle?"], padding=True, return_tensors="pt"))
    arrays = {name: tensor.numpy() for name, tensor in text.items()}
    for search in ({}, {"num_beams": 2}):
        for generate, tensor_text, array_text in (
            (fp16_model.generate_answer, text, arrays),
            (fp16_model.generate_caption, {}, {}),
            (fp16_model.generate_caption, text, arrays),  # as prompts, of two lengths
        ):
            expected = generate(pixels, **tensor_text, **search)
            found = generate(pixels.numpy(), **array_text, **search)
            assert isinstance(expected, torch.Tensor)
            assert isinstance(found, np.ndarray)
            assert found.dtype == np.int64
            assert found.tolist() == expected.tolist()
            encoded = generate(fp16_model.encode_images(pixels.numpy()), **array_text, **search)
            assert isinstance(encoded, np.ndarray)
            assert isinstance(generate(fp16_model.encode_images(pixels), **array_text, **search), torch.Tensor)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_new_tokens": np.int64(5)},
        {"max_new_tokens": 5, "min_new_tokens": 0},
        {"max_length": 6},
        {"num_beams": 1, "do_sample": False, "early_stopping": None},
    ],
)
def test_greedy_search_takes_the_bare_loop(fp16_model, easy_vqa, monkeypatch, arguments):
    pixels = easy_vqa.pixel_values[:3]
    monkeypatch.setattr(OVTextDecoder, "_driver", property(lambda self: None))
    found = fp16_model.generate_caption(pixels, **arguments)
    monkeypatch.undo()
    by_transformers = {"max_new_tokens": 20} | arguments | {"renormalize_logits": True}
    if "max_length" in arguments:
        del by_transformers["max_new_tokens"]
    assert torch.equal(found, fp16_model.generate_caption(pixels, **by_transformers))


def test_tensors_are_told_from_arrays_while_another_thread_imports_pytorch(monkeypatch):
    """A module in the middle of its import is there, but its names are not."""
    tensor = torch.zeros(1)
    assert is_tensor(tensor)
    assert not is_tensor(np.zeros(1))
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    assert not is_tensor(np.zeros(1))


def test_text_settings_that_are_no_numbers_reach_transformers_as_they_are(converted, easy_vqa, fp16_model):
    config = load_config(converted)
    config.text_config.pruned_heads, config.text_config.id2label = {}, {"0": "no", "1": "yes"}
    decoder = OVTextDecoder(config.text_config, fp16_model.text_decoder.text_decoder)
    model = OVBlipModel(config, fp16_model.decoder_start_token_id, fp16_model.vision_model, None, decoder)
    pixels = easy_vqa.pixel_values[:2]
    expected = fp16_model.generate_caption(pixels, num_beams=2)
    assert torch.equal(model.generate_caption(pixels, num_beams=2), expected)


def test_streamer_gets_what_the_generation_gives(fp16_model, easy_vqa):
    class Kinds(BaseStreamer):
        def __init__(self):
            self.seen = set()

        def put(self, value):
            self.seen.add(type(value))

        def end(self):
            self.seen.add("end")

    pixels = easy_vqa.pixel_values[:1]
    for given, kind in ((pixels, torch.Tensor), (pixels.numpy(), np.ndarray)):
        for search in ({}, {"do_sample": True}):
            kinds = Kinds()
            fp16_model.generate_caption(given, streamer=kinds, **search)
            assert kinds.seen == {kind, "end"}


def test_greedy_answers_import_neither_pytorch_nor_transformers(converted, easy_vqa, fp16_model, processor):
    """In a process of its own: their imports take longer than loading the model."""
    script = f"""
import sys
import types
from blip_model import OVBlipModel
from blip_openvino.runtime.processor import OVBlipProcessor
folder = {str(converted)!r}
model, processor = OVBlipModel.from_pretrained(folder, "CPU"), OVBlipProcessor.from_pretrained(folder)
inputs = processor({easy_vqa.paths[0]!r}, "what color is the shape?")
print(processor.decode(model.generate_answer(**inputs)[0]))
print(processor.decode(model.generate_caption(inputs["pixel_values"])[0]))
assert not {{"torch", "transformers"}} & sys.modules.keys(), "imported"
print(processor.decode(model.generate_caption(inputs["pixel_values"], num_beams=3)[0]))
assert {{"torch", "transformers"}} <= sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    inputs = processor(text="what color is the shape?", return_tensors="pt")
    pixels = easy_vqa.pixel_values[:1]
    expected = [
        fp16_model.generate_answer(pixels, **inputs),
        fp16_model.generate_caption(pixels),
        fp16_model.generate_caption(pixels, num_beams=3),
    ]
    assert done.stdout.splitlines() == [processor.decode(ids[0], skip_special_tokens=True) for ids in expected]


def test_properties_reach_the_cpu_through_auto_too(converted, easy_vqa, fp16_model):
    model = OVBlipModel.from_pretrained(converted, "AUTO", ov_config=F32)
    images = easy_vqa.pixel_values[:3]
    assert torch.equal(model.generate_caption(images), fp16_model.generate_caption(images))


def test_device_auto_answers_too(converted, easy_vqa):
    model = OVBlipModel.from_pretrained(converted)
    assert model.generate_caption(easy_vqa.pixel_values[:1]).shape[0] == 1


def test_unknown_device_is_named_with_the_choices(converted):
    with pytest.raises(ValueError, match=r"there is no device 'TPU' here; choose one of \['CPU'.*'AUTO'\]"):
        OVBlipModel.from_pretrained(converted, "TPU")


def test_missing_folder_and_unconverted_checkpoint_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"make one with blip_convert\.py"):
        OVBlipModel.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"run python blip_convert\.py"):
        OVBlipModel.from_pretrained(EMBEDDED)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_missing_part_is_named(converted, tmp_path, part, suffix):
    folder = shutil.copytree(converted, tmp_path / "copy")
    missing = (folder / part).with_suffix(suffix)
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing.name} is missing: run python blip_convert"):
        OVBlipModel.from_pretrained(folder, "CPU")


@pytest.fixture(scope="module")
def other(processor, tmp_path_factory):
    return convert(random_model(1), processor, tmp_path_factory.mktemp("other"))


@pytest.mark.parametrize("part", PARTS)
def test_part_of_another_model_is_refused(converted, other, tmp_path, part):
    folder = shutil.copytree(converted, tmp_path / "copy")
    for suffix in (".xml", ".bin"):
        shutil.copy((other / part).with_suffix(suffix), (folder / part).with_suffix(suffix))
    with pytest.raises(ValueError, match=f"{part} was made from checkpoint .* but config.json from"):
        OVBlipModel.from_pretrained(folder, "CPU")


def test_wrong_inputs_are_named_and_the_next_answer_is_right(f32_model, easy_vqa, processor):
    pixel_values = easy_vqa.pixel_values[:2]
    inputs = processor(text=["what color is the shape?"] * 2, return_tensors="pt")
    before = f32_model.generate_answer(pixel_values, **inputs)
    ids = inputs["input_ids"]
    for arguments, message in (
        ((pixel_values[:, :, :32], ids), r"pixel_values is \[2, 3, 32, 64\]; this model takes \[images, 3, 64, 64\]"),
        ((pixel_values[:0], ids), r"pixel_values is \[0, 3, 64, 64\]"),
        ((easy_vqa.pixel_values[:3], ids), "3 images do not go with 2 texts"),
        ((pixel_values, ids[0]), r"input_ids is \[8\] of int64"),
        ((pixel_values, ids.float()), "of float32"),
        ((pixel_values, ids.repeat(1, 100)), "the text is 800 tokens long; the model takes 512"),
        ((pixel_values, ids + 1000), "outside the vocabulary"),
        ((pixel_values, ids, torch.ones(2, 3)), r"attention_mask is \[2, 3\] but input_ids is \[2, 8\]"),
        ((pixel_values, ids, torch.zeros(2, 8)), "hides every token"),
    ):
        with pytest.raises(ValueError, match=message):
            f32_model.generate_answer(*arguments)
    with pytest.raises(ValueError, match="num_beam"):
        f32_model.generate_answer(pixel_values, ids, num_beam=3)
    assert torch.equal(f32_model.generate_answer(pixel_values, **inputs), before)


def test_converted_folder_has_all_parts(converted):
    assert {VISION_MODEL, TEXT_ENCODER} < {path.name for path in converted.iterdir()}
