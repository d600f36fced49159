"""Style prompts, and the sentences around them, as data with their source."""

#: The nine filter-like prompts of DiffuseMix (Islam et al., 2024, arXiv 2405.14881).
DIFFUSEMIX_PROMPTS = (
    "Autumn",
    "snowy",
    "watercolor art",
    "sunset",
    "rainbow",
    "aurora",
    "mosaic",
    "ukiyo-e",
    "a sketch with crayon",
)

#: The sentence of the DiffuseMix paper, and the bare prompt of its released code.
DIFFUSEMIX_TEMPLATES = {
    "paper": "A transformed version of image into {prompt}",
    "release": "{prompt}",
}


def fill(template: str, prompt: str) -> str:
    """Put a prompt into a template; braces in the prompt itself stay as they are."""
    return template.replace("{prompt}", prompt)
