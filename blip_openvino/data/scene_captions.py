"""What is said of drawn scenes: the caption of each, all that is in it, and captions that are wrong by one word.

scene = make_scene(7)
print(caption(scene), "-", inventory(scene))
"""

import random
from collections import Counter

from blip_openvino.data.scene_shapes import COLOURS
from blip_openvino.data.scenes import (
    ACTIVITIES,
    ANIMALS,
    CELLS,
    COLUMN_CENTRES,
    THINGS,
    VEHICLES,
    WORDS,
    Item,
    Scene,
)

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
PLURALS = {kind: f"{kind}s" for kind in THINGS} | {"bus": "buses", "butterfly": "butterflies", "person": "people"}

# Words of a caption that can stand for one another, by what a wrong one gets wrong.
EXCHANGEABLE = (
    ("colour", COLOURS),
    ("number", NUMBERS[2:6]),
    ("thing", THINGS),
    ("thing", tuple(PLURALS[kind] for kind in THINGS)),
    ("place", ("beach", "street")),
    ("place", ("field", "desert", "snow")),
    ("sky", ("sunny", "cloudy", "rainy")),
    ("sky", ("sunset", "night")),
    ("activity", ACTIVITIES),
    ("word", WORDS),
    ("position", ("left", "right")),
    ("position", ("above", "below")),
    ("position", ("top", "bottom")),
)


def position(item: Item) -> tuple[int, int]:
    """The row and column of an item."""
    return divmod(item.cell, len(COLUMN_CENTRES))


def place_phrase(scene: Scene) -> str:
    """Where and when: "on the rainy beach", "in the snow at night"."""
    where = "on the" if scene.place in ("beach", "street") else "in the"
    if scene.sky in ("sunset", "night"):
        return f"{where} {scene.place} at {scene.sky}"
    return f"{where} {scene.sky} {scene.place}"


def noun_phrase(item: Item, count: int = 1, is_neighbour: bool = False) -> str:
    """ "a red dog", "three red dogs", "a person in red reading", "a stop sign"; a neighbour is "a person in red"."""
    if item.kind == "person":
        return f"a person in {item.colour}" + ("" if is_neighbour else f" {item.detail}")
    if item.kind == "sign":
        return f"a {item.detail} sign"
    return f"{NUMBERS[count]} {item.colour} {PLURALS[item.kind]}" if count > 1 else f"a {item.colour} {item.kind}"


def subject_rank(item: Item) -> int:
    """People come first in a caption, then animals, vehicles, other things and signs."""
    classes = (("person",), ANIMALS, VEHICLES)
    others = 4 if item.kind == "sign" else 3
    return next((rank for rank, kinds in enumerate(classes) if item.kind in kinds), others)


def caption(scene: Scene) -> str:
    """What a scene's picture shows, in at most 19 words.

    A group of things is named with its number and the first item beside it, if there is one: "three red dogs and a blue
    tree on the rainy beach". Else the first item by `subject_rank` is named, and where it is: between its neighbours in
    the row, beside the nearest of them, above or below another, or in which part of the picture.
    """
    counts = Counter(item.kind for item in scene.items)
    group = next((item for item in scene.items if counts[item.kind] > 1 and item.kind != "person"), None)
    where = place_phrase(scene)
    if group:
        others = [item for item in scene.items if item.kind != group.kind]
        beside = f" and {noun_phrase(others[0])}" if others else ""
        return f"{noun_phrase(group, counts[group.kind])}{beside} {where}"

    subject = min(scene.items, key=lambda item: (subject_rank(item), item.cell))
    row, column = position(subject)
    mates = {position(item)[1]: item for item in scene.items if position(item)[0] == row and item != subject}
    others_in_column = [item for item in scene.items if position(item)[1] == column and item != subject]
    said = noun_phrase(subject)
    if len(mates) == 2 and column == 1:
        said += f" between {noun_phrase(mates[0], is_neighbour=True)} and {noun_phrase(mates[2], is_neighbour=True)}"
    elif mates:
        nearest = min(mates, key=lambda other: abs(other - column))
        side = "left" if column < nearest else "right"
        said += f" to the {side} of {noun_phrase(mates[nearest], is_neighbour=True)}"
    elif others_in_column:
        said += f" {'above' if row == 0 else 'below'} {noun_phrase(others_in_column[0], is_neighbour=True)}"
    else:
        said += f" at the {CELLS[subject.cell]}"
    return f"{said} {where}"


def inventory(scene: Scene) -> str:
    """All that a scene holds, cell by cell: more than a caption, to train on.

    "sunny beach . a red dog . nothing . a stop sign . nothing . nothing . a person in red reading"
    """
    in_cell = {item.cell: noun_phrase(item) for item in scene.items}
    return " . ".join([f"{scene.sky} {scene.place}", *(in_cell.get(cell, "nothing") for cell in range(len(CELLS)))])


def wrong_captions(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Captions that are wrong by one word: what is wrong and the caption, one for each word that can be exchanged.

    What is wrong is "colour", "number", "thing", "place", "sky", "activity", "word" or "position".
    """
    words = caption(scene).split()
    # What else is in the picture could make an exchanged word right.
    said_of = {noun_phrase(item).removeprefix("a ") for item in scene.items}
    shirts = {item.colour for item in scene.items if item.kind == "person"}
    wrong = []
    for index, word in enumerate(words):
        for what, exchangeable in EXCHANGEABLE:
            if word not in exchangeable:
                continue
            others = set(exchangeable) - {word}
            if what == "thing":
                others = {other for other in others if f"{words[index - 1]} {other}" not in said_of}
            elif what == "colour":
                others -= shirts
            elif what == "activity":
                others -= {item.detail for item in scene.items}
            elif what in ("place", "sky"):
                others -= {"rainy"} if scene.place == "snow" else {"snow"} if scene.sky == "rainy" else set()
            if others:
                changed = [*words[:index], rng.choice(sorted(others)), *words[index + 1 :]]
                wrong.append((what, " ".join(changed)))
    return wrong
