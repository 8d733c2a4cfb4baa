"""What is asked about drawn scenes: questions of ten kinds, each with one right answer.

    scene = make_scene(7)
    for question in scene_questions(scene):
        print(question.kind, question.question, question.answer)

Whatever a question asks, its answers are balanced, so that the text alone gives nothing away.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


def with_article(noun: str) -> str:
    """ "a dog", "an umbrella"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def lone_items(scene: Scene) -> list[Item]:
    """The items that "the dog", "the person" or "the sign" means: of each, there is no other of its kind."""
    counts = Counter(item.kind for item in scene.items)
    return [item for item in scene.items if counts[item.kind] == 1]


def yes_or_no(is_true: bool) -> str:
    """ "yes" or "no"."""
    return "yes" if is_true else "no"


def object_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """What something is, known by where it is, its colour or its class."""
    asked = [(f"what is at the {CELLS[item.cell]}?", item.kind) for item in scene.items]
    empty = sorted(set(range(len(CELLS))) - {item.cell for item in scene.items})
    if empty and rng.random() < 0.3:
        asked.append((f"what is at the {CELLS[rng.choice(empty)]}?", "nothing"))
    for colour in COLOURS:
        kinds = {item.kind for item in scene.items if item.colour == colour and item.kind != "sign"}
        if len(kinds) == 1 and "person" not in kinds:
            asked.append((f"what is {colour}?", *kinds))
    for name, members in (("animal", ANIMALS), ("vehicle", VEHICLES)):
        kinds = {item.kind for item in scene.items} & set(members)
        if len(kinds) == 1:
            asked.append((f"what {name} is in the picture?", *kinds))
    return asked


def detection_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """Whether something is there, plainly and negated, and where."""
    present = sorted({(item.kind, item.colour) for item in scene.items if item.kind in THINGS})
    kinds = {kind for kind, _ in present}
    absent = [kind for kind in THINGS if kind not in kinds]
    asked = [(f"where is the {item.kind}?", CELLS[item.cell]) for item in lone_items(scene)]
    for text, answer_if_there in (
        ("is there {}?", True),
        ("is there {} in the picture?", True),
        ("is there no {}?", False),
    ):
        is_there = rng.random() < 0.5
        if is_there and not present:
            continue
        kind = rng.choice(sorted(kinds)) if is_there else rng.choice(absent)
        noun = kind if "no {}" in text else with_article(kind)
        asked.append((text.format(noun), yes_or_no(is_there == answer_if_there)))
    if present:
        kind, colour = rng.choice(present)
        is_there = rng.random() < 0.5
        if not is_there:  # the colour or the thing is there all the same
            kind, colour = rng.choice(
                [(kind, other) for other in COLOURS if other != colour]
                if rng.random() < 0.5
                else [(other, colour) for other in THINGS if (other, colour) not in present]
            )
        asked.append((f"is there a {colour} {kind}?", yes_or_no(is_there)))
    return asked


def attribute_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """Colours of things and of people's shirts."""
    counts = Counter(item.kind for item in scene.items)
    asked = []
    for kind, colour in sorted({(item.kind, item.colour) for item in scene.items if item.kind in THINGS}):
        verb, noun = ("is", kind) if counts[kind] == 1 else ("are", PLURALS[kind])
        asked.append((f"what color {verb} the {noun}?", colour))
        shown = colour if rng.random() < 0.5 else rng.choice([other for other in COLOURS if other != colour])
        asked.append((f"{verb} the {noun} {shown}?", yes_or_no(shown == colour)))
    for item in scene.items:
        if item.kind in THINGS:
            asked.append((f"what color is the thing at the {CELLS[item.cell]}?", item.colour))
        elif item.kind == "person":
            asked.append((f"what color is worn by the person {item.detail}?", item.colour))
    return asked


def share_of_yes(answers: set[str]) -> float:
    """How often a scene's place or sky is in `answers`."""
    shares = [
        sum(sky in answers or place in answers for sky in skies_of(place)) / len(skies_of(place)) for place in PLACES
    ]
    return sum(shares) / len(PLACES)


def balanced(rng: random.Random, is_true: bool, share: float) -> bool:
    """Whether to ask what is true of that share of scenes, such that half of those asked have it."""
    kept = share / (1 - share)
    return rng.random() < (min(1, 1 / kept) if is_true else min(1, kept))


def scene_type_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """Place, weather and time of day."""
    asked = [("what place is this?", scene.place), ("where was this picture taken?", scene.place)]
    if TIMES[scene.sky] == "day":
        asked.append(("what is the weather like?", scene.sky))
    if rng.random() < (1 / 3 if TIMES[scene.sky] == "day" else 1):
        asked.append(("what time of day is it?", TIMES[scene.sky]))
    place = scene.place if rng.random() < 0.5 else rng.choice([place for place in PLACES if place != scene.place])
    asked.append((f"is this {'' if place == 'snow' else 'a '}{place}?", yes_or_no(place == scene.place)))
    if balanced(rng, scene.sky == "night", share_of_yes({"night"})):
        asked.append(("is it night?", yes_or_no(scene.sky == "night")))
    return asked


def counting_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """How many there are, from 0 to 5, of one kind or of a class."""
    counts = Counter(item.kind for item in scene.items)
    asked = [(kind, count) for kind, count in counts.items() if kind in THINGS and count > 1]
    once = [kind for kind, count in counts.items() if kind in THINGS and count == 1]
    if once and rng.random() < 0.18:
        asked.append((rng.choice(once), 1))
    if rng.random() < 0.13:
        asked.append((rng.choice([kind for kind in THINGS if not counts[kind]]), 0))
    if rng.random() < (0.4 if counts["person"] else 0.2):
        asked.append(("person", counts["person"]))
    asked = [(f"how many {PLURALS[kind]} are in the picture?", str(count)) for kind, count in asked]
    for name, members in (("animals", ANIMALS), ("vehicles", VEHICLES)):
        count = sum(counts[kind] for kind in members)
        if count < 6 and rng.random() < (0.15 if count else 0.08):
            asked.append((f"how many {name} are in the picture?", str(count)))
    return asked


def activity_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """What people are doing."""
    people = [item for item in scene.items if item.kind == "person"]
    asked = [(f"what is the person in {person.colour} doing?", person.detail) for person in people]
    asked += [(f"what is the person at the {CELLS[person.cell]} doing?", person.detail) for person in people]
    if len(people) == 1:
        asked.append(("what is the person doing?", people[0].detail))
    if people:
        done = [person.detail for person in people]
        is_done = rng.random() < 0.5
        activity = rng.choice(done if is_done else [activity for activity in ACTIVITIES if activity not in done])
        asked.append((f"is someone {activity}?", yes_or_no(is_done)))
    return asked


def relation_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """Left, right, above, below and between.

    "what is to the left of the tree?" is asked where one item alone is left of it in the whole picture, and where three
    or more kinds of items are there beside the tree: leaving the tree out does not leave the answer.
    """
    lone = lone_items(scene)
    asked = []
    for item in lone:
        row, column = position(item)
        others = [other for other in scene.items if other != item]
        if len({other.kind for other in others}) < 3:
            continue
        found = {
            "to the left of": [other for other in others if position(other)[1] < column],
            "to the right of": [other for other in others if position(other)[1] > column],
            "above": [other for other in others if position(other) == (row - 1, column)],
            "below": [other for other in others if position(other) == (row + 1, column)],
        }
        asked += [
            (f"what is {side} the {item.kind}?", items[0].kind) for side, items in found.items() if len(items) == 1
        ]
    asked += between_questions(scene, lone)
    asked += compared_places(lone, rng)
    return asked


def between_questions(scene: Scene, lone: Sequence[Item]) -> list[Asked]:
    """What stands between two items in a row, where two more kinds could."""
    asked = []
    for middle in scene.items:
        row, column = position(middle)
        ends = [item for item in lone if position(item)[0] == row and item != middle]
        kinds = {item.kind for item in scene.items} - {item.kind for item in ends}
        if column == 1 and len(ends) == 2 and len(kinds) >= 3:
            asked.append((f"what is between the {ends[0].kind} and the {ends[1].kind}?", middle.kind))
    return asked


def compared_places(lone: Sequence[Item], rng: random.Random) -> list[Asked]:
    """Whether one item is left or right of another, or above or below it in the same column."""
    asked = []
    if len(lone) < 2:
        return asked
    first, second = rng.sample(list(lone), 2)
    (row, column), (other_row, other_column) = position(first), position(second)
    if column != other_column:
        sides, is_first = ("to the left of", "to the right of"), column < other_column
    else:
        sides, is_first = ("above", "below"), row < other_row
    side = rng.choice((0, 1))
    asked.append((f"is the {first.kind} {sides[side]} the {second.kind}?", yes_or_no(is_first == (side == 0))))
    return asked


def sense_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """What the place and the weather mean for people."""
    asked = []
    for question, holds in SENSE.items():
        is_true = scene.sky in holds or scene.place in holds
        if balanced(rng, is_true, share_of_yes(holds)):
            asked.append((question, yes_or_no(is_true)))
    if scene.sky in TO_TAKE:
        asked += [("what should they take with them?", TO_TAKE[scene.sky])]
    asked.append(("what do people come here to do?", TO_DO[scene.place]))
    return asked


def knowledge_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """Which of the things in the picture can do something, is something or has something; sometimes none."""
    kinds = {item.kind for item in scene.items}
    asked = []
    for question, members in KNOWLEDGE.items():
        found = kinds & members
        if len(kinds) < 2 or len(found) > 1 or ("animal" in question and "person" in kinds):
            continue
        if found or rng.random() < 0.15:
            asked.append((question, *(found or {"none"})))
    return asked


def reading_questions(scene: Scene, rng: random.Random) -> list[Asked]:
    """What the sign says."""
    asked = []
    for sign in (item for item in scene.items if item.kind == "sign"):
        asked += [(question, sign.detail) for question in ("what does the sign say?", "what is written on the sign?")]
        word = sign.detail if rng.random() < 0.5 else rng.choice([word for word in WORDS if word != sign.detail])
        asked.append((f"does the sign say {word}?", yes_or_no(word == sign.detail)))
    return asked


KINDS: dict[str, Callable[[Scene, random.Random], list[Asked]]] = {
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
        chosen = rng.sample(asked, min(per_kind, len(asked)))
        questions += [SceneQuestion(kind, *each) for each in chosen]
    return questions
