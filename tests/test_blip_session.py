import io
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import EMBEDDED
from PIL import Image
from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

from blip_openvino.apps.session import ModelFolder, Options, Recent, answer_or_caption, ask
from blip_openvino.apps.streaming import stream_tokens
from blip_openvino.ir.convert import convert
from blip_openvino.ir.easy_vqa import load_captions
from blip_openvino.ir.files import TEXT_DECODER, quantized_name


@pytest.fixture(scope="module")
def folder(converted):
    return ModelFolder(converted)


@pytest.fixture(scope="module")
def captions():
    return dict(list(load_captions("test").items())[:8])


@pytest.fixture
def image_file(captions):
    return Path(next(iter(captions))).read_bytes()


@pytest.fixture(scope="module")
def other_folder(processor, tmp_path_factory):
    """A converted checkpoint of the embedded model's geometry and of another architecture, with random weights."""

    def make(model_class) -> ModelFolder:
        torch.manual_seed(0)
        model = model_class(BlipConfig.from_pretrained(EMBEDDED)).eval()
        model.config.architectures = [model_class.__name__]
        return ModelFolder(convert(model, processor, tmp_path_factory.mktemp("other") / model_class.__name__))

    return make


def last(replies):
    *_, final = replies
    assert final.is_final
    return final


def generation_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("blip-generate")]


def encoded(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("options", "kwargs"),
    [
        ({}, {"max_new_tokens": 20, "num_beams": 1}),
        ({"max_new_tokens": 5, "num_beams": 3}, {"max_new_tokens": 5, "num_beams": 3}),
        (
            {"temperature": 0.7, "top_p": 0.9},
            {"max_new_tokens": 20, "num_beams": 1, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0},
        ),
        ({"top_p": 0.5}, {"max_new_tokens": 20, "num_beams": 1}),
    ],
)
def test_options_become_the_arguments_of_generate(options, kwargs):
    assert Options(**options).generate_kwargs() == kwargs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it takes a whole number from 1 to 100"),
        ({"max_new_tokens": "20"}, "max_new_tokens is '20'"),
        ({"num_beams": 2.5}, "num_beams is 2.5; it takes a whole number from 1 to 10"),
        ({"num_beams": True}, "num_beams is True"),
        ({"temperature": float("nan")}, "temperature is nan; it takes a number from 0 to 2.0"),
        ({"top_p": None}, "top_p is None; it takes a number from 0.01 to 1"),
    ],
)
def test_options_out_of_range_are_refused_with_the_value_and_the_range(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_folder_lists_the_devices_that_are_here_and_auto(folder):
    assert folder.devices[0] == "CPU"
    assert folder.devices[-1] == "AUTO"


def test_folder_lists_a_precision_only_when_all_its_files_are_there(converted, tmp_path):
    copy = shutil.copytree(converted, tmp_path / "copy")
    assert ModelFolder(copy).precisions == ["FP16"]
    assert ModelFolder(copy).default_precision == "FP16"
    for file in list(copy.glob("*.xml")) + list(copy.glob("*.bin")):
        shutil.copy(file, quantized_name(str(file.with_suffix(".xml"))).removesuffix(".xml") + file.suffix)
    assert ModelFolder(copy).precisions == ["FP16", "INT8"]
    assert ModelFolder(copy).default_precision == "INT8"
    int4 = copy / quantized_name(TEXT_DECODER, "int4")
    shutil.copy(copy / TEXT_DECODER, int4)
    assert ModelFolder(copy).precisions == ["FP16", "INT8"]
    shutil.copy((copy / TEXT_DECODER).with_suffix(".bin"), int4.with_suffix(".bin"))
    assert ModelFolder(copy).precisions == ["FP16", "INT8", "INT4"]
    (copy / TEXT_DECODER).with_suffix(".bin").unlink()
    assert ModelFolder(copy).precisions == ["INT8", "INT4"]
    (copy / quantized_name("blip_vision_model.xml")).unlink()
    with pytest.raises(FileNotFoundError, match="has no model whole: run python blip_convert"):
        ModelFolder(copy)


def test_folder_says_what_device_and_precision_it_has_not(folder):
    with pytest.raises(ValueError, match="no device 'TPU' here; choose one of CPU, AUTO"):
        folder.load("TPU", "FP16")
    with pytest.raises(ValueError, match="no precision 'INT8' here; choose one of FP16"):
        folder.load("CPU", "INT8")


def test_caption_grows_by_a_word_at_a_time_and_answers_are_right(folder, captions):
    for path, caption in captions.items():
        content, (_, colour, shape) = Path(path).read_bytes(), caption.split()
        texts = [reply.text for reply in ask(folder, content)]
        assert list(dict.fromkeys(texts)) == ["", "a", f"a {colour}", caption]
        assert last(ask(folder, content, "what color is the shape?")).text == colour
        assert last(ask(folder, content, " what shape is present? ")).text == shape


def test_reply_names_the_time_of_every_stage_that_ran(folder, image_file):
    fresh = encoded(Image.new("RGB", (64, 64), (250, 251, 252)), "PNG")
    first = last(ask(folder, fresh, "is there a circle?"))
    assert set(first.milliseconds) - {"load model"} == {"preprocess", "vision", "text encoder", "decoder"}
    assert all(time > 0 for time in first.milliseconds.values())
    assert set(last(ask(folder, fresh)).milliseconds) == {"preprocess", "decoder"}


def test_asking_again_about_an_image_reuses_it_and_answers_the_same(converted, captions):
    folder, (one, two) = ModelFolder(converted), [Path(path).read_bytes() for path in list(captions)[:2]]
    first = last(ask(folder, one, "what color is the shape?"))
    again = last(ask(folder, one, "what color is the shape?"))
    assert not first.image_reused
    assert again.image_reused
    assert "vision" not in again.milliseconds
    assert again.text == first.text
    assert not last(ask(folder, two, "what color is the shape?")).image_reused
    assert not last(ask(folder, one, "what color is the shape?", device="CPU")).image_reused
    assert last(ask(folder, two)).image_reused


def test_sampling_streams_and_gives_what_generate_gives(folder, image_file):
    loaded = folder.load("AUTO", "FP16")
    options = Options(max_new_tokens=12, temperature=2.0)
    image = Image.open(io.BytesIO(image_file))
    for seed in range(3):
        torch.manual_seed(seed)
        replies = list(ask(folder, image_file, options=options))
        torch.manual_seed(seed)
        expected = answer_or_caption(loaded.model, folder.processor, image, "", **options.generate_kwargs())
        assert replies[-1].text == expected
        assert len({reply.text for reply in replies}) == len(expected.split()) + 1


def test_beams_come_all_at_once_and_give_what_generate_gives(folder, image_file):
    loaded, options = folder.load("AUTO", "FP16"), Options(num_beams=3)
    *growing, final = ask(folder, image_file, options=options)
    assert {reply.text for reply in growing} <= {"", final.text}
    image = Image.open(io.BytesIO(image_file))
    assert final.text == answer_or_caption(loaded.model, folder.processor, image, "", num_beams=3)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_closing_the_reply_stops_the_generation_and_leaves_no_thread(folder, image_file, num_beams):
    expected = last(ask(folder, image_file)).text
    running = ask(folder, image_file, options=Options(num_beams=num_beams))
    while not generation_threads():
        next(running)
    running.close()
    assert not generation_threads()
    assert last(ask(folder, image_file)).text == expected


def test_a_generation_that_nobody_reads_ends_within_a_step():
    steps = []

    def endless(streamer, num_beams):
        while True:
            steps.append(1)
            streamer.put(torch.tensor([7]))
            time.sleep(0.001)

    running = stream_tokens(endless, {"num_beams": 1})
    assert next(running) == [7]
    running.close()
    taken = len(steps)
    assert not generation_threads()
    assert len(steps) == taken


def test_an_error_of_generate_reaches_the_reader_and_leaves_no_thread():
    def failing(streamer, num_beams):
        streamer.put(torch.tensor([7]))
        raise ValueError("out of tokens")

    with pytest.raises(ValueError, match="out of tokens"):
        list(stream_tokens(failing, {"num_beams": 1}))
    assert not generation_threads()


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_after_a_bad_image_or_question_the_next_answer_is_right(folder, image_file, content):
    expected = last(ask(folder, image_file)).text
    for _ in range(2):
        with pytest.raises(ValueError, match="not an image"):
            list(ask(folder, content))
    with pytest.raises(ValueError, match="tokens long; the model takes 512"):
        list(ask(folder, image_file, "is there a circle? " * 200))
    assert last(ask(folder, image_file)).text == expected


def test_image_is_turned_upright_as_its_exif_says(folder, captions):
    image = Image.open(next(iter(captions))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 3
    for upright, turned in ((image, image.rotate(180)), (image.rotate(180), image)):
        file = io.BytesIO()
        turned.save(file, "PNG", exif=exif)
        loaded = folder.load("AUTO", "FP16")
        expected = answer_or_caption(loaded.model, folder.processor, upright, "what shape is present?")
        assert last(ask(folder, file.getvalue(), "what shape is present?")).text == expected


def test_threads_asking_at_once_get_what_each_would_get_alone(converted, captions):
    questions = ["", "what color is the shape?", "what shape is in the image?", "is there a circle?"]
    requests = [(Path(path).read_bytes(), question) for path in captions for question in questions]
    alone = [last(ask(ModelFolder(converted), *request, "CPU")).text for request in requests[:2]]
    folder = ModelFolder(converted)
    expected = [last(ask(folder, *request, "CPU")).text for request in requests]
    assert expected[:2] == alone
    for shared in (folder, ModelFolder(converted)):
        with ThreadPoolExecutor(8) as pool:
            at_once = pool.map(lambda request, shared=shared: last(ask(shared, *request, "CPU")).text, requests * 2)
            assert list(at_once) == expected * 2


def test_captioning_checkpoint_goes_on_from_a_beginning(other_folder, image_file):
    folder = other_folder(BlipForConditionalGeneration)
    assert folder.task == "caption"
    assert last(ask(folder, image_file, "a red")).text.startswith("a red")
    final = last(ask(folder, image_file, options=Options(max_new_tokens=3)))
    assert "text encoder" not in final.milliseconds


def test_retrieval_checkpoint_says_how_well_a_text_fits(other_folder, image_file, processor):
    folder = other_folder(BlipForImageTextRetrieval)
    assert folder.task == "match"
    final = last(ask(folder, image_file, "a red triangle"))
    inputs = processor(Image.open(io.BytesIO(image_file)), "a red triangle", return_tensors="pt")
    assert final.text == f"{folder.load('AUTO', 'FP16').model.match(**inputs).item():.1%}"
    assert set(final.milliseconds) == {"load model", "preprocess", "vision", "text encoder"}
    with pytest.raises(ValueError, match="there is no text: this model says how well one fits"):
        list(ask(folder, image_file, "  "))


def test_recent_makes_a_thing_once_for_all_who_ask_at_once():
    recent, made, start = Recent(2), [], threading.Barrier(8)

    def make():
        made.append(1)
        time.sleep(0.05)
        return "it"

    def get(_):
        start.wait()
        return recent.get("key", make)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(get, range(8))) == ["it"] * 8
    assert len(made) == 1


def test_recent_forgets_the_oldest_and_what_failed():
    recent = Recent(2)
    for key in ("a", "b", "a", "c"):
        recent.get(key, lambda key=key: key)
    assert ["a" in recent, "b" in recent, "c" in recent] == [True, False, True]
    with pytest.raises(OSError, match="full"):
        recent.get("d", lambda: (_ for _ in ()).throw(OSError("full")))
    assert "d" not in recent
    assert recent.get("d", lambda: "now") == "now"


def test_images_of_any_mode_are_answered(folder, captions):
    loaded, (path, caption) = folder.load("AUTO", "FP16"), next(iter(captions.items()))
    image = Image.open(path).convert("RGB")
    for mode in ("RGB", "RGBA", "CMYK"):
        assert answer_or_caption(loaded.model, folder.processor, image.convert(mode), "") == caption
