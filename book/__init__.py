"""The builder of the book: execute the chapters, stage the sources, render the pages.

``python -m book --help`` lists the commands; the Makefile strings them together.
"""
