"""The word material of the verifiable tasks: what they are about, and the words their constraints name.

The three splits share no topic, no thing that belongs to a topic and no word that a constraint asks for (a test checks
it), so that what is measured on dev and test was not learnt by heart. Adjectives are plain English and may recur.
"""

from collections.abc import Iterator
from dataclasses import dataclass

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Topic:
    """One row of the tables below. Grammar every entry keeps to, since sentences are put together from it:

    "the <noun>", "this <category>", "it is <adjective>", "it has <thing>", "it <habit>".
    """

    noun: str
    category: str
    adjectives: tuple[str, ...]
    things: tuple[str, ...]
    habits: tuple[str, ...]

    @property
    def pronoun(self) -> str:
        return {"man": "he", "woman": "she"}.get(self.category, "it")


# noun | category | five adjectives | five things (plural or uncountable), and below them three habits
_TRAIN = """
harbour | place | calm busy salty wide windy | boats ropes gulls nets masts
    smells of salt; wakes before dawn; shelters small ships
bakery | place | warm cosy sweet busy small | loaves ovens flour buns trays
    opens very early; smells wonderful; sells fresh bread
library | place | quiet tidy large dusty old | shelves novels desks ladders lamps
    closes at six; lends many books; keeps old maps
market | place | noisy crowded bright lively cheap | stalls baskets crowds spices bargains
    opens on Friday; sells ripe fruit; fills the square
forest | place | green deep dark quiet wild | trees moss mushrooms owls trails
    smells of rain; hides many animals; grows very slowly
castle | place | old grand cold tall strong | towers walls gates flags dungeons
    stands on a hill; guards the valley; keeps its secrets
farm | place | muddy busy green wide useful | cows barns tractors fields hens
    wakes very early; feeds the town; sells fresh milk
airport | place | busy loud modern bright huge | planes runways pilots queues suitcases
    never sleeps; welcomes many visitors; lies outside the city
river | place | long cool clear deep slow | fish bridges reeds pebbles currents
    flows to the sea; bends around the hill; never stops
mountain | place | high snowy rocky steep cold | peaks cliffs goats glaciers caves
    rises above the clouds; tests every climber; looks down on us
kitten | animal | soft playful tiny curious gentle | whiskers paws fur claws stripes
    plays with string; sleeps in the sun; purrs softly
horse | animal | strong fast proud gentle brown | hooves muscles stamina grace speed
    runs across the hill; eats dry hay; carries its rider
owl | animal | wise silent sharp grey shy | feathers talons wings eyes chicks
    hunts at night; turns its head; lives in a tree
whale | animal | huge gentle slow blue old | fins blubber songs calves barnacles
    swims very far; sings under water; dives for an hour
soup | food | hot thick salty tasty simple | carrots onions noodles beans herbs
    warms the hands; cooks for an hour; tastes of summer
pizza | food | hot crisp cheesy round tasty | olives tomatoes cheese peppers basil
    feeds the whole family; smells wonderful; disappears quickly
pancake | food | thin sweet golden round warm | syrup berries butter sugar lemon
    flips in the air; tastes of honey; melts in the mouth
salad | food | fresh green light crunchy healthy | lettuce cucumbers radishes seeds croutons
    tastes of spring; fills the bowl; keeps us healthy
clock | thing | old loud round exact tall | hands gears numbers springs chimes
    ticks all day; hangs on the wall; wakes the house
violin | thing | shiny delicate old sweet wooden | strings pegs curves notes varnish
    sings like a bird; rests in its case; needs much practice
bicycle | thing | light fast red rusty handy | pedals wheels brakes spokes tyres
    rolls down the hill; saves much time; waits in the hall
umbrella | thing | black wide useful wet light | ribs handles buttons folds fabric
    keeps us dry; turns inside out; dries in the hall
lamp | thing | bright small warm yellow modern | bulbs wires switches shades cables
    stands by the bed; lights the room; glows all evening
camera | thing | small digital sharp modern costly | lenses batteries filters flashes zoom
    sees every detail; fits in a bag; keeps our memories
storm | event | loud dark wild sudden violent | thunder lightning clouds rain gusts
    shakes the roof; rolls over the hills; ends before morning
wedding | event | happy white formal joyful long | flowers guests rings vows speeches
    lasts all day; joins two families; ends with a dance
festival | event | loud colourful joyful crowded lively | drums dancers lanterns tents parades
    returns every summer; fills the town; lasts three days
concert | event | loud long exciting lively moving | singers tickets amplifiers encores fans
    starts at eight; thrills the crowd; ends after midnight
race | event | fast close tough long tense | runners lanes medals cheers hurdles
    starts at noon; takes one hour; ends at the bridge
doctor | woman | kind calm careful busy clever | patients pills charts needles bandages
    listens with care; helps the sick; works at night
teacher | man | patient kind clever strict fair | pupils chalk lessons books homework
    explains things well; asks good questions; starts at eight
sailor | man | brave strong tanned cheerful free | maps knots anchors tattoos stories
    loves the sea; sleeps on deck; reads the stars
painter | woman | creative messy quiet gifted calm | brushes colours canvases easels sketches
    works by the window; sees every shadow; mixes blue and green
rose | plant | red sweet pretty delicate fresh | thorns petals leaves buds hips
    blooms in June; smells very sweet; climbs up the fence
oak | plant | old tall strong broad green | acorns branches bark twigs knotholes
    lives for centuries; gives cool shade; stands in the park
cactus | plant | green dry prickly tough small | spines needles blossoms pores juice
    stores its water; needs much sun; survives the heat
"""

_DEV = """
museum | place | quiet grand famous large old | statues paintings exhibits guards fossils
    opens at ten; keeps old treasures; tells many tales
island | place | sunny small remote green quiet | palms lagoons crabs coconuts coral
    lies far away; welcomes every boat; smells of flowers
desert | place | hot dry vast empty sandy | dunes camels scorpions mirages oases
    burns at noon; freezes at night; stretches for miles
rabbit | animal | soft shy quick white small | burrows ears teeth babies hops
    digs under the fence; eats fresh grass; runs from the fox
penguin | animal | black funny clumsy social small | flippers eggs friends toes plumage
    slides on the ice; swims very well; lives by the sea
omelette | food | fluffy yellow hot quick tasty | yolks ham chives spinach pepper
    cooks in minutes; tastes of butter; starts the day well
cake | food | sweet rich tall creamy soft | candles icing layers sprinkles cherries
    waits on the table; tastes of chocolate; vanishes very fast
guitar | thing | wooden loud shiny old light | frets chords melodies knobs stickers
    leans on the chair; sounds very warm; travels with the band
telescope | thing | long precise heavy costly modern | mirrors screws dials optics scratches
    shows us the moon; stands on the roof; looks into space
carnival | event | loud colourful wild joyful long | masks costumes clowns floats confetti
    comes once a year; fills the streets; lasts all night
nurse | man | kind patient busy careful strong | gloves uniforms shifts syringes skills
    works all night; cares for everyone; stays very calm
tulip | plant | bright slender pretty fresh tall | stems pollen nectar veins sap
    blooms in April; sways in the wind; loves the sun
"""

_TEST = """
beach | place | sandy warm sunny wide windy | waves shells towels surfers driftwood
    lies by the bay; draws many families; glows at sunset
station | place | busy loud grey large crowded | trains platforms benches signs timetables
    wakes at five; serves the whole city; stands in the centre
school | place | noisy large friendly modern busy | classrooms corridors bells lockers children
    starts at nine; opens young minds; closes in July
garden | place | green quiet pretty small sunny | paths bees hedges weeds snails
    smells of mint; needs much water; rests in winter
village | place | small quiet old pretty friendly | cottages chimneys fences footpaths sheep
    sleeps at nine; lies in a valley; knows everyone
dog | animal | loyal brown friendly loud playful | fleas spots bones tricks energy
    guards the door; chases every ball; barks at night
parrot | animal | green noisy clever bright funny | beaks colour words mischief charm
    copies every sound; sits on a branch; talks all day
elephant | animal | huge grey gentle slow wise | tusks wrinkles memories strength calm
    drinks from the lake; walks very slowly; lives in a herd
sandwich | food | fresh simple tasty soft cold | bread mustard pickles bacon crumbs
    fits in one hand; fills the lunch box; takes two minutes
curry | food | hot spicy yellow rich creamy | rice chillies garlic ginger lentils
    burns the tongue; cooks very slowly; smells of spice
piano | thing | black large heavy grand shiny | keys hammers felt legs tones
    stands in the hall; fills the room; sounds very soft
kite | thing | red light bright quick colourful | ribbons loops tails sails sticks
    flies over the hill; dances in the wind; falls on the grass
radio | thing | small old loud handy cheap | speakers antennas news music static
    plays all morning; sits on the shelf; wakes the family
mirror | thing | round clean bright clear old | frames edges glass reflections cracks
    hangs in the hall; never lies; shows every face
picnic | event | happy sunny relaxed simple long | blankets ants drinks cookies laughter
    begins after church; ends with a nap; needs good weather
match | event | tense fast loud close exciting | players goals whistles referees supporters
    starts at three; ends in a draw; fills the stadium
chef | woman | busy skilled strict creative loud | pans knives recipes aprons sauces
    tastes every dish; works very late; shouts in the kitchen
firefighter | man | brave strong calm quick tough | hoses boots helmets axes sirens
    climbs very fast; saves many lives; sleeps at the station
sunflower | plant | tall yellow bright cheerful golden | oil kernels shadows roots height
    turns to the sun; grows very fast; nods in the wind
fern | plant | green soft shady old fresh | fronds spores curls ridges tips
    grows in the shade; loves wet ground; covers the bank
"""


def _rows(table: str) -> Iterator[Topic]:
    lines = table.strip().splitlines()
    for words, habits in zip(lines[::2], lines[1::2], strict=True):
        noun, category, adjectives, things = words.split(" | ")
        yield Topic(noun, category, tuple(adjectives.split()), tuple(things.split()), tuple(habits.strip().split("; ")))


TOPICS = {"train": tuple(_rows(_TRAIN)), "dev": tuple(_rows(_DEV)), "test": tuple(_rows(_TEST))}

# What an answer must begin with: words that may stand before any sentence.
OPENERS = {
    "train": (
        "Today",
        "Honestly",
        "Often",
        "Clearly",
        "Luckily",
        "Usually",
        "Surely",
        "Generally",
        "Yes",
        "Sometimes",
        "Indeed",
        "Now",
    ),
    "dev": ("Perhaps", "Certainly", "Sadly", "Mostly", "Again", "Still"),
    "test": ("Truly", "Maybe", "Frankly", "Naturally", "Obviously", "Tonight", "Normally", "Actually"),
}

# What an answer must say an exact number of times: calls that may stand before any sentence, each its own word.
CALLS = {
    "train": ("wow", "look", "well", "hello", "listen", "great", "oh", "right"),
    "dev": ("wait", "hi", "nice", "ah"),
    "test": ("hey", "see", "good", "ha", "fine", "lovely"),
}

CLOSINGS = {
    "train": (
        *(
            "That is all.",
            "Have a nice day.",
            "I hope this helps.",
            "Thank you for asking.",
            "See you soon.",
            "Ask me again.",
        ),
        *("Now you know.", "Please visit us.", "Enjoy your week.", "The end.", "I love it.", "Take good care."),
    ),
    "dev": ("Have a good evening.", "That is my answer.", "Come back soon.", "Many people agree.", "All the best."),
    "test": (
        *("Have a great weekend.", "This is my view.", "Thanks for reading.", "Hope to see you.", "Good luck with it."),
        *("Let me know.", "You should try it.", "Stay well."),
    ),
}

# Keys of a JSON answer; an adjective of the topic is a fair value for each.
KEYS = {
    "train": ("look", "mood", "style", "feel", "first", "second", "note", "type"),
    "dev": ("trait", "tone", "form", "summary"),
    "test": ("quality", "nature", "label", "detail", "mark"),
}
