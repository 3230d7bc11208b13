"""Emoji and captions that leave most of them open: the training data of the pipeline that the package ships.

A caption names a thing or only a kind of thing, and perhaps a colour, the set that drew it, and the background:
``a cat``, ``a red vehicle in the flat style``, ``an animal on a navy background``. One caption has many pictures, as
with real models, so that the sampler has decisions to make; the scenes of `training.scenes` leave none.

The pictures are those of six emoji sets whose licences ask for attribution at most. They are fetched from the npm
registry once, as packages of SVG at fixed versions, and drawn at `STORED` pixels.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.scenes import SPLITS, split_of

PIXELS, STORED = 64, 128
CACHE = Path("training/runs/emoji-pictures")

STYLES = {
    "noto": ("noto", "1.2.9"),
    "blob": ("noto-v1", "1.2.5"),
    "twemoji": ("twemoji", "1.2.5"),
    "glossy": ("fluent-emoji", "1.2.7"),
    "flat": ("fluent-emoji-flat", "1.2.6"),
    "emojione": ("emojione", "1.2.3"),
}
"""By the word in captions: the package ``@iconify-json/NAME`` and its version. NOTICE names artists and licences."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "gray": (150, 150, 158),
    "beige": (228, 208, 168),
    "teal": (60, 150, 150),
    "navy": (40, 52, 100),
    "mint": (176, 230, 196),
    "lavender": (190, 175, 235),
    "pink": (250, 190, 210),
}

THINGS: dict[str, str] = {
    "smiling face": """grinning-face grinning-face-with-big-eyes grinning-face-with-smiling-eyes
        beaming-face-with-smiling-eyes slightly-smiling-face winking-face smiling-face-with-smiling-eyes smiling-face
        smiling-face-with-heart-eyes smiling-face-with-hearts grinning-squinting-face face-with-tears-of-joy
        smiling-face-with-sunglasses smiling-face-with-halo face-with-tongue winking-face-with-tongue""",
    "sad face": """slightly-frowning-face frowning-face worried-face confused-face crying-face loudly-crying-face
        disappointed-face pensive-face anguished-face sad-but-relieved-face weary-face tired-face fearful-face
        pleading-face downcast-face-with-sweat persevering-face""",
    "cat": """cat-face cat black-cat grinning-cat grinning-cat-with-smiling-eyes cat-with-tears-of-joy
        smiling-cat-with-heart-eyes cat-with-wry-smile kissing-cat weary-cat crying-cat pouting-cat grinning-cat-face
        cat-face-with-tears-of-joy cat-face-with-wry-smile kissing-cat-face weary-cat-face crying-cat-face""",
    "dog": "dog-face dog guide-dog service-dog poodle",
    "monkey": "monkey-face monkey see-no-evil-monkey hear-no-evil-monkey speak-no-evil-monkey gorilla orangutan",
    "bear": "bear polar-bear panda koala teddy-bear",
    "big cat": "lion tiger-face tiger leopard lion-face",
    "pig": "pig-face pig boar",
    "cow": "cow-face ox cow water-buffalo",
    "horse": "horse-face horse zebra unicorn unicorn-face",
    "mouse": "mouse-face mouse rat hamster",
    "rabbit": "rabbit-face rabbit",
    "fox": "fox wolf raccoon fox-face wolf-face",
    "elephant": "elephant mammoth",
    "bird": "bird dove eagle parrot swan duck penguin owl goose rooster chicken baby-chick flamingo peacock",
    "frog": "frog",
    "turtle": "turtle",
    "whale": "spouting-whale whale dolphin",
    "fish": "fish tropical-fish blowfish shark",
    "octopus": "octopus squid",
    "crab": "crab lobster",
    "insect": "bug ant honeybee beetle lady-beetle cricket fly mosquito cockroach",
    "butterfly": "butterfly",
    "flower": "cherry-blossom white-flower rosette rose hibiscus sunflower blossom tulip lotus bouquet",
    "tree": "evergreen-tree deciduous-tree palm-tree christmas-tree tanabata-tree cactus",
    "leaf": "herb shamrock four-leaf-clover maple-leaf fallen-leaf leaf-fluttering-in-wind",
    "mushroom": "mushroom brown-mushroom",
    "apple": "red-apple green-apple",
    "citrus fruit": "tangerine lemon lime",
    "berry": "strawberry blueberries cherries grapes",
    "melon": "watermelon melon",
    "banana": "banana",
    "vegetable": "carrot ear-of-corn hot-pepper bell-pepper cucumber broccoli eggplant avocado potato onion tomato",
    "piece of bread": "bread croissant baguette-bread flatbread pretzel bagel",
    "hamburger": "hamburger sandwich hot-dog",
    "pizza": "pizza",
    "cake": "birthday-cake shortcake cupcake pie pancakes moon-cake",
    "ice cream": "soft-ice-cream ice-cream shaved-ice",
    "bowl of food": "cooked-rice curry-rice steaming-bowl spaghetti pot-of-food bowl-with-spoon green-salad",
    "drink": """wine-glass cocktail-glass tropical-drink beer-mug tumbler-glass cup-with-straw bubble-tea
        glass-of-milk hot-beverage""",
    "house": "house house-with-garden derelict-house hut houses",
    "building": """office-building post-office japanese-post-office hospital bank hotel love-hotel school
        convenience-store department-store factory""",
    "castle": "castle japanese-castle classical-building",
    "church": "church wedding mosque synagogue",
    "mountain": "snow-capped-mountain mountain volcano mount-fuji",
    "car": """automobile oncoming-automobile taxi oncoming-taxi police-car oncoming-police-car sport-utility-vehicle
        racing-car""",
    "bus": "bus oncoming-bus trolleybus minibus",
    "truck": "delivery-truck articulated-lorry pickup-truck fire-engine ambulance tractor",
    "train": "locomotive railway-car high-speed-train bullet-train train metro light-rail tram tram-car monorail",
    "bicycle": "bicycle motorcycle motor-scooter kick-scooter",
    "boat": "sailboat canoe speedboat passenger-ship ferry motor-boat ship",
    "airplane": "airplane small-airplane airplane-departure airplane-arrival",
    "helicopter": "helicopter",
    "rocket": "rocket",
    "clock": """alarm-clock mantelpiece-clock twelve-oclock one-oclock two-oclock three-oclock four-oclock five-oclock
        six-oclock seven-oclock eight-oclock nine-oclock ten-oclock eleven-oclock stopwatch""",
    "moon": """waxing-crescent-moon first-quarter-moon waxing-gibbous-moon full-moon waning-gibbous-moon
        last-quarter-moon waning-crescent-moon crescent-moon full-moon-face first-quarter-moon-face""",
    "sun": "sun sun-with-face",
    "star": "star glowing-star",
    "cloud": """cloud sun-behind-cloud cloud-with-lightning-and-rain sun-behind-small-cloud sun-behind-large-cloud
        sun-behind-rain-cloud cloud-with-rain cloud-with-snow cloud-with-lightning""",
    "umbrella": "closed-umbrella umbrella umbrella-with-rain-drops umbrella-on-ground beach-with-umbrella",
    "heart": """red-heart orange-heart yellow-heart green-heart blue-heart purple-heart brown-heart black-heart
        white-heart pink-heart light-blue-heart grey-heart two-hearts sparkling-heart growing-heart beating-heart
        heart-with-arrow heart-with-ribbon broken-heart""",
    "ball": "soccer-ball baseball softball basketball volleyball american-football rugby-football tennis pool-8-ball",
    "balloon": "balloon",
    "gift": "wrapped-gift",
    "trophy": "trophy",
    "medal": "military-medal sports-medal 1st-place-medal 2nd-place-medal 3rd-place-medal",
    "hat": "womans-hat top-hat graduation-cap billed-cap military-helmet rescue-workers-helmet crown",
    "shoe": """mans-shoe running-shoe hiking-boot flat-shoe high-heeled-shoe womans-sandal womans-boot ballet-shoes
        roller-skate""",
    "shirt": "t-shirt running-shirt womans-clothes lab-coat coat kimono",
    "dress": "dress sari one-piece-swimsuit",
    "bag": "purse handbag clutch-bag backpack shopping-bags briefcase luggage",
    "book": """closed-book green-book blue-book orange-book notebook notebook-with-decorative-cover ledger books
        open-book""",
    "envelope": "envelope e-mail incoming-envelope envelope-with-arrow love-letter red-envelope",
    "phone": "mobile-phone mobile-phone-with-arrow telephone telephone-receiver",
    "computer": "laptop desktop-computer television",
    "camera": "camera camera-with-flash video-camera movie-camera",
    "guitar": "guitar violin banjo",
    "bell": "bell bellhop-bell",
    "key": "key old-key",
    "padlock": "locked unlocked locked-with-key locked-with-pen",
    "hammer": "hammer axe pick hammer-and-pick hammer-and-wrench",
    "pencil": "pencil pen fountain-pen paintbrush crayon",
    "hand": """raised-hand raised-back-of-hand waving-hand hand-with-fingers-splayed victory-hand ok-hand thumbs-up
        thumbs-down raised-fist vulcan-salute call-me-hand love-you-gesture sign-of-the-horns crossed-fingers""",
    "woman": """woman woman-health-worker woman-student woman-teacher woman-judge woman-farmer woman-cook
        woman-mechanic woman-office-worker woman-scientist woman-singer woman-artist woman-pilot woman-astronaut
        woman-firefighter woman-police-officer woman-construction-worker princess old-woman woman-detective""",
    "man": """man man-health-worker man-student man-teacher man-judge man-farmer man-cook man-mechanic
        man-office-worker man-scientist man-singer man-artist man-pilot man-astronaut man-firefighter
        man-police-officer man-construction-worker prince old-man man-detective man-in-tuxedo""",
    "skull": "skull",
    "ghost": "ghost",
    "alien": "alien alien-monster robot",
    "pumpkin": "jack-o-lantern",
    "snowman": "snowman snowman-without-snow",
    "globe": "globe-showing-europe-africa globe-showing-americas globe-showing-asia-australia",
}
"""The emoji of each thing, by their names in the packages; a set lacks some of them."""

KINDS: dict[str, tuple[str, ...]] = {
    "face": ("smiling face", "sad face"),
    "animal": (
        *("cat", "dog", "monkey", "bear", "big cat", "pig", "cow", "horse", "mouse", "rabbit", "fox", "elephant"),
        *("bird", "frog", "turtle"),
    ),
    "sea animal": ("whale", "fish", "octopus", "crab"),
    "plant": ("flower", "tree", "leaf", "mushroom"),
    "fruit": ("apple", "citrus fruit", "berry", "melon", "banana"),
    "meal": ("piece of bread", "hamburger", "pizza", "cake", "ice cream", "bowl of food"),
    "place": ("house", "building", "castle", "church", "mountain"),
    "vehicle": ("car", "bus", "truck", "train", "bicycle", "boat", "airplane", "helicopter", "rocket"),
    "piece of clothing": ("hat", "shoe", "shirt", "dress"),
    "person": ("woman", "man"),
    "monster": ("skull", "ghost", "alien", "pumpkin"),
}

COLORS: dict[str, tuple[float, float]] = {
    "red": (345, 12),
    "orange": (16, 36),
    "yellow": (38, 62),
    "green": (75, 165),
    "blue": (185, 245),
    "purple": (255, 300),
    "pink": (305, 342),
}
"""Hues in degrees, from and to."""


@dataclass(frozen=True)
class Scene:
    """One emoji on a plain background, and what its caption says of it."""

    caption: str
    picture: int
    background: str


@dataclass(frozen=True)
class Pictures:
    """All emoji of `THINGS`.

    Attributes:
        pixels: (n, STORED, STORED, 4), uint8, colours not multiplied by the opacity.
        labels: of each the thing, the style and the colour, which may be "".
        of_thing: the rows of each thing.
    """

    pixels: NDArray[np.uint8]
    labels: list[tuple[str, str, str]]
    of_thing: dict[str, list[int]]


def fetched(package: str, version: str) -> dict[str, Any]:
    """The icons of one set, with their aliases: fetched by npm once, kept under `CACHE`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"iconify-json-{package}-{version}.tgz"
    if not archive.exists():
        with TemporaryDirectory(dir=CACHE) as folder:
            wanted = f"@iconify-json/{package}@{version}"
            subprocess.run(["npm", "pack", "--silent", wanted, "--pack-destination", folder], check=True)
            os.replace(Path(folder) / archive.name, archive)
    with tarfile.open(archive) as members:
        file = members.extractfile("package/icons.json")
        assert file is not None
        icons: dict[str, Any] = json.load(file)
    return icons


def rendered(icons: dict[str, Any], name: str) -> NDArray[np.uint8] | None:
    """One icon, (STORED, STORED, 4), with the margin that its set gives it; None if the set lacks it."""
    import resvg_py

    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{STORED}" '
        f'height="{STORED}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
    return np.array(Image.open(io.BytesIO(png)).convert("RGBA"))


def color_of(pixels: NDArray[np.uint8]) -> str:
    """The colour of more than half of a picture's opaque, saturated area; "" where there is none."""
    hue, saturation, value = np.moveaxis(np.array(Image.fromarray(pixels).convert("RGB").convert("HSV"), float), -1, 0)
    opaque = pixels[..., 3] > 128
    vivid = opaque & (saturation > 90) & (value > 70)
    if vivid.sum() < 0.4 * opaque.sum():
        return ""
    degrees = hue[vivid] * 360 / 255
    for color, (start, end) in COLORS.items():
        inside = (degrees >= start) | (degrees < end) if start > end else (degrees >= start) & (degrees < end)
        if inside.mean() > 0.6:
            return color
    return ""


@lru_cache(maxsize=1)
def pictures() -> Pictures:
    """All of them, rendered once and kept under `CACHE`."""
    path = CACHE / f"pictures-{STORED}.npz"
    if not path.exists():
        rows, labels = [], []
        for style, source in STYLES.items():
            icons = fetched(*source)
            for thing, names in THINGS.items():
                for pixels in (rendered(icons, name) for name in names.split()):
                    if pixels is not None:
                        rows.append(pixels)
                        labels.append((thing, style, color_of(pixels)))
        with TemporaryDirectory(dir=CACHE) as folder:  # several processes may do this at once
            np.savez(Path(folder) / path.name, pixels=np.stack(rows), labels=np.array(labels))
            os.replace(Path(folder) / path.name, path)
    with np.load(path) as kept:
        pixels, labels = kept["pixels"], [(str(a), str(b), str(c)) for a, b, c in kept["labels"]]
    of_thing: dict[str, list[int]] = {thing: [] for thing in THINGS}
    for row, (thing, _, _) in enumerate(labels):
        of_thing[thing].append(row)
    return Pictures(pixels, labels, of_thing)


def sample_scene(rng: np.random.Generator, split: str) -> Scene:
    """A random emoji with a random caption of a split; things are equally frequent.

    Raises:
        ValueError: if ``split`` is none of `SPLITS`.
    """
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; choose one of {', '.join(SPLITS)}")
    while True:
        scene = _random_scene(rng)
        if split_of(scene.caption) == split:
            return scene


def _random_scene(rng: np.random.Generator) -> Scene:
    things, backgrounds, known = tuple(THINGS), tuple(BACKGROUNDS), pictures()
    thing = things[rng.integers(len(things))]
    rows = known.of_thing[thing]
    row = rows[rng.integers(len(rows))]
    _, style, color = known.labels[row]
    background = backgrounds[rng.integers(len(backgrounds))]
    kinds = [kind for kind, members in KINDS.items() if thing in members]
    noun = kinds[0] if kinds and rng.random() < 0.3 else thing
    if color and rng.random() < 0.4:
        noun = f"{color} {noun}"
    caption = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    if rng.random() < 0.5:
        caption += f" in the {style} style"
    if rng.random() < 0.5:
        caption += f" on a {background} background"
    return Scene(caption, row, background)


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The picture of a scene: uint8, (PIXELS, PIXELS, 3). ``rng`` draws size, place and direction."""
    emoji = Image.fromarray(pictures().pixels[scene.picture]).convert("RGBa")
    if rng.random() < 0.5:
        emoji = emoji.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = PIXELS * rng.uniform(0.78, 0.92)
    x, y = (PIXELS - side) / 2 + rng.uniform(-2, 2, 2)
    scale = STORED / side
    box = (-x * scale, -y * scale, (PIXELS - x) * scale, (PIXELS - y) * scale)
    supersampled = emoji.transform(
        (2 * PIXELS, 2 * PIXELS), Image.Transform.EXTENT, box, resample=Image.Resampling.BILINEAR
    )
    small = np.array(supersampled.resize((PIXELS, PIXELS), Image.Resampling.BOX), float)
    plain = np.array(BACKGROUNDS[scene.background], float)
    shown = small[..., :3] + plain * (1 - small[..., 3:] / 255)
    return np.clip(shown + 0.5, 0, 255).astype(np.uint8)
