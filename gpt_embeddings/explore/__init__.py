"""Explore: an input stage to look at, as figures for notebooks, as a page, as one file, as a Space.

Read `style`, `tables`, `figures`, `maps`; then `lazy_model`, `views`, `markup`; last `page` and `export`.
"""

from importlib.util import find_spec


if find_spec("plotly") is None or find_spec("sklearn") is None:
    raise ImportError("Figures and the page need the extra `explore`: `pip install 'gpt-embeddings[explore]'`.")
