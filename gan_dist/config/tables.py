"""Names that a table in another module defines, read without importing that module, which may need torch.

So a flag's choices follow from the table: a new loss or architecture is added in one place.
"""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def keys_of(file: str, table: str) -> tuple[str, ...]:
    """The keys of a dict literal with string keys, in order.

    Args:
        file: path of the module inside the package.
        table: name of the module-level variable.
    """
    for node in ast.parse((PACKAGE / file).read_text()).body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            if any(isinstance(target, ast.Name) and target.id == table for target in targets):
                assert isinstance(node.value, ast.Dict)
                return tuple(ast.literal_eval(key) for key in node.value.keys if key is not None)
    raise AssertionError(f"{file} has no dict literal {table}")
