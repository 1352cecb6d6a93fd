"""The body of a chat request, checked: what it may hold, what is read past, and what is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from salad.serve.errors import ApiError, refusal_of
from salad.serve.sound import FORMATS

# What OpenAI's clients send and what changes no answer here; read past.
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "reasoning_effort",
           "verbosity", "parallel_tool_calls")  # fmt: skip
# What they send with a value that asks for nothing; another value is refused.
ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,), "frequency_penalty": (0, 0.0), "presence_penalty": (0, 0.0), "modalities": (["text"],),
    "response_format": ({"type": "text"},), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "logit_bias": ({},), "audio": (), "prediction": (), "web_search_options": (),
}  # fmt: skip
NOTHING_ONLY = ("refusal", "tool_calls", "function_call", "audio", "annotations", "reasoning_content", "name")
TAGS = ("a string", "a list", "text part", "input_audio part", "audio_url part")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _characters(text: str) -> str:
    """Raises ValueError for half a surrogate, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, expected Unicode text; mend its encoding") from None
    return text


Text = Annotated[str, AfterValidator(_characters)]


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class InputAudio(Strict):
    data: str
    format: Literal[FORMATS]  # type: ignore[valid-type]  # the names stand once, as values


class AudioPart(Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio


class Url(Strict):
    url: str


class UrlPart(Strict):
    type: Literal["audio_url"]
    audio_url: Url


def _kind_of_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    return f"{kind} part"


Part = Annotated[
    Annotated[TextPart, Tag("text part")]
    | Annotated[AudioPart, Tag("input_audio part")]
    | Annotated[UrlPart, Tag("audio_url part")],
    Discriminator(
        _kind_of_part,
        custom_error_type="invalid_value",
        custom_error_message="expected a part whose type is text, input_audio or audio_url",
    ),
]
Content = Annotated[
    Annotated[Text, Tag("a string")] | Annotated[list[Part], Field(min_length=1), Tag("a list")],
    Discriminator(lambda value: "a string" if isinstance(value, str) else "a list"),
]


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content

    @model_validator(mode="before")
    @classmethod
    def _read_past(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if not (k in NOTHING_ONLY and (v is None or v == [] or k == "name"))}


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False  # without effect: nothing is padded


class ChatRequest(Strict):
    """A checked body; `limit`, `stops`: what its two spellings of each come to."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    stop: (
        Annotated[
            Annotated[Annotated[Text, Field(min_length=1)], Tag("a string")]
            | Annotated[list[Annotated[Text, Field(min_length=1)]], Field(max_length=4), Tag("a list")],
            Discriminator(lambda value: "a string" if isinstance(value, str) else "a list"),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def parse_chat(body: Any) -> ChatRequest:
    """Raises ApiError that names the field."""
    if not isinstance(body, dict):
        raise ApiError(400, f"body: expected a JSON object, got {type(body).__name__}", None, "invalid_value")
    left = {}
    for name, value in body.items():
        if name in ONLY:
            if value is not None and value not in ONLY[name]:
                message = f"{name}: got {value!r:.60}, which this server cannot do; leave it out"
                raise ApiError(400, message, name, "unsupported_value")
        elif name not in IGNORED:
            left[name] = value
    try:
        request = ChatRequest.model_validate(left)
    except ValidationError as error:
        raise refusal_of(error, TAGS) from None
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options: only with stream true; leave it out", "stream_options", "invalid_value")
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs: only with logprobs true; add it", "top_logprobs", "invalid_value")
    return request
