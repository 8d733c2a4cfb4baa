"""Drawn scenes: pictures show what scenes say, texts agree with them, and questions alone give nothing away."""

import hashlib
import random
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from blip_openvino.data.scene_captions import caption, inventory, position, wrong_captions
from blip_openvino.data.scene_questions import lone_items, scene_questions
from blip_openvino.data.scene_shapes import COLOURS, RGB, SHAPES
from blip_openvino.data.scenes import (
    ACTIVITIES,
    CELLS,
    PLACES,
    THINGS,
    WORDS,
    Item,
    Scene,
    draw_scene,
    make_scene,
    make_scenes,
    skies_of,
)


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(seed) for seed in range(4000)]


@pytest.fixture(scope="module")
def asked(scenes):
    """(scene, question) of every question."""
    return [(scene, question) for scene in scenes for question in scene_questions(scene)]


def cell_pixels(scene: Scene, cell: int) -> np.ndarray:
    """The pixels [H * W, 3] of a cell of the picture of a scene."""
    row, column = divmod(cell, 3)
    pixels = np.asarray(draw_scene(scene), np.int16)
    return pixels[22 + 38 * row : 55 + 38 * row, 2 + 32 * column : 30 + 32 * column].reshape(-1, 3)


def is_near(pixels: np.ndarray, colour: str) -> np.ndarray:
    return (abs(pixels - RGB[colour]) < 12).all(-1)


def test_texts_are_those_that_the_committed_models_were_trained_and_measured_on():
    """And so are the scenes: who changes what is drawn or asked trains anew."""
    texts = []
    for scene in map(make_scene, range(300)):
        wrong = wrong_captions(scene, random.Random(scene.jitter))
        texts.append(repr((scene, caption(scene), inventory(scene), wrong, scene_questions(scene, 9))))
    assert hashlib.blake2b("".join(texts).encode(), digest_size=8).hexdigest() == "cb85584872152f34"


def test_jitter_moves_what_is_drawn_and_changes_no_word():
    scene = make_scene(7)
    moved = replace(scene, jitter=scene.jitter + 1)
    assert draw_scene(scene).tobytes() == draw_scene(make_scene(7)).tobytes() != draw_scene(moved).tobytes()
    assert (moved.key, caption(moved), scene_questions(moved)) == (scene.key, caption(scene), scene_questions(scene))


def test_scenes_kept_for_measuring_differ_in_more_than_jitter():
    assert len({scene.key for scene in make_scenes(200)}) == 200
    assert make_scenes(3) == make_scenes(200)[:3]


def test_every_place_sky_thing_colour_activity_word_cell_and_count_occurs(scenes):
    items = [item for scene in scenes for item in scene.items]
    places_and_skies = {(place, sky) for place in PLACES for sky in skies_of(place)}
    assert {(scene.place, scene.sky) for scene in scenes} == places_and_skies
    assert {item.kind for item in items} == {*THINGS, "person", "sign"}
    assert {item.colour for item in items} == set(COLOURS)
    assert {item.detail for item in items} == {"", *ACTIVITIES, *WORDS}
    assert {item.cell for item in items} == set(range(len(CELLS)))
    counts = {count for scene in scenes for count in Counter(item.kind for item in scene.items).values()}
    assert counts == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", [0, 4])
def test_a_colour_is_seen_where_its_thing_is_and_not_in_another_cell(shape, cell):
    kind, detail = ("person", shape) if shape in ACTIVITIES else (shape, "")
    for sky in ("sunny", "night"):
        scene = Scene("field", sky, (Item(cell, kind, "purple", detail),), jitter=cell)
        assert is_near(cell_pixels(scene, cell), "purple").sum() > 25
        assert not any(is_near(cell_pixels(scene, other), "purple").any() for other in range(6) if other != cell)


def test_places_skies_things_activities_and_words_all_look_different():
    def picture(place="field", sky="sunny", **item):
        return draw_scene(Scene(place, sky, (Item(**{"cell": 4, "kind": "dog", "colour": "red"} | item),))).tobytes()

    pictures = [picture(place, sky) for place in PLACES for sky in skies_of(place)]
    pictures += [picture(kind=kind, colour="blue") for kind in THINGS]
    pictures += [picture(kind="person", detail=activity) for activity in ACTIVITIES]
    pictures += [picture(kind="sign", detail=word) for word in WORDS]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize(
    ("place", "sky", "items", "expected"),
    [
        ("beach", "sunny", [Item(0, "dog", "red")], "a red dog at the top left on the sunny beach"),
        (
            "snow",
            "night",
            [Item(3, "tree", "blue"), Item(5, "cat", "pink")],
            "a pink cat to the right of a blue tree in the snow at night",
        ),
        (
            "street",
            "rainy",
            [Item(1, "house", "black"), Item(4, "person", "red", "reading")],
            "a person in red reading below a black house on the rainy street",
        ),
        (
            "field",
            "sunset",
            [Item(0, "sign", detail="stop"), Item(1, "person", "red", "fishing"), Item(2, "person", "blue", "running")],
            "a person in red fishing between a stop sign and a person in blue in the field at sunset",
        ),
        (
            "desert",
            "cloudy",
            [Item(0, "bus", "white"), Item(1, "ball", "green"), Item(5, "bus", "white")],
            "two white buses and a green ball in the cloudy desert",
        ),
    ],
)
def test_caption_says_what_is_where(place, sky, items, expected):
    assert caption(Scene(place, sky, tuple(items))) == expected


def test_wrong_captions_differ_in_one_word_and_are_no_other_caption_of_the_scene(scenes):
    kinds = Counter()
    for seed, scene in enumerate(scenes[:500]):
        for kind, wrong in wrong_captions(scene, random.Random(seed)):
            words, wrong_words = caption(scene).split(), wrong.split()
            assert sum(a != b for a, b in zip(words, wrong_words, strict=True)) == 1
            kinds[kind] += 1
    assert {"colour", "number", "thing", "place"} < set(kinds)


def test_no_question_has_two_answers(asked):
    answers = defaultdict(set)
    for scene, question in asked:
        answers[scene.key, question.question].add(question.answer)
    assert {len(each) for each in answers.values()} == {1}


def test_the_best_guess_from_the_text_alone_is_right_at_most_half_of_the_time(asked):
    """For every text, the best guess is its most frequent answer."""
    answers = defaultdict(lambda: defaultdict(Counter))
    for _, question in asked:
        answers[question.kind][question.question][question.answer] += 1
    assert len(answers) == 10
    for kind, by_text in answers.items():
        right = sum(max(counts.values()) for counts in by_text.values())
        assert right <= sum(counts.total() for counts in by_text.values()) / 2, kind


def test_answers_agree_with_the_scene(asked):
    """Of each form of question that can be read without repeating how it was made."""
    checked = Counter()
    for scene, question in asked:
        words = question.question.rstrip("?").split()
        kinds = [item.kind for item in scene.items]
        lone = {item.kind: item for item in lone_items(scene)}
        match words:
            case ["how", "many", plural, *_] if plural.rstrip("s") in THINGS:
                right = str(kinds.count(plural.rstrip("s")))
            case ["where", "is", "the", kind]:
                right = CELLS[lone[kind].cell]
            case ["is", "there", "no", kind]:
                right = "no" if kind in kinds else "yes"
            case ["what", "color", "is", "the", kind] if kind in THINGS:
                right = lone[kind].colour
            case ["what", "is", "the", "person", "doing"]:
                right = lone["person"].detail
            case ["what", "does", "the", "sign", "say"]:
                right = lone["sign"].detail
            case ["what", "is", "above", "the", kind]:
                right = next(item.kind for item in scene.items if item.cell == lone[kind].cell - 3)
            case ["is", "the", kind, "to", "the", "left", "of", "the", other]:
                right = "yes" if position(lone[kind])[1] < position(lone[other])[1] else "no"
            case _:
                continue
        assert question.answer == right, (scene, question)
        checked[" ".join(words[:3])] += 1
    assert len(checked) > 8
