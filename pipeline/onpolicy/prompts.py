"""Where prompts to be answered come from."""

from pipeline.errors import UserError
from pipeline.preferences.rows import Source
from pipeline.preferences.sources import open_source
from pipeline.settings.onpolicy import Prompts


def open_prompts(given: Prompts) -> Source:
    """The source of prompts that are read, not made. Raises UserError that names the section."""
    try:
        return open_source(
            given.source,
            split=given.split,
            subset=given.subset,
            revision=given.revision,
            columns=given.columns.values(),
        )
    except UserError as error:
        told = [text.replace("data.", "sample.prompts.") for text in (error.problem, error.remedy)]
        raise UserError(*told) from None
