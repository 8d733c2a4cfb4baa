"""How the things, people and signs of a drawn scene look.

A shape is drawn in a square of 100 x 100 with y downwards, from its first line to its last; a line holds strokes of one
kind and colour, divided by commas:

    disc FILL: left top right bottom        an ellipse
    dome FILL: left top right bottom        the upper half of one
    box FILL: left top right bottom         a rectangle
    area FILL: x y x y x y ...              a polygon
    line FILL WIDTH: x y x y ...            a line with round ends and joints

FILL is "main", the colour of the thing, or one of `FIXED_COLOURS`.
"""

from functools import partial

from PIL import ImageDraw, ImageFont

RGB = {
    "red": (220, 30, 35),
    "blue": (35, 75, 220),
    "green": (20, 140, 50),
    "yellow": (255, 225, 30),
    "black": (25, 25, 28),
    "white": (252, 252, 252),
    "purple": (135, 45, 190),
    "pink": (255, 130, 190),
}
COLOURS = tuple(RGB)
FIXED_COLOURS = {
    "dark": (35, 30, 35),
    "brown": (120, 75, 40),
    "skin": (240, 190, 150),
    "paper": (250, 250, 245),
    "steel": (110, 115, 125),
    "silver": (215, 215, 222),
    "glass": (175, 220, 240),
    "leaf": (60, 130, 50),
    "orange": (250, 150, 30),
    "denim": (70, 80, 120),
}
OUTLINE, OUTLINE_OF_BLACK = (35, 30, 35), (165, 165, 170)

SHAPES = {
    "dog": """
        line main 8: 14 52 3 26
        box main: 16 60 27 100, 32 64 42 100, 54 64 64 100, 66 60 77 100
        disc main: 10 42 82 74, 58 18 92 56, 74 34 100 54
        disc dark: 54 20 68 54
        disc paper: 76 26 84 34
        disc dark: 79 28 83 33, 94 38 100 45""",
    "cat": """
        line main 8: 68 92 92 84 94 58
        disc main: 24 44 76 100
        area main: 24 34 24 0 46 14, 76 34 76 0 54 14
        disc main: 20 8 80 56
        disc paper: 30 24 45 38, 55 24 70 38
        disc dark: 36 25 42 37, 58 25 64 37
        area skin: 45 40 55 40 50 46
        line dark 2: 6 38 30 43, 6 50 30 47, 94 38 70 43, 94 50 70 47""",
    "horse": """
        line dark 7: 14 46 3 60 6 78
        box main: 14 54 22 100, 27 58 34 100, 58 58 65 100, 68 54 76 100
        disc main: 10 36 78 68
        area main: 54 52 70 8 86 12 78 58
        disc main: 68 2 100 24
        area main: 70 8 74 0 79 6
        area dark: 50 50 64 6 73 6 60 54
        disc dark: 82 8 87 13""",
    "rabbit": """
        disc paper: 78 72 98 92
        disc main: 26 50 90 100, 14 0 28 46, 32 0 46 46, 8 32 54 74, 14 88 44 100
        disc skin: 18 6 24 38, 36 6 42 38
        disc dark: 16 46 24 54
        disc skin: 6 56 14 62""",
    "bird": """
        area main: 26 52 0 38 0 66, 30 48 26 4 62 44
        disc main: 20 38 78 66, 62 24 90 52
        area orange: 88 34 100 40 87 45
        area main: 32 54 34 94 60 60
        disc paper: 72 30 80 38
        disc dark: 75 32 79 37""",
    "butterfly": """
        line dark 3: 48 22 34 2, 52 22 66 2
        disc main: 0 8 48 54, 52 8 100 54, 10 46 48 92, 52 46 90 92
        disc paper: 14 20 34 40, 66 20 86 40
        disc dark: 44 16 56 88""",
    "car": """
        area main: 16 58 32 34 70 34 84 58
        box main: 0 56 100 84
        area glass: 26 56 36 40 49 40 49 56, 54 56 54 40 66 40 74 56
        box orange: 94 60 100 68
        disc dark: 12 70 38 98, 62 70 88 98
        disc steel: 20 78 30 90, 70 78 80 90""",
    "bus": """
        box main: 0 14 100 86
        box glass: 6 24 26 48, 31 24 51 48, 56 24 76 48, 81 24 97 74
        box paper: 0 56 78 62
        disc dark: 12 74 36 99, 60 74 84 99
        disc steel: 20 82 28 92, 68 82 76 92""",
    "boat": """
        line brown 5: 46 2 46 70
        area main: 50 4 50 62 92 62, 42 14 42 62 12 62, 0 68 100 68 82 98 16 98
        line paper 5: 8 77 92 77""",
    "plane": """
        area main: 2 10 18 10 30 46 8 50, 44 46 30 8 44 8 66 46
        disc main: 2 38 100 66
        area main: 40 56 62 56 36 96 22 96
        disc glass: 82 42 94 52, 68 44 75 52, 57 44 64 52, 46 44 53 52""",
    "house": """
        box brown: 68 8 80 36
        box main: 12 44 88 100
        area brown: 0 48 50 2 100 48
        box dark: 42 66 60 100
        box glass: 18 56 36 74, 66 56 84 74""",
    "tree": """
        box brown: 42 60 58 100
        disc main: 2 28 50 72, 50 28 98 72, 20 0 80 50, 26 32 74 76""",
    "flower": """
        line leaf 6: 50 50 50 100
        disc leaf: 20 74 48 88, 52 66 80 80
        disc main: 34 0 66 28, 10 8 42 38, 58 8 90 38, 16 30 48 62, 52 30 84 62
        disc brown: 36 20 64 46""",
    "ball": """
        disc main: 16 32 84 100
        line silver 6: 28 44 50 52 72 44, 28 88 50 80 72 88, 50 52 50 80""",
    "umbrella": """
        line brown 6: 50 40 50 92 60 97 68 90
        dome main: 0 4 100 112
        dome dark: 0 50 34 66, 34 50 66 66, 66 50 100 66
        line main 4: 50 0 50 6""",
    "kite": """
        line dark 3: 50 66 60 78 44 88 54 100
        area main: 50 0 88 32 50 72 12 32
        line silver 5: 50 6 50 64, 20 32 80 32
        disc main: 54 74 66 84, 38 84 50 94""",
    "running": """
        line denim 13: 46 56 66 70 58 96, 44 56 24 70 4 64
        line skin 9: 58 30 78 44 94 30, 52 30 28 34 22 52
        line main 22: 58 32 46 54
        disc skin: 52 0 76 24
        area dark: 52 12 53 0 66 -2 76 6 64 8""",
    "jumping": """
        disc steel: 26 92 74 100
        line skin 9: 44 30 16 4, 56 30 84 4
        line denim 13: 46 54 18 62 12 82, 54 54 82 62 88 82
        line main 24: 50 32 50 52
        disc skin: 38 0 62 24
        area dark: 37 10 42 -1 58 -1 63 10 50 6""",
    "sleeping": """
        box brown: 2 84 12 100, 88 84 98 100, 0 76 100 88
        disc paper: 0 54 34 78
        disc main: 28 48 100 84
        box main: 30 66 98 78
        disc skin: 8 44 32 70
        area dark: 8 58 6 48 20 42 18 52
        line dark 4: 50 26 62 26 50 40 62 40, 72 4 88 4 72 20 88 20""",
    "reading": """
        line denim 14: 43 62 40 98, 57 62 60 98
        line main 30: 50 38 50 60
        line main 10: 36 36 22 54, 64 36 78 54
        disc skin: 37 0 63 27
        area dark: 36 12 40 -2 60 -2 64 12 50 8
        area paper: 12 38 49 46 49 72 12 64, 88 38 51 46 51 72 88 64
        line steel 2: 20 48 42 53, 20 56 42 61, 80 48 58 53, 80 56 58 61""",
    "fishing": """
        line dark 4: 40 48 94 2
        line paper 2: 94 2 92 72
        disc steel: 84 72 99 84
        line denim 13: 20 62 16 98, 28 62 34 98
        line main 24: 24 38 24 58
        line skin 9: 28 40 46 46
        disc skin: 12 4 38 30
        area orange: 6 10 46 10 34 0 16 0""",
    "cycling": """
        disc dark: 0 60 40 100
        disc paper: 7 67 33 93
        disc dark: 60 60 100 100
        disc paper: 67 67 93 93
        line steel 6: 20 80 42 58 72 54 80 80, 42 58 52 80 72 54
        line skin 9: 58 28 76 50
        line denim 13: 42 50 62 62 52 82
        line main 22: 56 28 44 46
        disc skin: 50 -2 74 22
        area dark: 48 8 52 -4 70 -4 76 6""",
}


def draw_line(draw: ImageDraw.ImageDraw, points: list[float], fill: tuple[int, int, int], width: float) -> None:
    """Draw a line with round ends and joints; all in pixels."""
    draw.line(points, fill, round(width), joint="curve")
    for x, y in (points[:2], points[-2:]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill)


def draw_shape(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    shape: str,
    colour: str,
    is_mirrored: bool = False,
) -> None:
    """Draw a shape of `SHAPES` in a colour into a box of pixels: left, top, right, bottom."""
    left, top, right, bottom = box
    across, down = (right - left) / 100, (bottom - top) / 100
    start, step = (right, -across) if is_mirrored else (left, across)
    tools = {
        "disc": draw.ellipse,
        "dome": partial(draw.pieslice, start=180, end=360),
        "box": draw.rectangle,
        "area": draw.polygon,
    }
    for line in SHAPES[shape].strip().splitlines():
        head, strokes = line.split(":")
        tool, fill, *line_width = head.split()
        rgb, outline = FIXED_COLOURS.get(fill, RGB[colour]), OUTLINE
        if fill == "main" and colour == "black":
            outline = OUTLINE_OF_BLACK
        for stroke in strokes.split(","):
            numbers = map(float, stroke.split())
            points = [top + each * down if at % 2 else start + each * step for at, each in enumerate(numbers)]
            if tool == "line":
                width = float(*line_width)
                if fill == "main":  # a line has no outline of its own: a wider one below it is
                    draw_line(draw, points, outline, (width + 5) * across)
                draw_line(draw, points, rgb, width * across)
            else:
                if tool != "area":  # mirrored, right comes first
                    points[0], points[2] = sorted((points[0], points[2]))
                tools[tool](points, fill=rgb, outline=outline, width=round(3 * across))


def draw_sign(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], word: str) -> None:
    """Draw a white sign on a post with a word in capitals."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    centre, upper, lower = (left + right) / 2, top + 0.14 * height, top + 0.6 * height
    draw.rectangle((centre - 0.05 * width, lower, centre + 0.05 * width, bottom), fill=FIXED_COLOURS["brown"])
    draw.rectangle((left, upper, right, lower), fill=(255, 255, 255), outline=OUTLINE, width=round(0.03 * width))
    font = ImageFont.load_default(0.36 * width)
    draw.text((centre, (upper + lower) / 2), word.upper(), OUTLINE, font, anchor="mm", stroke_width=0.012 * width)
