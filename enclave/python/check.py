"""Says whether app.py can be a function, without running any of it.

Takes the source as one frame and answers with one: why it is refused, or nothing.
Runs in a jail: a source can be made to exhaust Python's own compiler.
"""

from __future__ import annotations

import ast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from worker import Channel

NAME = "cape_handler"
MISSING = f'app.py does not bind {NAME} at top level: add "def {NAME}(data):", or import it there'


def in_target(target: ast.expr) -> bool:
    return any(isinstance(n, ast.Name) and n.id == NAME and isinstance(n.ctx, ast.Store) for n in ast.walk(target))


def in_import(names: list[ast.alias]) -> bool:
    """A star import may bind anything; only running it would tell."""
    return any((n.asname or n.name) in (NAME, "*") for n in names)


def binds(body: list[ast.stmt]) -> bool:
    """Looks at statements of the module's own scope, branches included."""
    todo = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found = node.name == NAME
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found = in_import(node.names)
        elif isinstance(node, ast.Assign):
            found = any(in_target(t) for t in node.targets)
        elif isinstance(node, ast.AnnAssign):
            found = node.value is not None and in_target(node.target)
        else:
            found = False
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                for child in getattr(node, field, ()):
                    todo.extend([child] if isinstance(child, ast.stmt) else child.body)
        if found:
            return True
    return False


def judge(source: bytes) -> str:
    try:
        tree = ast.parse(source, "app.py")
        compile(tree, "app.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        return f"app.py{where}: {error.msg}"
    except (RecursionError, MemoryError):
        return "app.py is nested too deeply, or too large, for Python to compile"
    except ValueError as error:
        return f"app.py: {error}"
    return "" if binds(tree.body) else MISSING


def main(channel: Channel) -> None:
    frame = channel.receive()
    if frame is not None:
        channel.send(b"v", judge(frame[1]).encode("utf-8", "backslashreplace")[:2048])
