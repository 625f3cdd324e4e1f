"""Prompts: given texts, or plain words in a random order, alone, after shared prefixes, in turns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from lorry_loadtest.conversation import Conversation
from lorry_loadtest.lengths import Lengths, lengths_of

# Short and common, so that most tokenizers make one or two tokens of each.
_TEXT = (
    "about above after again air all along also animal answer apple around ask away back bag bank "
    "bear before begin below best big bird black blue boat book both box bread bridge bring brown "
    "build call car carry cat chair change city clean clear close cloud cold come cook corn count "
    "cover cup cut dark day deep door down draw dream drink drive dry early earth east eat egg end "
    "even every eye face fall family far farm fast field find fine fire first fish floor flower "
    "follow food foot forest form free friend front fruit full game garden give glass gold good "
    "grass green ground grow hand happy hard hat head hear heart heavy help high hill hold home "
    "horse hot hour house ice island join jump keep kind king kitchen lake land large last late "
    "laugh lead leaf learn leave left letter life light line list little long look low make map "
    "mark market meet milk mind money moon morning mountain mouth move music name near new next "
    "night north nose note ocean old open orange order over page paint paper park part path piece "
    "place plane plant play point poor press quick quiet rain reach read red rest ride right ring "
    "river road rock room round run salt sand school sea season second seed ship shoe shop short "
    "side silver sing sit sky sleep slow small smile snow song soon sound south spring stand star "
    "stone stop store story street strong summer sun table tail talk tall teach thin tree true "
    "turn under until voice wait walk wall warm wash watch water wave way week west wheel white "
    "wide wild wind window winter wood word work world yard year yellow young"
)
_WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True)
class Drawn:
    """The text of a request, with the turns before it."""

    text: str
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RandomWords:
    """`num_words` words drawn at random, so that prompts have no long prefix in common."""

    num_words: Lengths = field(default_factory=lambda: Lengths(64, 64))

    def __str__(self) -> str:
        return str(self.num_words)

    def draw(self, rng: random.Random, *, seed: str, index: int) -> Drawn:
        return Drawn(words(rng, self.num_words.draw(rng)))


@dataclass(frozen=True, slots=True)
class FixedPrompts:
    """One of the given texts, each as likely as the others."""

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("the list of prompts is empty")

    def __str__(self) -> str:
        lengths = [len(text.split()) for text in self.texts]
        return f"{len(self.texts)} given texts of {Lengths(max(1, min(lengths)), max(1, *lengths))}"

    def draw(self, rng: random.Random, *, seed: str, index: int) -> Drawn:
        return Drawn(rng.choice(self.texts))


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """`groups` prefixes of `prefix` words; each request has one of them and `unique` words after.

    This is what system prompts and documents look like to a prefix cache.
    """

    prefix: int
    unique: Lengths
    groups: int = 1

    def __post_init__(self) -> None:
        if self.prefix < 1 or self.groups < 1:
            raise ValueError(f"a shared prefix of {self.prefix} words in {self.groups} groups")

    def __str__(self) -> str:
        return f"one of {self.groups} prefixes of {self.prefix} and {self.unique} of its own"

    def draw(self, rng: random.Random, *, seed: str, index: int) -> Drawn:
        group = rng.randrange(self.groups)
        shared = words(random.Random(f"{seed}/prefix/{group}"), self.prefix)
        return Drawn(f"{shared} {words(rng, self.unique.draw(rng))}")


@dataclass(frozen=True, slots=True)
class MultiTurn:
    """Conversations of `turns` turns, `sessions` of them at the same time.

    The stream takes the first turn of each session, then the second of each, and so on; a later
    turn brings the whole conversation. The assistant's turns in it are made up too, since a request
    must not depend on what a server answered: the stream would be another on each run.
    """

    turns: int
    words_per_turn: Lengths
    words_per_answer: int = 48
    sessions: int = 8

    def __post_init__(self) -> None:
        if self.turns < 1 or self.sessions < 1 or self.words_per_answer < 1:
            raise ValueError(f"{self.turns} turns of {self.sessions} sessions at a time")

    def __str__(self) -> str:
        return f"{self.turns} turns of {self.words_per_turn} and {self.words_per_answer}"

    def conversation_at(self, index: int) -> Conversation:
        """That of request `index`."""
        block, place = divmod(index, self.sessions * self.turns)
        seat = place % self.sessions
        return Conversation(
            number=block * self.sessions + seat,
            first_index=block * self.sessions * self.turns + seat,
        )

    def draw(self, rng: random.Random, *, seed: str, index: int) -> Drawn:
        conversation = self.conversation_at(index)
        talk = random.Random(f"{seed}/session/{conversation.number}")
        history: list[str] = []
        for _ in range((index - conversation.first_index) // self.sessions):
            history.append(words(talk, self.words_per_turn.draw(talk)))
            history.append(words(talk, self.words_per_answer))
        return Drawn(words(talk, self.words_per_turn.draw(talk)), tuple(history))


PromptSource = RandomWords | FixedPrompts | SharedPrefix | MultiTurn


class Prompts:
    """The sources by name, for locustfiles: `Prompts.shared_prefix(prefix=512, unique=64)`."""

    @staticmethod
    def random(num_words: int | str | Lengths) -> RandomWords:
        return RandomWords(lengths_of(num_words))

    @staticmethod
    def fixed(*texts: str) -> FixedPrompts:
        return FixedPrompts(texts)

    @staticmethod
    def shared_prefix(*, prefix: int, unique: int | str | Lengths, groups: int = 1) -> SharedPrefix:
        return SharedPrefix(prefix, lengths_of(unique), groups)

    @staticmethod
    def multi_turn(
        *, turns: int, words: int | str | Lengths, answer_words: int = 48, sessions: int = 8
    ) -> MultiTurn:
        return MultiTurn(turns, lengths_of(words), answer_words, sessions)


def prompts_of(source: PromptSource | Sequence[str]) -> PromptSource:
    """A source as it is, or a list of texts as a source."""
    if isinstance(source, PromptSource):
        return source
    return FixedPrompts(tuple(source))


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(_WORDS, k=count))
