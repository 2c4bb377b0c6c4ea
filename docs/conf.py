"""How the site is built: `sphinx-build -M html docs site -W --keep-going`, warnings being errors.

The notebooks are run as they are built, in a folder of their own, and a cell that fails fails the build. The pages of
the API are written from the packages' `__init__.pyi` before Sphinx looks for pages (`api_pages`).
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import api_pages  # noqa: E402
from vitcircuits import __version__  # noqa: E402

project, author, version = "vitcircuits", "The vitcircuits developers", __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**.ipynb_checkpoints"]

# Pages: Markdown as GitHub shows it, with links to headings.
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # a name in backticks that two packages have, such as `describe`

# Notebooks.
os.environ["VITCIRCUITS_PROGRESS"] = "0"
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # a bar of a library that we import
nb_output_stderr = "warn"
nb_execution_mode = "force"  # from the library as it is, and not from what was kept of an earlier one
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_merge_streams = True

# The API: docstrings are plain text with backticks and indented equations; types stand in the signatures.
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
smartquotes_action = "D"  # dashes; quotes are code
highlight_language = "none"  # an equation is no Python
napoleon_numpy_docstring = False
toc_object_entries_show_parents = "hide"

# The looks: everything is in the built folder, so that it opens from disk.
html_theme = "pydata_sphinx_theme"
html_title = "vitcircuits"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "show_toc_level": 2,
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "footer_start": [],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}

api_pages.write(HERE / "api")


def setup(app):
    """Docstrings pass through `api_pages` on their way to napoleon, and signatures on their way to the page."""
    app.connect("autodoc-process-docstring", api_pages.as_rst, priority=100)
    app.connect("autodoc-process-signature", api_pages.plain_signature)
