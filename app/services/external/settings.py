"""What an external system is: where its endpoint is, and what is sent to it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from app.errors import Invalid
from app.services.external.keys import check_variable
from app.services.external.prefix import QUERY, Prefix, read_prefix
from app.services.importing import columns
from app.services.importing.problems import RowProblem

MAX_PREFIX: Final = 32_000  # characters
MAX_STOPS: Final = 4  # as many as such endpoints take
PATHS: Final = ("/chat/completions", "/completions")


class Api(StrEnum):
    """Which of the two ways an endpoint has."""

    chat = "chat"  # POST BASE/chat/completions: messages in turns
    completions = "completions"  # POST BASE/completions: a text to continue


def _name(value: str) -> str:
    try:
        found = columns.short_name({"name": value}, ("name",))
    except RowProblem as problem:
        raise ValueError(str(problem).removeprefix("name ")) from None
    if not found:
        raise ValueError("is missing")
    return found


def _prefix(value: str) -> str:
    value = _text(value)
    try:
        read_prefix(value)
    except Invalid as error:
        raise ValueError(error.message) from None
    return value


def _text(value: str) -> str:
    try:
        return columns.storable("it", value.replace("\r\n", "\n"))
    except RowProblem as problem:
        raise ValueError(str(problem).removeprefix("it ")) from None


def _url(value: str) -> str:
    """Without the part that is added for each call.

    Any host is allowed, those of one's own network too: a model server on the next machine is the
    usual case, and a study's researchers are trusted with it, as with webhooks.
    """
    value = value.strip().rstrip("/")
    for path in PATHS:
        value = value.removesuffix(path)
    try:
        parts = urlsplit(value)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        sound = False
    if not sound or len(value) > 2_000 or not value.isascii() or not value.isprintable():
        raise ValueError("begins with http:// or https:// and names a host")
    if " " in value or "?" in value or "#" in value:
        raise ValueError("has no spaces, and nothing behind a ? or #")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds no user name or password: it is shown to every researcher")
    return value


def _stop(value: str) -> str:
    if not value or len(value) > 100:
        raise ValueError("has 1 to 100 characters")
    return _text(value)


def _blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


Blank = BeforeValidator(_blank)  # an empty field of a form
Model = TypeVar("Model", bound=BaseModel)


class SystemSettings(BaseModel):
    """A typo raises. None: nothing is sent, and the endpoint's own default holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    base_url: Annotated[str, AfterValidator(_url)]
    model: Annotated[str, AfterValidator(_name)]
    api: Api = Api.chat
    temperature: Annotated[Annotated[float, Field(ge=0, le=10)] | None, Blank] = 1.0
    top_p: Annotated[Annotated[float, Field(gt=0, le=1)] | None, Blank] = None
    max_tokens: Annotated[Annotated[int, Field(ge=1, le=1_000_000)] | None, Blank] = 512
    stop: tuple[Annotated[str, AfterValidator(_stop)], ...] = ()
    seed: Annotated[Annotated[int, Field(ge=0, lt=2**31)] | None, Blank] = None
    prefix: Annotated[str, Field(max_length=MAX_PREFIX), AfterValidator(_prefix)] = ""
    key_variable: Annotated[str | None, Blank, AfterValidator(check_variable)] = None
    at_a_time: Annotated[int, Field(ge=1, le=64)] = 4
    per_minute: Annotated[Annotated[int, Field(ge=1, le=100_000)] | None, Blank] = None
    timeout_seconds: Annotated[int, Field(ge=1, le=3_600)] = 120

    @property
    def parts(self) -> Prefix:
        return read_prefix(self.prefix)

    @property
    def stops(self) -> list[str]:
        """Where an answer ends. A model that continues texts would go on with further queries."""
        own = list(self.stop)
        return [*own, f"\n{QUERY}"] if self.api is Api.completions and self.parts.pairs else own

    @property
    def prompted(self) -> bool:
        return bool(self.prefix.strip())

    @model_validator(mode="after")
    def _few_stops(self) -> SystemSettings:
        if len(self.stops) > MAX_STOPS:
            taken = (
                " (one is taken by the few-shot prefix)" if self.stops[:-1] == [*self.stop] else ""
            )
            raise ValueError(f"Stop: at most {MAX_STOPS} texts{taken}.")
        return self


LABELS: Final[Mapping[str, str]] = {
    "base_url": "Base URL",
    "model": "Model",
    "api": "API",
    "temperature": "Temperature",
    "top_p": "Top p",
    "max_tokens": "Tokens at most",
    "stop": "Stop",
    "seed": "Seed",
    "prefix": "Few-shot prefix",
    "key_variable": "API key",
    "at_a_time": "Requests at a time",
    "per_minute": "Requests a minute",
    "timeout_seconds": "Seconds to wait",
}
# What may change once there are completions: how the system is reached, not what it answers.
TRANSPORT: Final = frozenset(
    {"base_url", "key_variable", "at_a_time", "per_minute", "timeout_seconds"}
)


def system_settings(values: Mapping[str, Any]) -> SystemSettings:
    """The settings, or Invalid with the fields and reasons in plain words."""
    return read(SystemSettings, values, LABELS)


def read(model: type[Model], values: Mapping[str, Any], labels: Mapping[str, str]) -> Model:
    """A model of these values, or Invalid that names each wrong field by its label."""
    try:
        return model(**values)
    except ValidationError as error:
        words = (_words(item, labels) for item in error.errors())
        raise Invalid(" ".join(dict.fromkeys(words))) from None


def _words(item: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    message = message.partition(", unable to parse")[0]
    if not item["loc"]:
        return f"{message}."
    label = labels.get(str(item["loc"][0]), str(item["loc"][0]))
    return f"{label}: {message[:1].lower()}{message[1:]}."
