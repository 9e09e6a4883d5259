"""What the policy reads and what its text means: prompts, actions, observations, tags that nobody can forge.

- `observation`: documents to text: what the policy reads after a search, and after an action that is neither search
  nor answer
- `parse`: what a turn asks for, read from the text the model wrote: the first complete tag pair decides
- `prompt`: prompts: one user message with the question, through the model's chat template where it has one
- `sanitize`: make text harmless: a question or a document must not be able to forge tags, chat markers or other
  documents
"""

from calibadv.dialogue.observation import render_invalid, render_observation
from calibadv.dialogue.parse import ParsedTurn, read_turn
from calibadv.dialogue.prompt import PROMPTS, PromptTemplate, render_prompt
from calibadv.dialogue.sanitize import neutralise

__all__ = [
    "PROMPTS",
    "ParsedTurn",
    "PromptTemplate",
    "neutralise",
    "read_turn",
    "render_invalid",
    "render_observation",
    "render_prompt",
]
