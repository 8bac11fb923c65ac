"""The names in Python source, read from its syntax tree: strings and comments do not count."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def names(source: str) -> set[str]:
    """All names in a source, declared or used, with those of imported modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                found.add(name)
            case ast.keyword(arg=str(name)) | ast.ExceptHandler(name=str(name)):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found |= {*name.split("."), *([other] if other else [])}
            case ast.ImportFrom(module=str(module)):
                found |= set(module.split("."))
            case ast.Global(names=many) | ast.Nonlocal(names=many):
                found |= set(many)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                found.add(name)
            case ast.MatchClass(kwd_attrs=many):
                found |= set(many)
    return found


def declared(source: str) -> set[tuple[str, str]]:
    """The names that a source declares: (kind, name).

    Kinds are ``class``, ``function`` (methods too), ``parameter``, ``field`` (of a class or of ``self``) and
    ``variable`` (of a module or a function).
    """
    return set(_declared(ast.parse(source), in_class=False))


def _declared(tree: ast.AST, *, in_class: bool) -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.ClassDef(name=name):
                yield "class", name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield "function", name
            case ast.arg(arg=name):
                yield "parameter", name
            case ast.Attribute(value=ast.Name("self" | "cls"), attr=name, ctx=ast.Store()):
                yield "field", name
            case ast.Name(id=name, ctx=ast.Store()):
                yield ("field" if in_class else "variable"), name
            case ast.MatchAs(name=str(name)) | ast.ExceptHandler(name=str(name)):
                yield "variable", name
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        inside = isinstance(node, ast.ClassDef) or (in_class and not is_function)
        yield from _declared(node, in_class=inside)
