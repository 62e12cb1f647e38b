"""docs/api.md from the docstrings of what `import cutlayer` offers: `python docs/make_api.py`.

Reads the sources, imports none of them; a test asks whether the page is what they say.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "cutlayer"
PAGE = ROOT / "docs" / "api.md"
_WIDTH = 96

GROUPS = {
    "Functions": (
        *("read_config", "train", "resume", "read_run", "plan", "compare", "serve", "join"),
        *("sweep", "load_adapter", "generate", "chat", "evaluate", "export", "merge", "push"),
    ),
    "Settings and results": (
        *("Config", "Run", "Planned", "Compared", "Summary", "FirstRound", "TrainedRound"),
        *("TimelineEvent", "Observer", "Swept", "Talk", "Evaluated", "Figures"),
    ),
    "Contracts, and the values that they take": (
        *("Codec", "Encoded", "Decoded", "CodecState", "PacketFrame"),
        *("Channel", "RateCurves", "RateCurve", "ProportionalRates", "LinkRates"),
        *("Allocation", "ObservedRound", "Shares", "Aggregation"),
        *("Scheme", "SCHEMES", "Step", "Phase", "Place", "DeviceOrder", "ServerOrder", "Trained"),
    ),
    "Errors": (
        *("CutlayerError", "AssetError", "ConfigError", "DataError", "IdentityError", "ModelError"),
        *("PacketError", "RunError", "StorageError"),
    ),
}
INTRODUCTION = """\
# The Python interface

Made from the docstrings by `python docs/make_api.py`: edit those. How a contract is used by name in
a configuration: [extending.md](extending.md). Settings, by section: `cutlayer train --help`, and
[settings.md](settings.md).
"""


def page() -> str:
    """The whole page."""
    tree, homes = _parsed("__init__"), _homes()
    named = {name for names in GROUPS.values() for name in names}
    if named != homes.keys():
        raise SystemExit(f"give these a group, or take them out: {named ^ homes.keys()}")
    parts = [INTRODUCTION, (ast.get_docstring(tree) or "").partition("\n\n")[2]]
    for title, names in GROUPS.items():
        parts.append(f"## {title}")
        parts += [_entry(name, homes[name]) for name in names]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _homes() -> dict[str, str]:
    """The module of each name, as `__init__` has it."""
    for node in _parsed("__init__").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            return dict(ast.literal_eval(node.value))
    raise SystemExit("cutlayer/__init__.py has no _HOMES")


def _parsed(module: str) -> ast.Module:
    return ast.parse(_source(module))


def _source(module: str) -> str:
    return (PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


def _entry(name: str, module: str) -> str:
    tree = _parsed(module)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return f"### {name}\n\n{_fenced(_signature(node, tree))}\n\n{_doc(node)}"
        if isinstance(node, ast.ClassDef) and node.name == name:
            return "\n\n".join([f"### {name}", _doc(node), *_members(node, tree)])
        if isinstance(node, ast.Assign | ast.AnnAssign) and _target(node) == name:
            return f"### {name}\n\n{_fenced(_line(node, tree))}\n\n{_above(node, module)}"
    raise SystemExit(f"cutlayer/{module}.py does not define {name}")


def _members(node: ast.ClassDef, tree: ast.Module) -> Iterator[str]:
    """Fields and names of an enumeration in one block; then each public method and property."""
    body = [*_inherited(node, tree), *node.body]
    fields = [each for each in body if isinstance(each, ast.AnnAssign | ast.Assign)]
    lines = [_line(each, tree) for each in fields if _public(_target(each))]
    if lines:
        yield _fenced("\n".join(lines))
    for each in body:
        if not (isinstance(each, ast.FunctionDef) and _public(each.name)):
            continue
        decorators = {ast.unparse(one) for one in each.decorator_list}
        if decorators & {"property", "cached_property"}:
            returns = "" if each.returns is None else f": {ast.unparse(each.returns)}"
            yield f"`{node.name}.{each.name}{returns}`\n\n{_doc(each)}"
        else:
            yield f"{_fenced(_signature(each, tree, f'{node.name}.'))}\n\n{_doc(each)}"


def _inherited(node: ast.ClassDef, tree: ast.Module) -> Iterator[ast.stmt]:
    """What private bases of the same module have."""
    bases = {ast.unparse(base) for base in node.bases}
    for each in tree.body:
        if isinstance(each, ast.ClassDef) and each.name in bases and not _public(each.name):
            own = {_target(one) for one in node.body if isinstance(one, ast.AnnAssign)}
            for one in each.body:
                if not (isinstance(one, ast.AnnAssign) and _target(one) in own):
                    yield one


def _public(name: str) -> bool:
    return not name.startswith("_") and name != "model_config"


def _target(node: ast.Assign | ast.AnnAssign) -> str:
    return ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def _signature(node: ast.FunctionDef, tree: ast.Module, prefix: str = "") -> str:
    """A parameter a line where one line is too short; constants of the module as their values."""
    arguments = node.args
    plain = [each for each in arguments.args if each.arg not in ("self", "cls")]
    required = len(plain) - len(arguments.defaults)
    defaults: list[ast.expr | None] = [*([None] * required), *arguments.defaults]
    parts = [_parameter(*each, tree) for each in zip(plain, defaults, strict=True)]
    if arguments.kwonlyargs:
        named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        parts += ["*", *(_parameter(*each, tree) for each in named)]
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    whole = f"{prefix}{node.name}({', '.join(parts)}){returns}"
    if len(whole) <= _WIDTH:
        return whole
    lines = ",\n    ".join(parts)
    return f"{prefix}{node.name}(\n    {lines},\n){returns}"


def _parameter(argument: ast.arg, default: ast.expr | None, tree: ast.Module) -> str:
    named = f"{argument.arg}: {ast.unparse(argument.annotation)}" if argument.annotation else ""
    if default is None:
        return named
    value = _assigned(tree).get(ast.unparse(default), default)
    return f"{named} = {ast.unparse(value)}"


def _line(node: ast.Assign | ast.AnnAssign, tree: ast.Module) -> str:
    """A field or an alias, with a default that is short; what a section of settings is for."""
    if isinstance(node, ast.Assign):
        return ast.unparse(node)
    kind, value = _Plain(tree).visit(node.annotation), node.value
    short = isinstance(value, ast.Constant) or (isinstance(value, ast.Tuple) and not value.elts)
    default = f" = {ast.unparse(value)}" if value is not None and short else ""
    what = _description(value) or _section(ast.unparse(kind), tree)
    return f"{_target(node)}: {ast.unparse(kind)}{default}{f'  # {what}' if what else ''}"


class _Plain(ast.NodeTransformer):
    """A type without what is annotated to it; the module's own aliases of such types as types."""

    def __init__(self, tree: ast.Module) -> None:
        values = _assigned(tree).items()
        self._aliases = {name: one for name, one in values if "Annotated[" in ast.unparse(one)}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        alias = self._aliases.get(node.id)
        return (
            node if alias is None else self.visit(ast.parse(ast.unparse(alias), mode="eval").body)
        )

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if ast.unparse(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple):
            return self.visit(node.slice.elts[0])
        return self.generic_visit(node)


def _assigned(tree: ast.Module) -> dict[str, ast.expr]:
    return {_target(each): each.value for each in tree.body if isinstance(each, ast.Assign)}


def _description(value: ast.expr | None) -> str:
    """What a setting's field says of it."""
    if not isinstance(value, ast.Call):
        return ""
    found = (each.value for each in value.keywords if each.arg == "description")
    return next((str(ast.literal_eval(each)) for each in found), "")


def _section(kind: str, tree: ast.Module) -> str:
    """What a section of settings says of itself, if it is one, here or where it is from."""
    if not kind.endswith("Section"):
        return ""
    for each in tree.body:
        if isinstance(each, ast.ClassDef) and each.name == kind:
            return _doc(each).partition("\n\n")[0]
        if isinstance(each, ast.ImportFrom) and kind in {name.name for name in each.names}:
            module = (each.module or "").removeprefix("cutlayer.")
            return _section(kind, ast.parse(_source(module)))
    return ""


def _above(node: ast.Assign | ast.AnnAssign, module: str) -> str:
    """The comment above an assignment."""
    lines = _source(module).splitlines()[: node.lineno - 1]
    comment: list[str] = []
    while lines and lines[-1].startswith("#"):
        comment.insert(0, lines.pop().removeprefix("#").strip())
    if not comment:
        raise SystemExit(f"cutlayer/{module}.py:{node.lineno}: say in a comment above what it is")
    text = " ".join(comment)
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _doc(node: ast.FunctionDef | ast.ClassDef) -> str:
    text = ast.get_docstring(node)
    if text is None:
        raise SystemExit(f"{node.name} has no docstring")
    return text


def _fenced(code: str) -> str:
    return f"```\n{code}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
