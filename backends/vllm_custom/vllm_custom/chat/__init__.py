"""From a call to a prompt: messages, templates and media placeholders."""

from vllm_custom.chat.prompt import PromptBuilder, PromptPlan, RenderedPrompt

__all__ = ["PromptBuilder", "PromptPlan", "RenderedPrompt"]
