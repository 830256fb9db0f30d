"""Kinds of models, one file each; a file offers ``FAMILY`` (see ``wenlu.models.config.Family``)."""
