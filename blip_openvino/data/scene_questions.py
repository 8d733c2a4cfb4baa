"""What is asked about drawn scenes: questions of ten kinds, each with one right answer.

    scene = make_scene(7)
    for question in scene_questions(scene):
        print(question.kind, question.question, question.answer)

Whatever a question asks, its answers are balanced, so that the text alone gives nothing away.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from blip_openvino.data.scene_captions import PLURALS, position
from blip_openvino.data.scene_shapes import COLOURS
from blip_openvino.data.scenes import (
    ACTIVITIES,
    ANIMALS,
    CELLS,
    PLACES,
    THINGS,
    VEHICLES,
    WORDS,
    Item,
    Scene,
    skies_of,
)

TIMES = {"sunny": "day", "cloudy": "day", "rainy": "day", "sunset": "evening", "night": "night"}

# What knowledge is asked for, and the things that have it.
KNOWLEDGE = {
    "which of them can fly?": {"bird", "butterfly", "plane", "kite"},
    "which of them has wings?": {"bird", "butterfly", "plane"},
    "which of them is an animal?": set(ANIMALS),
    "which of them has four legs?": {"dog", "cat", "horse", "rabbit"},
    "which of them is a vehicle?": set(VEHICLES),
    "which of them has an engine?": {"car", "bus", "plane"},
    "which of them is a toy?": {"ball", "kite"},
    "which of them is a plant?": {"tree", "flower"},
}
# Common sense: the places and skies for which the answer is yes.
SENSE = {
    "should they take an umbrella?": {"rainy"},
    "do they need a raincoat?": {"rainy"},
    "should they wear sunglasses?": {"sunny"},
    "do they need a lamp?": {"night"},
    "can they see the stars?": {"night"},
    "can they swim here?": {"beach"},
    "can they build a snowman?": {"snow"},
    "should they wear warm clothes?": {"snow"},
    "should they stay on the sidewalk?": {"street"},
    "can they have a picnic on the grass?": {"field"},
    "is it hard to find water here?": {"desert"},
}
TO_TAKE = {"rainy": "umbrella", "sunny": "sunglasses", "night": "lamp"}
TO_DO = {"beach": "swim", "snow": "ski", "street": "shop", "field": "picnic", "desert": "ride a camel"}

Asked = tuple[str, str]
"""A question's text and its answer."""


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene with its one right answer; `kind` is a key of `KINDS`."""

    kind: str
    question: str
    answer: str


def lone_items(scene: Scene) -> list[Item]:
    """The items that "the dog", "the person" or "the sign" means: of each, there is no other of its kind."""
    counts = Counter(item.kind for item in scene.items)
    return [item for item in scene.items if counts[item.kind] == 1]


def kinds_and_colours(scene: Scene) -> list[tuple[str, str]]:
    """The things in a scene, those of a group once."""
    return sorted({(item.kind, item.colour) for item in scene.items if item.kind in THINGS})


def yes_or_no(is_true: bool) -> str:
    """ "yes" or "no"."""
    return "yes" if is_true else "no"


def right_or_not(right: str, words: Sequence[str], rng: random.Random) -> str:
    """What is right, or as often another of `words`."""
    return right if rng.random() < 0.5 else rng.choice([word for word in words if word != right])


def evenly(question: str, holds: set[str], scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Ask what is true of the places and skies in `holds`, or do not, such that half of the scenes asked have it."""
    share = fmean(fmean(place in holds or sky in holds for sky in skies_of(place)) for place in PLACES)
    kept = share / (1 - share)
    is_true = scene.place in holds or scene.sky in holds
    if rng.random() < (min(1, 1 / kept) if is_true else min(1, kept)):
        yield question, yes_or_no(is_true)


def object_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """What something is, known by where it is, its colour or its class."""
    for item in scene.items:
        yield f"what is at the {CELLS[item.cell]}?", item.kind
    empty = sorted(set(range(len(CELLS))) - {item.cell for item in scene.items})
    if empty and rng.random() < 0.3:
        yield f"what is at the {CELLS[rng.choice(empty)]}?", "nothing"
    for colour in COLOURS:
        kinds = {item.kind for item in scene.items if item.colour == colour and item.kind != "sign"}
        if len(kinds) == 1 and "person" not in kinds:
            yield f"what is {colour}?", *kinds
    for name, members in (("animal", ANIMALS), ("vehicle", VEHICLES)):
        kinds = {item.kind for item in scene.items} & set(members)
        if len(kinds) == 1:
            yield f"what {name} is in the picture?", *kinds


def detection_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Whether something is there, plainly and negated, and where."""
    for item in lone_items(scene):
        yield f"where is the {item.kind}?", CELLS[item.cell]
    present = kinds_and_colours(scene)
    kinds = [kind for kind, _ in present]
    for question in ("is there {}?", "is there {} in the picture?", "is there no {}?"):
        is_there = rng.random() < 0.5
        if present or not is_there:
            kind = rng.choice(kinds if is_there else [kind for kind in THINGS if kind not in kinds])
            if "no {}" in question:
                yield question.format(kind), yes_or_no(not is_there)
            else:
                yield question.format(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"), yes_or_no(is_there)
    if present:
        kind, colour = rng.choice(present)
        is_there = rng.random() < 0.5
        if not is_there:  # the colour or the thing is there all the same
            kind, colour = rng.choice(
                [(kind, other) for other in COLOURS if other != colour]
                if rng.random() < 0.5
                else [(other, colour) for other in THINGS if (other, colour) not in present]
            )
        yield f"is there a {colour} {kind}?", yes_or_no(is_there)


def attribute_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Colours of things and of people's shirts."""
    counts = Counter(item.kind for item in scene.items)
    for kind, colour in kinds_and_colours(scene):
        verb, noun = ("is", kind) if counts[kind] == 1 else ("are", PLURALS[kind])
        yield f"what color {verb} the {noun}?", colour
        shown = right_or_not(colour, COLOURS, rng)
        yield f"{verb} the {noun} {shown}?", yes_or_no(shown == colour)
    for item in scene.items:
        if item.kind in THINGS:
            yield f"what color is the thing at the {CELLS[item.cell]}?", item.colour
        elif item.kind == "person":
            yield f"what color is worn by the person {item.detail}?", item.colour


def scene_type_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Place, weather and time of day."""
    yield "what place is this?", scene.place
    yield "where was this picture taken?", scene.place
    time = TIMES[scene.sky]
    if time == "day":
        yield "what is the weather like?", scene.sky
    if rng.random() < (1 / 3 if time == "day" else 1):
        yield "what time of day is it?", time
    place = right_or_not(scene.place, PLACES, rng)
    yield f"is this {'' if place == 'snow' else 'a '}{place}?", yes_or_no(place == scene.place)
    yield from evenly("is it night?", {"night"}, scene, rng)


def counting_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """How many there are, from 0 to 5, of one kind or of a class."""
    counts = Counter(item.kind for item in scene.items)
    things = {kind: count for kind, count in counts.items() if kind in THINGS}
    counted = [(PLURALS[kind], count) for kind, count in things.items() if count > 1]
    once = [kind for kind, count in things.items() if count == 1]
    if once and rng.random() < 0.18:
        counted.append((PLURALS[rng.choice(once)], 1))
    if rng.random() < 0.13:
        counted.append((PLURALS[rng.choice([kind for kind in THINGS if kind not in things])], 0))
    if rng.random() < (0.4 if counts["person"] else 0.2):
        counted.append(("people", counts["person"]))
    for name, members in (("animals", ANIMALS), ("vehicles", VEHICLES)):
        count = sum(counts[kind] for kind in members)
        if count < 6 and rng.random() < (0.15 if count else 0.08):
            counted.append((name, count))
    for name, count in counted:
        yield f"how many {name} are in the picture?", str(count)


def activity_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """What people are doing."""
    people = [item for item in scene.items if item.kind == "person"]
    for person in people:
        yield f"what is the person in {person.colour} doing?", person.detail
        yield f"what is the person at the {CELLS[person.cell]} doing?", person.detail
        if len(people) == 1:
            yield "what is the person doing?", person.detail
    if people:
        done = [person.detail for person in people]
        is_done = rng.random() < 0.5
        activity = rng.choice(done if is_done else [activity for activity in ACTIVITIES if activity not in done])
        yield f"is someone {activity}?", yes_or_no(is_done)


def relation_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Left, right, above, below and between.

    "what is to the left of the tree?" is asked where one item alone is left of it in the whole picture, and where three
    or more kinds of items are there beside the tree: leaving the tree out does not leave the answer. So it is with what
    stands between two items in a row.
    """
    lone = lone_items(scene)
    for item in lone:
        row, column = position(item)
        others = [other for other in scene.items if other != item]
        found = {
            "to the left of": [other for other in others if position(other)[1] < column],
            "to the right of": [other for other in others if position(other)[1] > column],
            "above": [other for other in others if position(other) == (row - 1, column)],
            "below": [other for other in others if position(other) == (row + 1, column)],
        }
        for side, items in found.items():
            if len(items) == 1 and len({other.kind for other in others}) >= 3:
                yield f"what is {side} the {item.kind}?", items[0].kind
    for middle in scene.items:
        row, column = position(middle)
        ends = [item for item in lone if position(item)[0] == row and item != middle]
        kinds = {item.kind for item in scene.items} - {item.kind for item in ends}
        if column == 1 and len(ends) == 2 and len(kinds) >= 3:
            yield f"what is between the {ends[0].kind} and the {ends[1].kind}?", middle.kind
    if len(lone) >= 2:
        yield compared_places(*rng.sample(lone, 2), rng)


def compared_places(first: Item, second: Item, rng: random.Random) -> Asked:
    """Whether one item is left or right of another, or above or below it in the same column."""
    (row, column), (other_row, other_column) = position(first), position(second)
    sides = ("above", "below") if column == other_column else ("to the left of", "to the right of")
    side = rng.choice(sides)
    is_first = (column, row) < (other_column, other_row)
    return f"is the {first.kind} {side} the {second.kind}?", yes_or_no(is_first == (side == sides[0]))


def sense_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """What the place and the weather mean for people."""
    for question, holds in SENSE.items():
        yield from evenly(question, holds, scene, rng)
    if scene.sky in TO_TAKE:
        yield "what should they take with them?", TO_TAKE[scene.sky]
    yield "what do people come here to do?", TO_DO[scene.place]


def knowledge_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """Which of the things in the picture can do something, is something or has something; sometimes none."""
    kinds = {item.kind for item in scene.items}
    for question, members in KNOWLEDGE.items():
        found = kinds & members
        is_clear = len(kinds) > 1 and len(found) < 2 and not ("animal" in question and "person" in kinds)
        if is_clear and (found or rng.random() < 0.15):
            yield question, *(found or {"none"})


def reading_questions(scene: Scene, rng: random.Random) -> Iterator[Asked]:
    """What the sign says."""
    for sign in (item for item in scene.items if item.kind == "sign"):
        yield "what does the sign say?", sign.detail
        yield "what is written on the sign?", sign.detail
        word = right_or_not(sign.detail, WORDS, rng)
        yield f"does the sign say {word}?", yes_or_no(word == sign.detail)


KINDS: dict[str, Callable[[Scene, random.Random], Iterator[Asked]]] = {
    "object recognition": object_questions,
    "detection": detection_questions,
    "attributes": attribute_questions,
    "scene": scene_type_questions,
    "counting": counting_questions,
    "activity": activity_questions,
    "spatial relations": relation_questions,
    "common sense": sense_questions,
    "knowledge": knowledge_questions,
    "reading": reading_questions,
}


def scene_questions(scene: Scene, per_kind: int = 2) -> list[SceneQuestion]:
    """Ask up to `per_kind` different questions of each of the ten kinds, the same for scenes of one key."""
    rng = random.Random(repr(scene.key))
    questions = []
    for kind, ask in KINDS.items():
        asked = sorted(set(ask(scene, rng)))
        questions += [SceneQuestion(kind, *each) for each in rng.sample(asked, min(per_kind, len(asked)))]
    return questions
