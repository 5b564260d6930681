"""Explore: an input stage to look at, as figures for notebooks, as a page, as one file, as a Space.

Read `tables`, `figures`, `maps`; then `translation`, `views`; last `page` and `export`.
"""

from importlib.util import find_spec


missing = [name for name in ("gradio", "plotly", "sklearn") if find_spec(name) is None]
if missing:
    raise ImportError(
        f"Figures and the page need the extra `explore` (missing: {', '.join(missing)}): "
        "`pip install 'gpt-embeddings[explore]'`."
    )
