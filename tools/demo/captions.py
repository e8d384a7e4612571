"""What the demo model can be asked for: random subjects, and the words that ask for them.

A caption says all that matters in a picture. What it leaves out has one fixed default rather than a random value:
the fewer pictures fit a caption, the sooner a small model draws them sharply.
"""

from dataclasses import dataclass
from random import Random

COLOURS = {
    "red": (220, 48, 46),
    "orange": (240, 132, 36),
    "yellow": (247, 210, 62),
    "green": (50, 163, 82),
    "teal": (36, 150, 152),
    "blue": (44, 100, 208),
    "purple": (130, 66, 184),
    "pink": (243, 142, 184),
    "brown": (132, 88, 44),
    "black": (22, 22, 28),
    "white": (247, 248, 244),
    "gray": (140, 141, 148),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond")
ANIMALS = {"cat": "orange", "bear": "brown", "rabbit": "white", "fox": "red"}
TIMES = ("day", "sunset", "night")
TIME_WORDS = {"day": ("", "", " on a sunny day"), "sunset": (" at sunset",), "night": (" at night",)}
SIZES = ("small", "", "big")
RELATIONS = ("next to", "above", "inside")
#: Words that mean the same as another; they replace it now and then, so that both are understood.
SYNONYMS = {"gray": "grey", "purple": "violet", "gray background": "silver background"}
OPENINGS = ("a picture of ", "a drawing of ", "a simple drawing of ", "a beautiful picture of ")
#: Trigger words of the adapters. The model itself learns that they change nothing.
TRIGGERS = ("ink style", "neon style", "mosaic style", "gold style", "blueprint style", "candy style")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One picture in words: `kind` says which of the other fields count."""

    kind: str
    colour: str = ""
    second_colour: str = ""
    background: str = ""
    shape: str = ""
    second_shape: str = ""
    relation: str = ""
    size: str = ""
    time: str = "day"
    animal: str = ""
    mood: str = "happy"
    count: int = 1
    tree: bool = False
    water: bool = False


def random_subject(rng: Random) -> Subject:
    """Draw a subject; kinds come in proportion to how hard they are to learn."""
    kind = rng.choices(
        ("shape", "pair", "house", "boat", "tree", "flower", "face", "mountains"),
        (24, 22, 13, 10, 5, 9, 12, 5),
    )[0]
    return _RANDOM[kind](rng)


def _colours(rng: Random, n: int) -> list[str]:
    return rng.sample(sorted(COLOURS), n)


def _shape(rng: Random) -> Subject:
    colour, background = _colours(rng, 2)
    size = rng.choices(SIZES, (1, 4, 1))[0]
    return Subject(kind="shape", shape=rng.choice(SHAPES), colour=colour, background=background, size=size)


def _pair(rng: Random) -> Subject:
    colour, second, background = _colours(rng, 3)
    return Subject(
        kind="pair", relation=rng.choice(RELATIONS), background=background,
        shape=rng.choice(SHAPES), colour=colour, second_shape=rng.choice(SHAPES), second_colour=second,
    )  # fmt: skip


def _house(rng: Random) -> Subject:
    roof, wall = _colours(rng, 2)
    plain = rng.random()
    if plain < 0.15:
        roof, wall = "red", "white"
    elif plain < 0.5:
        wall = "white" if roof != "white" else "brown"
    return Subject(
        kind="house", colour=wall, second_colour=roof, time=rng.choice(TIMES), tree=rng.random() < 0.4
    )


def _boat(rng: Random) -> Subject:
    hull, sail = _colours(rng, 2)
    plain = rng.random()
    if plain < 0.15:
        hull, sail = "red", "white"
    elif plain < 0.6:
        sail = "white" if hull != "white" else "red"
    return Subject(kind="boat", colour=hull, second_colour=sail, time=rng.choice(TIMES))


def _tree(rng: Random) -> Subject:
    colour = rng.choice(("green", "green", "green", "orange", "pink", "yellow"))
    return Subject(kind="tree", colour=colour, time=rng.choice(TIMES), count=rng.choice((1, 1, 3)))


def _flower(rng: Random) -> Subject:
    colour, background = rng.sample([c for c in sorted(COLOURS) if c not in ("black", "green")], 2)
    if rng.random() < 0.35:
        background = "white" if colour != "white" else "blue"
    return Subject(kind="flower", colour=colour, background=background, count=rng.choice((1, 1, 3)))


def _face(rng: Random) -> Subject:
    animal = rng.choice(sorted(ANIMALS))
    colour, background = _colours(rng, 2)
    if colour == "black":
        colour = "gray" if background != "gray" else "brown"
    if rng.random() < 0.45:
        colour = ANIMALS[animal]
    if background == colour:
        background = "teal"
    return Subject(
        kind="face",
        animal=animal,
        colour=colour,
        background=background,
        mood=rng.choice(("happy", "happy", "sad")),
    )


def _mountains(rng: Random) -> Subject:
    return Subject(kind="mountains", time=rng.choice(TIMES), water=rng.random() < 0.4)


_RANDOM = {
    "shape": _shape, "pair": _pair, "house": _house, "boat": _boat,
    "tree": _tree, "flower": _flower, "face": _face, "mountains": _mountains,
}  # fmt: skip


def caption(subject: Subject, rng: Random) -> str:
    """Put `subject` in words, in one of several ways that all mean this picture.

    >>> caption(Subject(kind="shape", shape="circle", colour="red", background="blue"), Random(2))
    'a red circle on a blue background'
    """
    words = _WORDS[subject.kind](subject, rng)
    for word, other in SYNONYMS.items():
        if word in words and rng.random() < 0.15:
            words = words.replace(word, other)
    if rng.random() < 0.04:
        words = rng.choice(OPENINGS) + words
    if rng.random() < 0.04:
        words += ", " + rng.choice(TRIGGERS)
    return words.replace("a orange", "an orange")


def _on(subject: Subject, rng: Random) -> str:
    return (
        f"{subject.background} background"
        if rng.random() < 0.06
        else f" on a {subject.background} background"
    )


def _join(words: str, place: str) -> str:
    return f"{words}, {place}" if not place.startswith(" ") else words + place


def _shape_words(s: Subject, rng: Random) -> str:
    return _join(f"a {s.size} {s.colour} {s.shape}".replace("  ", " "), _on(s, rng))


def _pair_words(s: Subject, rng: Random) -> str:
    first, second = f"a {s.colour} {s.shape}", f"a {s.second_colour} {s.second_shape}"
    words = f"{first} {s.relation} {second}"
    if s.relation == "next to" and rng.random() < 0.5:
        words = f"{first} and {second}"
    elif s.relation == "above" and rng.random() < 0.3:
        words = f"{second} below {first}"
    return _join(words, _on(s, rng))


def _house_words(s: Subject, rng: Random) -> str:
    default = "white" if s.second_colour != "white" else "brown"
    if s.colour != default:
        words = f"a {s.colour} house with a {s.second_colour} roof"
    elif s.second_colour == "red" and rng.random() < 0.6:
        words = "a house"
    else:
        words = f"a house with a {s.second_colour} roof"
    if s.tree:
        words += rng.choice((" and a tree", " next to a tree"))
    return words + rng.choice(TIME_WORDS[s.time])


def _boat_words(s: Subject, rng: Random) -> str:
    default = "white" if s.colour != "white" else "red"
    if s.second_colour != default:
        words = f"a {s.colour} boat with a {s.second_colour} sail"
    elif s.colour == "red" and rng.random() < 0.6:
        words = "a boat"
    else:
        words = f"a {s.colour} boat"
    return words + rng.choice(("", "", " on the sea")) + rng.choice(TIME_WORDS[s.time])


def _tree_words(s: Subject, rng: Random) -> str:
    colour = "" if s.colour == "green" and rng.random() < 0.6 else s.colour + " "
    words = f"a {colour}tree" if s.count == 1 else f"three {colour}trees"
    return words + rng.choice(TIME_WORDS[s.time])


def _flower_words(s: Subject, rng: Random) -> str:
    words = f"a {s.colour} flower" if s.count == 1 else f"three {s.colour} flowers"
    if s.background == ("white" if s.colour != "white" else "blue") and rng.random() < 0.7:
        return words
    return _join(words, _on(s, rng))


def _face_words(s: Subject, rng: Random) -> str:
    mood = "" if s.mood == "happy" and rng.random() < 0.6 else s.mood + " "
    colour = "" if s.colour == ANIMALS[s.animal] and rng.random() < 0.8 else s.colour + " "
    words = f"a {mood}{colour}{s.animal}" + rng.choice((" face", " face", ""))
    if s.background == "teal" and rng.random() < 0.3:
        return words
    return _join(words, _on(s, rng))


def _mountains_words(s: Subject, rng: Random) -> str:
    words = rng.choice(("mountains", "snowy mountains", "the mountains"))
    return (
        words
        + (rng.choice((" by a lake", " and a lake")) if s.water else "")
        + rng.choice(TIME_WORDS[s.time])
    )


_WORDS = {
    "shape": _shape_words, "pair": _pair_words, "house": _house_words, "boat": _boat_words,
    "tree": _tree_words, "flower": _flower_words, "face": _face_words, "mountains": _mountains_words,
}  # fmt: skip


def words() -> list[str]:
    """Return every word a caption may have, sorted; each of them is one token of the model."""
    rng = Random(0)
    seen = {"two", "sun", "moon", "star", "sky", "sea", "field", "forest", "fine", "art", "without"}
    for _ in range(20000):
        seen.update(caption(random_subject(rng), rng).replace(",", " ,").split())
    for trigger in TRIGGERS:
        seen.update(trigger.split())
    return sorted(seen)
