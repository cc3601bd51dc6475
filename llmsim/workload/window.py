"""What happens to requests that the model's context window cannot hold."""

from dataclasses import dataclass

from llmsim.errors import ScenarioError
from llmsim.workload.request import Prefix
from llmsim.workload.spec import OnTooLong


@dataclass(slots=True)
class ContextWindow:
    """The window, ``max_model_len`` tokens of prompt and output together, and the rule for what exceeds it.

    ``reject`` leaves the request as it is: the engine refuses it and its record says so.  ``truncate`` cuts the
    end of the prompt, so a shared beginning stays shared; ``error`` stops.
    """

    max_model_len: int
    on_too_long: OnTooLong
    truncated: int = 0

    def fit(self, name: str, prompt_tokens: int, output_tokens: int) -> tuple[int, int]:
        """Return prompt and output tokens of a request that exceeds the window, after the rule is applied.

        Raises:
            ScenarioError: the rule is ``error``.
        """
        if self.on_too_long == "error":
            raise ScenarioError(
                f"workload: request {name}: {prompt_tokens} prompt and {output_tokens} output tokens exceed "
                f"max_model_len {self.max_model_len}\nhint: workload.on_too_long: reject or truncate"
            )
        if self.on_too_long == "truncate":
            self.truncated += 1
            output_tokens = min(output_tokens, self.max_model_len - 1)
            prompt_tokens = min(prompt_tokens, max(1, self.max_model_len - output_tokens))
        return prompt_tokens, output_tokens

    @property
    def warnings(self) -> list[str]:
        """What was cut so far."""
        if not self.truncated:
            return []
        return [f"{self.truncated} requests exceed max_model_len {self.max_model_len}: their prompts were cut"]


def cut_prefix(prefix: Prefix | None, prompt_tokens: int) -> Prefix | None:
    """Return the part of ``prefix`` in the first ``prompt_tokens`` tokens; what it says of an answer goes."""
    if prefix is None:
        return None
    blocks = -(-prompt_tokens // prefix.block_tokens)
    return Prefix(prefix.hash_ids[:blocks], prefix.block_tokens)
