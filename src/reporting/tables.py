"""One table as Markdown and as LaTeX: rows of text cells, those of `best` set in bold."""

import pandas as pd

LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"±": r"$\pm$", "−": "$-$", **{character: f"\\{character}" for character in "_%&#${}"}}


def markdown(cells: pd.DataFrame, best: pd.DataFrame) -> str:
    """cells: text, index = first column; best: bool, of the same shape."""
    bold = cells.where(~best, "**" + cells + "**").reset_index()
    widths = [max(map(len, [column, *bold[column]])) for column in bold]
    lines = [list(bold), ["-" * width for width in widths], *bold.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


def latex(cells: pd.DataFrame, best: pd.DataFrame, caption: str) -> str:
    """A table environment for \\usepackage{booktabs}; columns are named "<group> <name>"."""
    escaped = cells.map(escape)
    rows = escaped.where(~best, r"\textbf{" + escaped + "}")
    groups, names = zip(*(column.rpartition(" ")[::2] for column in cells), strict=True)
    spans = {group: groups.count(group) for group in dict.fromkeys(groups)}
    heads = [rf"\multicolumn{{{span}}}{{c}}{{{escape(group)}}}" for group, span in spans.items()]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\begin{{tabular}}{{l{'c' * len(groups)}}}",
        r"\toprule",
        " & ".join(["", *heads]) + r" \\",
        " & ".join([escape(cells.index.name), *map(escape, names)]) + r" \\",
        r"\midrule",
        *(
            " & ".join([escape(name), *row]) + r" \\"
            for name, row in zip(rows.index, rows.to_numpy(), strict=True)
        ),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
