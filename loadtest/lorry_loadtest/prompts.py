"""Prompts: given texts, or plain words in a random order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from lorry_loadtest.lengths import Lengths

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
class RandomWords:
    """`num_words` words drawn at random, so that prompts have no long prefix in common."""

    num_words: Lengths = field(default_factory=lambda: Lengths(64, 64))

    def draw(self, rng: random.Random) -> str:
        return " ".join(rng.choices(_WORDS, k=self.num_words.draw(rng)))


@dataclass(frozen=True, slots=True)
class FixedPrompts:
    """One of the given texts, each as likely as the others."""

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("the list of prompts is empty")

    def draw(self, rng: random.Random) -> str:
        return rng.choice(self.texts)


def prompts_of(source: RandomWords | FixedPrompts | Sequence[str]) -> RandomWords | FixedPrompts:
    """A source as it is, or a list of texts as a source."""
    if isinstance(source, RandomWords | FixedPrompts):
        return source
    return FixedPrompts(tuple(source))
