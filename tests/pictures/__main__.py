"""Draws the pictures of the documents anew."""

from tests.pictures import PICTURES

for path, draw in PICTURES.items():
    path.write_text(draw(), encoding="utf-8")
