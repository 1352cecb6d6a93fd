"""What a client of /v1/realtime may send, checked: its events, and the settings of a session (OpenAI's GA dialect)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from salad.serve.chat_request import Strict, Text
from salad.serve.errors import ApiError, refusal_of

MAX_AUDIO_BYTES = 15 * 2**20  # of one event, as base64
TAGS = ("a number", "a word", "user message", "system message", "assistant message", "input_text", "input_audio")
# What OpenAI's clients send and what changes no answer here; read past.
IGNORED = ("tracing", "parallel_tool_calls")
Name = Annotated[Text, Field(min_length=1, max_length=64)]
Nothing = Annotated[list[Any], Field(max_length=0)]


class _ReadsPast(Strict):
    @model_validator(mode="before")
    @classmethod
    def _read_past(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if k not in IGNORED} if isinstance(values, dict) else values


# --- a session --------------------------------------------------------------------------------------------


class Pcm(Strict):
    """16-bit little-endian, mono; OpenAI's own has 24 kHz alone."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[16000, 24000] = 24000


class ServerVad(Strict):
    """When a turn begins and ends, and what happens then."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=1, le=10_000)] = 500
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: None = None


class Transcription(Strict):
    """Whether what the ears heard is told; they hear as they were trained, whatever is asked for besides `model`."""

    model: Text | None = None
    language: Text | None = None
    prompt: Text | None = None


class Input(Strict):
    format: Pcm = Pcm()
    noise_reduction: None = None
    transcription: Transcription | None = None
    turn_detection: ServerVad | None = ServerVad()


class Audio(_ReadsPast):
    input: Input = Input()

    @model_validator(mode="before")
    @classmethod
    def _no_output(cls, values: Any) -> Any:
        """Nothing is spoken, so that a voice changes nothing."""
        return {k: v for k, v in values.items() if k != "output"} if isinstance(values, dict) else values


class Answering(_ReadsPast):
    """What a session and one response may both say; a response's None is the session's own."""

    output_modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] = ["text"]
    tools: Nothing = []
    tool_choice: Literal["none", "auto"] = "auto"
    prompt: None = None
    reasoning: None = None


Most = Annotated[
    Annotated[Annotated[int, Field(ge=1, le=4096)], Tag("a number")] | Annotated[Literal["inf"], Tag("a word")],
    Discriminator(lambda value: "a word" if isinstance(value, str) else "a number"),
]


class Session(Answering):
    type: Literal["realtime"] = "realtime"
    model: Text
    instructions: Text = ""
    audio: Audio = Audio()
    max_output_tokens: Most = "inf"
    include: Nothing | None = None
    truncation: Literal["disabled"] = "disabled"


class _Updated(Strict):
    session: Session


def updated(session: Session, changes: Mapping[str, Any]) -> Session:
    """`session` with what `changes` says; what it does not say stays. Raises ApiError that names the field."""
    try:
        return _Updated.model_validate({"session": _merged(session.model_dump(), changes)}).session
    except ValidationError as error:
        raise refusal_of(error, TAGS) from None


def _merged(now: Any, new: Any) -> Any:
    if not (isinstance(now, dict) and isinstance(new, Mapping)):
        return new
    return {**now, **{name: _merged(now.get(name), value) for name, value in new.items()}}


# --- items ------------------------------------------------------------------------------------------------


class RealtimeText(Strict):
    type: Literal["input_text", "output_text"]
    text: Text


class SoundPart(Strict):
    """base64 of samples in the session's format; its transcript, if any, is not read."""

    type: Literal["input_audio"]
    audio: Annotated[str, Field(min_length=1)]
    transcript: Text | None = None


def _kind_of_part(part: Any) -> str:
    return str(part.get("type") if isinstance(part, dict) else getattr(part, "type", None))


UserPart = Annotated[
    Annotated[RealtimeText, Tag("input_text")] | Annotated[SoundPart, Tag("input_audio")],
    Discriminator(
        _kind_of_part,
        custom_error_type="invalid_value",
        custom_error_message="expected a part whose type is input_text or input_audio",
    ),
]


class InputText(RealtimeText):
    type: Literal["input_text"]


class OutputText(RealtimeText):
    type: Literal["output_text"]


class _Message(Strict):
    type: Literal["message"]
    id: Name | None = None
    object: Literal["realtime.item"] | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None  # says nothing here


class UserMessage(_Message):
    role: Literal["user"]
    content: Annotated[list[UserPart], Field(min_length=1)]


class SystemMessage(_Message):
    role: Literal["system"]
    content: Annotated[list[InputText], Field(min_length=1)]


class AssistantMessage(_Message):
    role: Literal["assistant"]
    content: Annotated[list[OutputText], Field(min_length=1)]


def _whose(item: Any) -> str:
    return f"{item.get('role') if isinstance(item, dict) else getattr(item, 'role', None)} message"


Message = Annotated[
    Annotated[UserMessage, Tag("user message")]
    | Annotated[SystemMessage, Tag("system message")]
    | Annotated[AssistantMessage, Tag("assistant message")],
    Discriminator(
        _whose,
        custom_error_type="invalid_value",
        custom_error_message="expected a message whose role is user, system or assistant",
    ),
]


# --- events -----------------------------------------------------------------------------------------------


class Event(Strict):
    type: str
    event_id: Text | None = None


class SessionUpdate(Event):
    session: dict[str, Any]


class Append(Event):
    audio: Annotated[str, Field(max_length=MAX_AUDIO_BYTES)]


class Commit(Event):
    pass


class Clear(Event):
    pass


class ItemCreate(Event):
    item: Message
    previous_item_id: Text | None = None


class ItemDelete(Event):
    item_id: Text


class ResponseOptions(Answering):
    """What one response is to be; `conversation` none: it is no part of what is said after it."""

    conversation: Literal["auto", "none"] = "auto"
    instructions: Text | None = None
    max_output_tokens: Most | None = None
    metadata: Annotated[dict[str, Text], Field(max_length=16)] | None = None
    input: None = None
    audio: Any = None  # of its voice


class ResponseCreate(Event):
    response: ResponseOptions | None = None


class ResponseCancel(Event):
    response_id: Text | None = None


EVENTS: dict[str, type[Event]] = {
    "session.update": SessionUpdate,
    "input_audio_buffer.append": Append,
    "input_audio_buffer.commit": Commit,
    "input_audio_buffer.clear": Clear,
    "conversation.item.create": ItemCreate,
    "conversation.item.delete": ItemDelete,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
}


def read_event(text: str | None) -> dict[str, Any]:
    """The JSON object of a frame. Raises ApiError where it is none."""
    try:
        body = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, "event: expected a text frame with one JSON object", None, "invalid_json")
    return body


def parse_event(body: dict[str, Any]) -> Event:
    """Raises ApiError that names the field."""
    kind = body.get("type")
    if not isinstance(kind, str) or kind not in EVENTS:
        message = f"type: got {kind!r:.60}, expected {', '.join(EVENTS)}"
        raise ApiError(400, message, "type", "invalid_value")
    try:
        return EVENTS[kind].model_validate(body)
    except ValidationError as error:
        raise refusal_of(error, TAGS) from None
