"""A Chat as openai-harmony itself renders it: a call's recipient behind the role, all else as eaftgate.chats.harmony.

It renders tokens, and so needs the ranks of o200k, which it downloads, or finds where TIKTOKEN_ENCODINGS_BASE points.
"""

from collections.abc import Callable, Iterator
from typing import Any

from eaftgate.chats.chat import Chat, Message, Tool
from eaftgate.chats.harmony import (
    Rendering,
    instructions,
    is_answer,
    is_harmonys_own,
    opening,
    without_earlier_analysis,
)
from eaftgate.chats.typescript import tools_section
from eaftgate.errors import UserError


def library_renderer(rendering: Rendering) -> tuple[Callable[[Chat], str], str]:
    """The renderer, and the version of the library. Raises UserError when that is not installed, or has no ranks."""
    try:
        import openai_harmony as library
    except ModuleNotFoundError:
        raise UserError(
            "openai-harmony is not installed: pip install 'eaftgate[packs]', or leave --template out"
        ) from None
    from importlib.metadata import version

    try:
        encoding = library.load_harmony_encoding(library.HarmonyEncodingName.HARMONY_GPT_OSS)
    except library.HarmonyError as error:
        raise UserError(
            f"openai-harmony cannot load the ranks of o200k ({' '.join(str(error).split())[:200]}): let "
            "TIKTOKEN_ENCODINGS_BASE be a directory with o200k_base.tiktoken, or leave --template out"
        ) from None
    config = library.RenderConversationConfig(auto_drop_analysis=False)

    def render(chat: Chat) -> str:
        conversation = library.Conversation.from_messages(list(_messages(library, chat, rendering)))
        text: str = encoding.decode_utf8(encoding.render_conversation_for_training(conversation, config))
        return text

    return render, version("openai-harmony")


def _messages(library: Any, chat: Chat, rendering: Rendering) -> Iterator[Any]:
    role, message = library.Role, library.Message.from_role_and_content
    begun = opening(chat, rendering)
    if begun.own:
        yield message(role.SYSTEM, begun.own)
    elif rendering.preamble != "none":
        yield message(role.SYSTEM, _system(library, begun.effort, rendering))
    kept = begun.messages if rendering.keep_analysis else tuple(without_earlier_analysis(begun.messages))
    tools = chat.tools
    if tools and not (kept and kept[0].role in ("system", "developer")):
        yield message(role.DEVELOPER, _developer(library, None, tools))
        tools = ()
    for each in kept:
        if each.role in ("system", "developer"):
            text = each.content or ""
            if is_harmonys_own(text):
                yield message(role.DEVELOPER, instructions(text, tools_section(tools) if tools else ""))
            else:
                yield message(role.DEVELOPER, _developer(library, text, tools))
            tools = ()
        elif each.role == "tool":
            author = library.Author.new(role.TOOL, each.name)
            result = library.Message.from_author_and_content(author, each.content or "")
            yield result.with_recipient("assistant").with_channel("commentary")
        elif each.role == "user":
            yield message(role.USER, each.content or "")
        else:
            yield from _assistant(library, each)


def _assistant(library: Any, each: Message) -> Iterator[Any]:
    def said(text: str, channel: str) -> Any:
        return library.Message.from_role_and_content(library.Role.ASSISTANT, text).with_channel(channel)

    if each.reasoning:
        yield said(each.reasoning, "analysis")
    if each.content is not None:
        yield said(each.content, "final" if is_answer(each) else "commentary")
    for call in each.calls:
        yield said(call.arguments, "commentary").with_recipient(call.name).with_content_type("<|constrain|>json")


def _system(library: Any, effort: str, rendering: Rendering) -> Any:
    system = library.SystemContent.new().with_reasoning_effort(library.ReasoningEffort(effort.capitalize()))
    if rendering.preamble == "effort":
        return system.model_copy(update={"model_identity": None, "knowledge_cutoff": None, "channel_config": None})
    return system.with_conversation_start_date(rendering.date) if rendering.date else system


def _developer(library: Any, text: str | None, tools: tuple[Tool, ...]) -> Any:
    content = library.DeveloperContent.new()
    if text is not None:
        content = content.with_instructions(text)
    described = [
        library.ToolDescription.new(t.name, t.description, None if t.parameters is None else dict(t.parameters))
        for t in tools
    ]
    return content.with_function_tools(described) if described else content
