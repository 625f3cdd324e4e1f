"""What a server says at `/metrics`, read from Prometheus's text format.

Format: "Prometheus exposition formats", text format 0.0.4, and what OpenMetrics 1.0 adds to it
(timestamps after values, exemplars after `#`, `# EOF`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import msgspec

from lorry.errors import StreamProtocolError
from lorry.options import resolve
from lorry.session import Session

_SUFFIXES = {
    "counter": ("_total", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "summary": ("_sum", "_count", "_created"),
}
_ESCAPES = {"n": "\n", "\\": "\\", '"': '"'}


class Sample(msgspec.Struct, frozen=True):
    """One line: `name` may be the family's with an ending, as `_bucket` or `_total`."""

    name: str
    labels: Mapping[str, str]
    value: float


class Histogram(msgspec.Struct, frozen=True):
    """`buckets` are pairs of an upper bound and how many observations were at most that."""

    labels: Mapping[str, str]
    buckets: tuple[tuple[float, float], ...]
    count: float
    sum: float

    @property
    def mean(self) -> float:
        """NaN where nothing was observed."""
        return self.sum / self.count if self.count else math.nan

    def quantile(self, q: float) -> float:
        """An estimate, as PromQL's `histogram_quantile`: even spread within a bucket.

        The highest finite bound where it falls beyond that; NaN where nothing was observed.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q is {q}; it must be from 0 to 1")
        if not self.count or not self.buckets:
            return math.nan
        rank = q * self.buckets[-1][1]
        below, lower = 0.0, 0.0
        for bound, count in self.buckets:
            if count >= rank and count > below:
                if math.isinf(bound):
                    return lower
                return lower + (bound - lower) * (rank - below) / (count - below)
            below, lower = count, bound
        return lower


class Family(msgspec.Struct, frozen=True):
    """All samples of one metric. `kind` is "counter", "gauge", "histogram", "summary" or "untyped"."""

    name: str
    kind: str = "untyped"
    help: str = ""
    samples: list[Sample] = []

    @property
    def total(self) -> float:
        """The sum over all labels, of a counter, a gauge or a metric without a type."""
        return sum(sample.value for sample in self._values())

    def value(self, **labels: str) -> float:
        """The value of the one sample with these labels; there may be others beside them.

        Raises LookupError when no sample has them or several do.
        """
        found = [
            sample
            for sample in self._values()
            if all(sample.labels.get(name) == wanted for name, wanted in labels.items())
        ]
        if len(found) != 1:
            have = "; ".join(_shown(sample.labels) for sample in self._values())
            raise LookupError(
                f"{len(found)} samples of {self.name} have {_shown(labels)}; there are: {have}"
            )
        return found[0].value

    def histograms(self) -> list[Histogram]:
        """One for each set of labels; empty for a metric of another kind."""
        parts: dict[tuple[tuple[str, str], ...], dict[str, list[Sample]]] = {}
        for sample in self.samples:
            labels = tuple(sorted(item for item in sample.labels.items() if item[0] != "le"))
            ending = sample.name.removeprefix(self.name)
            parts.setdefault(labels, {}).setdefault(ending, []).append(sample)
        return [
            Histogram(
                labels=dict(labels),
                buckets=tuple(
                    sorted((float(s.labels.get("le", "nan")), s.value) for s in of["_bucket"])
                ),
                count=of["_count"][0].value if "_count" in of else 0.0,
                sum=of["_sum"][0].value if "_sum" in of else math.nan,
            )
            for labels, of in parts.items()
            if "_bucket" in of
        ]

    def _values(self) -> Iterator[Sample]:
        named = (self.name, f"{self.name}_total")
        return (sample for sample in self.samples if sample.name in named)


class ServerMetrics(Mapping[str, Family]):
    """Families by name: `metrics["vllm:num_requests_running"].total`.

    A counter is found with and without `_total` behind its name.
    """

    def __init__(self, families: Mapping[str, Family]) -> None:
        self._families = dict(families)

    def __getitem__(self, name: str) -> Family:
        family = self._families.get(name)
        if family is None:
            family = self._families.get(name.removesuffix("_total"))
        if family is None:
            family = self._families.get(f"{name}_total")
        if family is None:
            raise KeyError(name)
        return family

    def __iter__(self) -> Iterator[str]:
        return iter(self._families)

    def __len__(self) -> int:
        return len(self._families)

    def __repr__(self) -> str:
        return f"ServerMetrics({len(self)} metrics)"


async def fetch_metrics(session: Session) -> ServerMetrics:
    """Ask for `/metrics`. A server without it answers with its own error."""
    options = resolve({}, timeout=session.config.timeout)
    exchange = session.exchange("GET", "/metrics", options=options, accept="text/plain")
    await exchange.open()
    text = (await exchange.read_all()).decode("utf-8", "replace")
    try:
        return parse_metrics(text)
    except StreamProtocolError as error:
        exchange.describe(error)
        raise


def parse_metrics(text: str) -> ServerMetrics:
    """Read a whole exposition; raises StreamProtocolError that names the first wrong line."""
    families: dict[str, Family] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \t\r")
        if not line:
            continue
        try:
            if line.startswith("#"):
                _read_comment(line, families)
            else:
                sample = _read_sample(line)
                _family_of(sample.name, families).samples.append(sample)
        except (ValueError, IndexError) as error:
            raise StreamProtocolError(
                f"line {number} of the metrics cannot be read: {error}", snippet=line.encode()
            ) from error
    return ServerMetrics(families)


def _read_comment(line: str, families: dict[str, Family]) -> None:
    words = line.split(None, 3)
    if len(words) < 3 or words[0] != "#" or words[1] not in ("HELP", "TYPE"):
        return
    name, rest = words[2], words[3] if len(words) > 3 else ""
    before = families.get(name, Family(name))
    if words[1] == "TYPE":
        families[name] = Family(name, rest.strip(), before.help, before.samples)
    else:
        text = _unescaped(rest)
        families[name] = Family(name, before.kind, text, before.samples)


def _family_of(name: str, families: dict[str, Family]) -> Family:
    """The family that a sample belongs to, by its name without the endings of the family's kind."""
    if name in families:
        return families[name]
    for kind, endings in _SUFFIXES.items():
        for ending in endings:
            family = families.get(name.removesuffix(ending))
            if name.endswith(ending) and family is not None and family.kind == kind:
                return family
    return families.setdefault(name, Family(name))


def _read_sample(line: str) -> Sample:
    brace = line.find("{")
    space = len(line.split(None, 1)[0])
    labels: dict[str, str] = {}
    if 0 <= brace < space:
        name = line[:brace]
        position = _read_labels(line, brace + 1, labels)
    else:
        name, position = line[:space], space
    if not name:
        raise ValueError("it has no name")
    values = line[position:].split("#")[0].split()  # what follows a # is an exemplar
    if not 1 <= len(values) <= 2:  # a timestamp may follow
        raise ValueError(f"{line[position:].strip()!r} is not a value")
    return Sample(name, labels, float(values[0]))  # which knows +Inf and NaN as they are written


def _read_labels(line: str, position: int, labels: dict[str, str]) -> int:
    """Fill `labels` from `position` on; return where the value of the sample begins."""
    while True:
        while line[position] in " ,\t":
            position += 1
        if line[position] == "}":
            return position + 1
        equals = line.index("=", position)
        name = line[position:equals].strip()
        start = equals + 1
        if not name or line[start] != '"':
            raise ValueError(f'a label must be name="value", not {line[position : start + 1]!r}')
        end = start + 1
        while line[end] != '"':
            end += 2 if line[end] == "\\" else 1
        labels[name] = _unescaped(line[start + 1 : end])
        position = end + 1


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    pieces, position = [], 0
    while (slash := text.find("\\", position)) >= 0:
        following = text[slash + 1 : slash + 2]
        pieces += [text[position:slash], _ESCAPES.get(following, f"\\{following}")]
        position = slash + 2
    return "".join([*pieces, text[position:]])


def _shown(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in labels.items()) or "no labels"
