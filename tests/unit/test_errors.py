"""The tree of errors in the documentation is the tree of classes, and all of it is used."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pxbridge import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(errors.__file__).parent
BRANCH = re.compile(r"^(?P<indent>[ │]*)[├└]── (?P<name>\w+)  +\S")
CLASSES = {
    name: each
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, errors.PxbridgeError)
}


def told() -> dict[str, str]:
    """Each error in the documentation, and the one above it."""
    above = ["PxbridgeError"]
    tree = {}
    for line in (errors.__doc__ or "").splitlines():
        if (found := BRANCH.match(line.removeprefix("    "))) is not None:
            depth = len(found["indent"]) // 4
            tree[found["name"]] = above[depth]
            above[depth + 1 :] = [found["name"]]
    return tree


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file, ast.parse(file.read_text())


def test_the_documentation_shows_every_class_where_it_is() -> None:
    assert told() == {
        name: each.__bases__[0].__name__ for name, each in CLASSES.items() if name != "PxbridgeError"
    }


def test_every_error_is_the_operators_the_users_or_a_peers() -> None:
    faults = (errors.OperatorError, errors.InputError, errors.PeerError)
    for each in CLASSES.values():
        if each is not errors.PxbridgeError:
            assert sum(issubclass(each, fault) for fault in faults) == 1, each


def test_every_error_is_raised_and_no_other_one_is_public() -> None:
    made, elsewhere = set(), []
    own_bugs = {"RuntimeError"}  # what a fault of pxbridge's own is, by whatever name
    for file, tree in trees():
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)) if name in CLASSES:
                    made.add(name)
                case ast.ClassDef(name=name, bases=written) if file.name != "errors.py":
                    parents = {base.id for base in written if isinstance(base, ast.Name)}
                    known = {
                        *CLASSES,
                        *(e for e in vars(builtins) if e.endswith(("Error", "Exception"))),
                    } - own_bugs
                    if parents & known and not name.startswith("_"):
                        elsewhere.append(f"{file.name}: {name}")
    bases = {each.__bases__[0].__name__ for each in CLASSES.values()}
    assert {name for name in CLASSES if name not in made and name not in bases} == set()
    assert elsewhere == []


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_tells_what_it_means(name: str) -> None:
    assert CLASSES[name].__doc__, name
