"""Write the pages that a program writes."""

from tests.architecture.sources import ROOT
from tests.documents.reference import render

for name, text in render().items():
    (ROOT / name).parent.mkdir(exist_ok=True)
    (ROOT / name).write_text(text, encoding="utf-8")
