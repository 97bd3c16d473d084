"""How tasks and constraints are put into words, per split. No wording occurs in two splits, though all are near.

Filled in are `{noun}`, `{n}` (digits), `{number}` (in letters), `{word}`, `{sentence}`, `{first}` and `{second}`.
Every wording ends with its full stop, so that wordings may follow one another in any order.
"""

Wordings = dict[str, tuple[str, ...]]

OPENINGS: Wordings = {
    "train": (
        *(
            "Describe the {noun}.",
            "Tell me about the {noun}.",
            "Write about the {noun}.",
            "Say something about the {noun}.",
        ),
        *("What is the {noun} like?", "Think of the {noun} and describe it."),
    ),
    "dev": ("Please describe the {noun}.", "Write something about the {noun}.", "How would you describe the {noun}?"),
    "test": (
        "Give a description of the {noun}.",
        "Please tell me about the {noun}.",
        "What can you say about the {noun}?",
    ),
}

WORDINGS: dict[str, Wordings] = {
    "words": {
        "train": (
            "Use exactly {number} words.",
            "Answer in exactly {n} words.",
            "Write {number} words, no more and no less.",
        ),
        "dev": ("Write exactly {n} words.", "Answer with {number} words exactly."),
        "test": ("Use exactly {n} words.", "Your answer must have exactly {number} words."),
    },
    "one_word": {
        "train": ("Answer with one word.", "Use only a single word.", "Reply in one word only."),
        "dev": ("Answer in one single word.", "Write one word only."),
        "test": ("Answer with a single word.", "Use only one word."),
    },
    "sentences": {
        "train": ("Write exactly {number} sentences.", "Use {n} sentences.", "Answer in exactly {n} sentences."),
        "dev": ("Use exactly {number} sentences.", "Write {n} sentences."),
        "test": ("Write exactly {n} sentences.", "Answer in {number} sentences."),
    },
    "bullets": {
        "train": (
            'Write a list of {number} items, each starting with "- ".',
            'Make a bullet list ("- ") with exactly {n} items.',
            'Answer in exactly {n} bullet points ("- ").',
        ),
        "dev": ('Make a list of {n} lines that start with "- ".', 'Write a bullet list ("- ") of {number} items.'),
        "test": ('Write a bullet list with {n} items ("- ").', 'Use exactly {number} bullet points ("- ").'),
    },
    "numbered": {
        "train": (
            "Write a numbered list of {number} items.",
            "Make a list with {n} numbered lines (1., 2., ...).",
            "Use a numbered list with exactly {n} items.",
        ),
        "dev": ("Make a numbered list of {n} items.", "Write {number} numbered lines."),
        "test": ("Write a numbered list with {n} items.", "Use exactly {number} numbered lines (1., 2., ...)."),
    },
    "comma_list": {
        "train": (
            "List {number} things, separated by commas.",
            "Answer with exactly {n} items separated by commas.",
            "Write {n} items on one line, with commas between them.",
        ),
        "dev": ("Name {n} things, separated by commas.", "Write {number} items with commas between them."),
        "test": (
            "List exactly {n} things, separated by commas.",
            "Answer with {number} items, with commas between them.",
        ),
    },
    "json": {
        "train": (
            'Answer in JSON with the keys "{first}" and "{second}".',
            'Write a JSON object with the keys "{first}" and "{second}".',
            'Use JSON. The keys are "{first}" and "{second}".',
        ),
        "dev": (
            'Reply in JSON with the keys "{first}" and "{second}".',
            'Give JSON with the keys "{first}" and "{second}".',
        ),
        "test": (
            'Write JSON with the keys "{first}" and "{second}".',
            'Answer as a JSON object with keys "{first}" and "{second}".',
        ),
    },
    "lower": {
        "train": ("Use only lower case letters.", "Write everything in lower case.", "Do not use capital letters."),
        "dev": ("Write in small letters only.", "Answer in lower case."),
        "test": ("Write only in lower case letters.", "Use no capital letters."),
    },
    "upper": {
        "train": ("Use only capital letters.", "Write everything in upper case.", "ANSWER IN CAPITAL LETTERS."),
        "dev": ("Write in capital letters only.", "Answer in upper case."),
        "test": ("Write only in capital letters.", "Use upper case for everything."),
    },
    "title": {
        "train": (
            "Write Each Word In Title Case.",
            "Use title case for all words: Like This One.",
            "Give each word one capital letter, at its start.",
        ),
        "dev": ("Use title case for every word.", "Write Each Word Like This, with one capital letter."),
        "test": ("Put Every Word In Title Case.", "Write every word in title case, Like This."),
    },
    "quotes": {
        "train": (
            "Put your answer in double quotes.",
            'Start and end with a quotation mark (").',
            "Wrap everything in quotation marks.",
        ),
        "dev": ("Write your answer in quotation marks.", "Wrap the answer in double quotes."),
        "test": ("Put the whole answer in quotation marks.", "Wrap your answer in double quotes."),
    },
    "brackets": {
        "train": (
            "Put your answer in square brackets.",
            "Start with [ and end with ].",
            "Wrap everything in square brackets [ ].",
        ),
        "dev": ("Write your answer in square brackets.", "Wrap the answer in [ and ]."),
        "test": ("Put the whole answer in square brackets.", "Wrap your answer in [ and ]."),
    },
    "asterisks": {
        "train": (
            "Put your answer between asterisks.",
            "Start and end with an asterisk (*).",
            "Wrap everything in *asterisks*.",
        ),
        "dev": ("Write your answer between two asterisks (*).", "Wrap the answer in *asterisks*."),
        "test": ("Put the whole answer between asterisks.", "Wrap your answer in asterisks (*)."),
    },
    "question": {
        "train": ("End with a question mark.", "Make the last sentence a question.", "Finish with a question (?)."),
        "dev": ("Your answer must end with a question mark.", "End with a question."),
        "test": ("Finish with a question mark.", "The last sentence must be a question."),
    },
    "exclamation": {
        "train": (
            "End with an exclamation mark.",
            "The last character must be an exclamation mark.",
            "Finish with an exclamation (!).",
        ),
        "dev": ("Your answer must end with an exclamation mark.", "Close with an exclamation mark (!)."),
        "test": ("Finish with an exclamation mark.", 'The last mark must be "!".'),
    },
    "closing": {
        "train": (
            'End with the sentence "{sentence}"',
            'The last sentence must be "{sentence}"',
            'Finish your answer with "{sentence}"',
        ),
        "dev": ('Close with the sentence "{sentence}"', 'Your last sentence must be "{sentence}"'),
        "test": ('Finish with the sentence "{sentence}"', 'End your answer with "{sentence}"'),
    },
    "begins": {
        "train": (
            'Start with the word "{word}".',
            'The first word must be "{word}".',
            'Begin your answer with "{word}".',
        ),
        "dev": ('Begin with the word "{word}".', 'Your first word must be "{word}".'),
        "test": ('Start your answer with the word "{word}".', 'Begin with "{word}".'),
    },
    "repeats": {
        "train": (
            'Use the word "{word}" exactly {number} times.',
            'Say "{word}" {n} times.',
            'The word "{word}" must occur exactly {n} times.',
        ),
        "dev": ('Write the word "{word}" exactly {n} times.', 'Use "{word}" {number} times.'),
        "test": ('Use the word "{word}" exactly {n} times.', 'Say the word "{word}" {number} times.'),
    },
    "contains": {
        "train": (
            'Use the word "{word}".',
            'Include the word "{word}".',
            'Your answer must contain the word "{word}".',
        ),
        "dev": ('Mention the word "{word}".', 'The answer must include "{word}".'),
        "test": ('Your answer must include the word "{word}".', 'Make use of the word "{word}".'),
    },
    "excludes": {
        "train": (
            'Do not use the word "{word}".',
            'Avoid the word "{word}".',
            'Your answer must not contain the word "{word}".',
        ),
        "dev": ('Do not write the word "{word}".', 'Leave out the word "{word}".'),
        "test": ('Do not say the word "{word}".', 'Your answer must avoid the word "{word}".'),
    },
}
