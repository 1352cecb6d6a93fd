"""One flat Python file out of our own sources: what a class needs of them, in order, without an import of ours."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

Key = tuple[str, str]  # (module, name) of a definition of ours; ("", the import itself) of one of another package
OURS = "salad"
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass
class _Module:
    """A source file: the statement that binds each name, what its imports stand for, and the modules of ours it asks
    for as it is loaded."""

    name: str
    body: list[ast.stmt]
    bound: dict[str, int] = field(default_factory=dict)  # name -> place in body
    imports: dict[str, Key] = field(default_factory=dict)  # ("salad.audio", "") is the module itself
    before: list[str] = field(default_factory=list)


def flat_source(
    roots: Sequence[Key], title: str, *, without: Iterable[str] = (), stubs: Mapping[Key, str] | None = None
) -> str:
    """Source of a file that holds `roots` ("module", "name") and all of ours that they use.

    without: methods as "Class.method" that are left out. stubs: functions in whose place one stands that raises
    NotImplementedError with this message. Modules come in the order of their imports, statements as they stand there;
    of two definitions of one name the later one's name gets its module's behind it. The same sources give the same
    bytes. Raises NotImplementedError where a source binds names in a way that cannot be laid flat.
    """
    return _Flat(frozenset(without), dict(stubs or {})).source(roots, title)


class _Flat:
    def __init__(self, without: frozenset[str], stubs: dict[Key, str]) -> None:
        self.without, self.stubs = without, stubs
        self.kept: set[Key] = set()
        self.modules: dict[str, _Module] = {}
        self.order: list[str] = []

    def source(self, roots: Sequence[Key], title: str) -> str:
        for root in roots:
            self._keep(root)
        for name in sorted({module for module, _ in self.kept if module}):
            self._visit(name)
        final = self._final_names()
        assert all(final[self._home(root)] == root[1] for root in roots), "a root lost its name to another definition"
        head = ["from __future__ import annotations", *sorted(text for module, text in self.kept if not module)]
        parts = [f'"""{title}"""', "\n".join(head)]
        for name in self.order:
            parts += self._written(self._module(name), final)
        return "\n\n".join(parts) + "\n"

    # --- what is needed -------------------------------------------------------------------------------

    def _module(self, name: str) -> _Module:
        if name not in self.modules:
            self.modules[name] = _read(name, self.without)
        return self.modules[name]

    def _home(self, key: Key) -> Key:
        """Where a name of ours is defined, whoever hands it on; a module itself has the name ""."""
        module, name = key
        if not module or not name:
            return key
        found = self._module(module)
        if name in found.bound:
            return key
        if name in found.imports:
            return self._home(found.imports[name])
        if _is_module(f"{module}.{name}"):
            return f"{module}.{name}", ""
        raise NotImplementedError(f"export: {module} has no {name} at its top level")

    def _keep(self, key: Key) -> None:
        key = self._home(key)
        if key in self.kept:
            return
        self.kept.add(key)
        module, name = key
        if not module or key in self.stubs:
            return
        if not name:
            raise NotImplementedError(f"export: the module {module} is used as a whole")
        source = self._module(module)
        self._keep_used(source, source.body[source.bound[name]])
        for statement in source.body:  # what the module does as it is loaded, such as registering
            if isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant):
                self._keep_used(source, statement)

    def _keep_used(self, module: _Module, statement: ast.stmt) -> None:
        for key in _Names(self, module, {}).keys_of(statement):
            self._keep(key)

    def _visit(self, name: str) -> None:
        if name not in self.order:
            for other in self._module(name).before:
                if other not in self.order and any(other == module for module, _ in self.kept):
                    self._visit(other)
            if name not in self.order:
                self.order.append(name)

    # --- how it is written ----------------------------------------------------------------------------

    def _final_names(self) -> dict[Key, str]:
        final: dict[Key, str] = {}
        taken: set[str] = set()
        for text in sorted(text for module, text in self.kept if not module):
            final["", text] = text.rsplit(" ", 1)[-1].split(".")[0]
            if final["", text] in taken:
                raise NotImplementedError(f"export: two packages are imported as {final['', text]}")
            taken.add(final["", text])
        for module in self.order:
            for name in sorted(name for own, name in self.kept if own == module):
                free = name if name not in taken else f"{name}_{module.rsplit('.', 1)[-1]}"
                assert free not in taken, free
                final[module, name] = free
                taken.add(free)
        return final

    def _written(self, module: _Module, final: dict[Key, str]) -> list[str]:
        wanted = {name for own, name in self.kept if own == module.name}
        places = {module.bound[name]: name for name in sorted(wanted, reverse=True)}
        parts = []
        for place, statement in enumerate(module.body):
            name = places.get(place)
            if name is not None and (module.name, name) in self.stubs:
                said = f"raise NotImplementedError({self.stubs[module.name, name]!r})"
                parts.append(f"def {final[module.name, name]}(*args, **kwargs):\n    {said}")
            elif name is not None or _acts(statement):
                parts.append(ast.unparse(_Names(self, module, final).visit(_copy(statement))))
        return [f"# --- {module.name} ---", *parts] if parts else []


class _Names(ast.NodeTransformer):
    """Puts the final name wherever a statement means a name of its module; notes which it means."""

    def __init__(self, flat: _Flat, module: _Module, final: dict[Key, str]) -> None:
        self.flat, self.module, self.final = flat, module, final
        self.found: list[Key] = []
        self.hidden: list[set[str]] = []

    def keys_of(self, statement: ast.stmt) -> list[Key]:
        self.visit(_copy(statement))
        return self.found

    def _meant(self, name: str) -> Key | None:
        if any(name in names for names in self.hidden):
            return None
        if name in self.module.bound:
            return self.module.name, name
        return self.flat._home(self.module.imports[name]) if name in self.module.imports else None

    def _named(self, key: Key, node: ast.AST, context: ast.expr_context) -> ast.Name:
        self.found.append(key)
        return ast.copy_location(ast.Name(self.final.get(key, key[1] or key[0]), context), node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        key = self._meant(node.id)
        return node if key is None else self._named(key, node, node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name):
            key = self._meant(node.value.id)
            if key is not None and key[0] and not key[1]:  # audio.num_frames, of `from salad import audio`
                return self._named(self.flat._home((key[0], node.attr)), node, node.ctx)
        return self.generic_visit(node)

    def _scope(self, node: ast.AST) -> ast.AST:
        if not self.hidden and isinstance(node, ast.FunctionDef):
            node.name = self.final.get((self.module.name, node.name), node.name)
        self.hidden.append(_bound_in(node))
        node = self.generic_visit(node)
        self.hidden.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _scope

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if not self.hidden:
            node.name = self.final.get((self.module.name, node.name), node.name)
        own = {name for child in node.body for name in _targets(child)}
        own |= {child.name for child in node.body if isinstance(child, (ast.FunctionDef, ast.ClassDef))}
        before, node.bases = node.bases, []
        bases = [self.visit(base) for base in before]
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        body = []
        for child in node.body:  # a class's own names are not seen inside its methods
            plain = not isinstance(child, (ast.FunctionDef, ast.ClassDef))
            self.hidden.append(own if plain else set())
            body.append(self.visit(child))
            self.hidden.pop()
        node.bases, node.body = bases, body or [ast.Pass()]
        return node

    def _import(self, node: ast.Import | ast.ImportFrom) -> ast.AST:
        """Inside a function: ours is not needed any more; another package stays optional, as transformers reads it."""
        if _is_ours(node):
            return ast.copy_location(ast.Pass(), node)
        absent = ast.ExceptHandler(ast.Name("ImportError", ast.Load()), None, [ast.Raise(None, None)])
        return ast.fix_missing_locations(ast.Try([node], [absent], [], []))

    visit_Import = visit_ImportFrom = _import


def _read(name: str, without: frozenset[str]) -> _Module:
    spec = util.find_spec(name)
    assert spec is not None and spec.origin is not None, name
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    module = _Module(name, tree.body)
    for place, statement in enumerate(tree.body):
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            if _is_ours(statement):
                module.before += _modules_of(statement)
            continue
        for bound in _targets(statement):
            module.bound.setdefault(bound, place)
        if isinstance(statement, ast.ClassDef):
            statement.body = [
                child for child in statement.body if f"{statement.name}.{getattr(child, 'name', '')}" not in without
            ]
    for node in ast.walk(tree):
        inside = isinstance(node, (ast.Import, ast.ImportFrom)) and node not in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) and (not inside or _is_ours(node)):
            for bound, key in _imported(node):
                module.imports.setdefault(bound, key)
    return module


def _imported(node: ast.Import | ast.ImportFrom) -> Iterable[tuple[str, Key]]:
    for alias in node.names:
        bound = alias.asname or alias.name.split(".")[0]
        behind = f" as {alias.asname}" if alias.asname else ""
        if isinstance(node, ast.Import):
            yield bound, ("", f"import {alias.name}{behind}")
        elif _is_ours(node):
            yield bound, (str(node.module), alias.name)
        else:
            yield bound, ("", f"from {node.module} import {alias.name}{behind}")


def _modules_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    if not isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    inner = [f"{node.module}.{alias.name}" for alias in node.names]
    return [*filter(_is_module, inner), str(node.module)]


@functools.cache
def _is_module(name: str) -> bool:
    try:
        return util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _is_ours(node: ast.Import | ast.ImportFrom) -> bool:
    names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    return any(name.split(".")[0] == OURS for name in names)


def _acts(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)


def _copy(statement: ast.stmt) -> ast.stmt:
    return ast.parse(ast.unparse(statement)).body[0]


def _targets(node: ast.AST) -> list[str]:
    """Names that a statement binds where it stands."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return []
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [] if _is_ours(node) else [bound for bound, _ in _imported(node)]
    found = [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []
    found += [node.name] if isinstance(node, ast.ExceptHandler) and node.name else []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, SCOPES) or isinstance(child, ast.FunctionDef):
            found += _targets(child)
    return found


def _bound_in(function: Any) -> set[str]:
    """Names that are a function's own: its parameters, and what its body binds."""
    given = function.args
    names = {one.arg for one in [*given.posonlyargs, *given.args, *given.kwonlyargs]}
    names |= {one.arg for one in (given.vararg, given.kwarg) if one is not None}
    body = function.body if isinstance(function.body, list) else [function.body]
    declared = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
    return (names | {name for statement in body for name in _targets(statement)}) - declared
