"""From rows of a raw data set to prompts as token ids: records, handlers, templates, preprocessing, order."""
