"""Drawn scenes: a small world of places, weather, things, people and signs to caption and to ask about.

    scene = make_scene(7)
    draw_scene(scene).show()

A picture is a grid of six cells, two rows of three; each holds one thing, person or sign, or nothing. What is said of a
scene is in `scene_captions`, what is asked about it in `scene_questions`, how each thing looks in `scene_shapes`.
"""

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from blip_openvino.data.scene_shapes import COLOURS, draw_shape, draw_sign

IMAGE_SIZE = 96
OVERSAMPLING = 4
# Where the seeds of scenes begin that measure, or that a recipe is chosen by; training takes those below.
VALIDATION_SEED, TEST_SEED = 1_000_000_000, 2_000_000_000

PLACES = ("beach", "field", "street", "snow", "desert")
SKIES = ("sunny", "cloudy", "rainy", "sunset", "night")
ANIMALS = ("dog", "cat", "horse", "rabbit", "bird", "butterfly")
VEHICLES = ("car", "bus", "boat", "plane")
OBJECTS = ("house", "tree", "flower", "ball", "umbrella", "kite")
THINGS = ANIMALS + VEHICLES + OBJECTS
ACTIVITIES = ("running", "jumping", "sleeping", "reading", "fishing", "cycling")
WORDS = ("stop", "taxi", "cafe", "zoo", "sale", "food", "park", "help", "bank", "milk")
CELLS = ("top left", "top middle", "top right", "bottom left", "bottom middle", "bottom right")

# Where things are drawn, in pixels of a 96x96 picture.
HORIZON = 36
COLUMN_CENTRES = (16, 48, 80)
ROW_BASELINES = (55, 93)
THING_WIDTH, THING_HEIGHT = 29, 32
SIGN_WIDTH = 31

SKY_COLOURS = {
    "sunny": (110, 190, 250),
    "cloudy": (205, 212, 220),
    "rainy": (120, 130, 145),
    "sunset": (250, 160, 110),
    "night": (45, 55, 120),
}
GROUND_COLOURS = {
    "beach": (240, 220, 160),
    "field": (130, 200, 90),
    "street": (150, 150, 155),
    "snow": (242, 246, 252),
    "desert": (225, 165, 95),
}
HILLS = {
    "field": (7, 50, (95, 165, 75)),
    "snow": (14, 40, (215, 226, 242)),
    "desert": (11, 30, (200, 140, 75)),
}
"""Height, width and colour of what stands at the horizon: hills in a field, pointed elsewhere."""
TUFT_COLOURS = {"field": (85, 155, 60), "snow": (205, 220, 240), "desert": (200, 140, 75)}
GROUND_LIGHT = {
    "sunny": (1.0, 1.0, 1.0),
    "cloudy": (0.92, 0.92, 0.92),
    "rainy": (0.8, 0.82, 0.85),
    "sunset": (1.0, 0.86, 0.8),
    "night": (0.55, 0.57, 0.7),
}


@dataclass(frozen=True)
class Item:
    """What is in one cell of a scene.

    Attributes:
        cell: index into `CELLS`.
        kind: one of `THINGS`, "person" or "sign".
        colour: of the thing or of the person's shirt, one of `COLOURS`; signs are all white.
        detail: a person's activity or a sign's word; things have none.
    """

    cell: int
    kind: str
    colour: str = "white"
    detail: str = ""


@dataclass(frozen=True)
class Scene:
    """What is in a picture: a place under a sky, with items in the order of their cells.

    `jitter` seeds what may differ between pictures of the same scene: where in its cell a thing stands, how large,
    which way it looks, clouds and waves.
    """

    place: str
    sky: str
    items: tuple[Item, ...]
    jitter: int = 0

    @property
    def key(self) -> tuple[str, str, tuple[Item, ...]]:
        """Equal for scenes that differ in `jitter` alone."""
        return self.place, self.sky, self.items


def skies_of(place: str) -> tuple[str, ...]:
    """The skies that a place is drawn under: it does not rain in the snow."""
    return tuple(sky for sky in SKIES if (place, sky) != ("snow", "rainy"))


def group_items(rng: random.Random, room: int) -> list[tuple[str, str, str]]:
    """Two to five things of one kind and colour, and up to three others: (kind, colour, detail) of each."""
    kind, colour, count = rng.choice(THINGS), rng.choice(COLOURS), rng.randint(2, 5)
    others = single_items(rng, rng.randint(0, min(room - count, 3)))
    return [(kind, colour, "")] * count + [item for item in others if item[0] != kind]


def single_items(rng: random.Random, count: int) -> list[tuple[str, str, str]]:
    """Different things, with up to two people and a sign among them: (kind, colour, detail) of each."""
    people = rng.choices((0, 1, 2), (50, 35, 15))[0]
    items = [
        ("person", colour, activity)
        for colour, activity in zip(rng.sample(COLOURS, people), rng.sample(ACTIVITIES, people), strict=True)
    ]
    if rng.random() < 0.4:
        items.append(("sign", "white", rng.choice(WORDS)))
    things = [(kind, rng.choice(COLOURS), "") for kind in rng.sample(THINGS, count)]
    return (items + things)[:count]


def make_scene(seed: int) -> Scene:
    """Make the scene of a seed, the same wherever it is run: one to six items, in half of the scenes a group."""
    rng = random.Random(seed)
    place = rng.choice(PLACES)
    sky = rng.choice(skies_of(place))
    if rng.random() < 0.5:
        items = group_items(rng, len(CELLS))
    else:
        items = single_items(rng, rng.choices((1, 2, 3, 4, 5, 6), (1, 1, 2, 4, 3, 2))[0])
    cells = rng.sample(range(len(CELLS)), len(items))
    placed = sorted((Item(cell, *item) for cell, item in zip(cells, items, strict=True)), key=lambda item: item.cell)
    return Scene(place, sky, tuple(placed), rng.getrandbits(32))


def make_scenes(count: int, first_seed: int = TEST_SEED) -> list[Scene]:
    """Make `count` scenes from a seed on, no two of them equal but for jitter: those kept for measuring, by default."""
    scenes: dict[tuple, Scene] = {}
    seed = first_seed
    while len(scenes) < count:
        scene = make_scene(seed)
        scenes.setdefault(scene.key, scene)
        seed += 1
    return list(scenes.values())


def item_box(item: Item, rng: random.Random) -> tuple[float, float, float, float]:
    """Where an item is drawn, somewhere in its cell: left, top, right, bottom in pixels of a 96x96 picture."""
    row, column = divmod(item.cell, len(COLUMN_CENTRES))
    if item.kind == "sign":
        width, height, shift = SIGN_WIDTH, THING_HEIGHT, rng.uniform(-0.5, 0.5)
    else:
        scale = rng.uniform(0.88, 1.0)
        width, height, shift = THING_WIDTH * scale, THING_HEIGHT * scale, rng.uniform(-1.5, 1.5)
    centre, bottom = COLUMN_CENTRES[column] + shift, ROW_BASELINES[row] + rng.uniform(-1.5, 1.5)
    return centre - width / 2, bottom - height, centre + width / 2, bottom


def shade(colour: tuple[int, int, int], light: tuple[float, ...]) -> tuple[int, ...]:
    """A colour in a light, channel by channel."""
    return tuple(round(channel * factor) for channel, factor in zip(colour, light, strict=True))


def draw_sky(draw: ImageDraw.ImageDraw, sky: str, rng: random.Random, scale: float) -> None:
    """Draw sun, clouds, rain, or moon and stars, over the top of the picture."""

    def disc(x: float, y: float, radius: float, fill: tuple[int, ...], stretch: float = 1.0) -> None:
        box = (x - radius * stretch, y - radius, x + radius * stretch, y + radius)
        draw.ellipse([edge * scale for edge in box], fill=fill)

    x = rng.uniform(16, 80)
    if sky == "sunny":
        disc(x, 10, 8, (255, 235, 120))
        disc(x, 10, 6.5, (255, 215, 40))
    elif sky == "sunset":
        disc(x, HORIZON, 15, (255, 205, 90))
        disc(x, HORIZON, 11, (245, 75, 40))
    elif sky == "night":
        for _ in range(14):
            disc(rng.uniform(2, 94), rng.uniform(2, 32), 0.8, (250, 250, 220))
        disc(x, 10, 7, (250, 245, 190))
        disc(x + 4, 8, 6, SKY_COLOURS["night"])
    else:
        cloud = (252, 252, 255) if sky == "cloudy" else (80, 86, 100)
        for centre in (16, 48, 80):
            left, top = centre + rng.uniform(-5, 5), rng.uniform(8, 11)
            for across, down, radius in ((-7, 1.5, 4), (0, -1.5, 5.5), (7, 1.5, 4), (0, 2, 4.5)):
                disc(left + across, top + down, radius, cloud, 1.3)
    if sky == "rainy":
        for _ in range(30):
            left, top = rng.uniform(0, 96), rng.uniform(14, 34)
            line = (left, top, left - 2, top + 6)
            draw.line([end * scale for end in line], fill=(190, 215, 255), width=round(0.9 * scale))


def draw_ground(draw: ImageDraw.ImageDraw, scene: Scene, rng: random.Random, scale: float) -> None:
    """Draw the ground of the scene's place, with what makes it known at the horizon."""
    light = GROUND_LIGHT[scene.sky]

    def rectangle(top: float, bottom: float, colour: tuple[int, int, int], left: float = 0, right: float = 97) -> None:
        draw.rectangle([edge * scale for edge in (left, top, right, bottom)], fill=shade(colour, light))

    if scene.place in HILLS:
        height, width, colour = HILLS[scene.place]
        offset = rng.uniform(-width / 2, 0)
        for index in range(8):
            left = offset + index * width * 0.7
            if scene.place == "field":
                tool, points = draw.ellipse, (left, HORIZON - height, left + width, HORIZON + height)
            else:
                tool, points = draw.polygon, (left, HORIZON, left + width / 2, HORIZON - height, left + width, HORIZON)
            tool([point * scale for point in points], fill=shade(colour, light))
    if scene.place == "street":
        for left in range(0, 96, 12):
            rectangle(HORIZON - rng.uniform(5, 15), HORIZON, (115, 105, 115), left, left + 10)
    rectangle(HORIZON, 97, GROUND_COLOURS[scene.place])
    if scene.place == "beach":
        rectangle(HORIZON - 4, HORIZON + 8, (40, 120, 200))
        rectangle(HORIZON + 8, HORIZON + 9.5, (235, 245, 255))
    elif scene.place == "street":
        for left in range(-4, 96, 20):
            rectangle(57, 59, (245, 240, 220), left + rng.uniform(0, 3), left + 12)
    else:
        for _ in range(14):
            left, top = rng.uniform(0, 94), rng.uniform(HORIZON + 4, 94)
            rectangle(top, top + 1, TUFT_COLOURS[scene.place], left, left + 3)


def draw_scene(scene: Scene, size: int = IMAGE_SIZE) -> Image.Image:
    """Draw a scene as an RGB picture of `size` x `size` pixels; the same scene always gives the same pixels."""
    rng = random.Random(scene.jitter)
    scale = size * OVERSAMPLING / IMAGE_SIZE
    image = Image.new("RGB", (size * OVERSAMPLING,) * 2, SKY_COLOURS[scene.sky])
    draw = ImageDraw.Draw(image)
    draw_sky(draw, scene.sky, rng, scale)
    draw_ground(draw, scene, rng, scale)
    for item in scene.items:
        box = tuple(edge * scale for edge in item_box(item, rng))
        if item.kind == "sign":
            draw_sign(draw, box, item.detail)
        else:
            shape = item.detail if item.kind == "person" else item.kind
            draw_shape(draw, box, shape, item.colour, is_mirrored=rng.random() < 0.5)
    return image.reduce(OVERSAMPLING)
