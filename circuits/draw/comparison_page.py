"""placeholder"""


def write_comparison_page(comparison, path):
    from ..formats.plain import write_text_atomic

    return write_text_atomic(path, "x")
