"""What `import cutlayer` offers: these names, at once, each told of."""

import ast
import inspect
import pkgutil
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import cutlayer

FUNCTIONS = (
    *("read_config", "train", "resume", "read_run", "plan", "compare", "serve", "join"),
    *("sweep", "load_adapter", "generate", "chat", "evaluate", "export", "merge", "push"),
)
VALUES = (
    *("Config", "Run", "Planned", "Compared", "Summary", "FirstRound", "TrainedRound"),
    *(
        "Swept",
        "Talk",
        "Evaluated",
        "Figures",
        "TimelineEvent",
        "Encoded",
        "Decoded",
        "RateCurves",
        "RateCurve",
        "ProportionalRates",
    ),
    *("LinkRates", "ObservedRound", "PacketFrame"),
    *("Step", "Phase", "Place", "DeviceOrder", "ServerOrder", "Trained"),
)
ALIASES = ("CodecState", "Shares", "SCHEMES")
ERRORS = (
    *("CutlayerError", "AssetError", "ConfigError", "DataError", "IdentityError", "ModelError"),
    *("PacketError", "RunError", "StorageError"),
)
CONTRACTS = ("Codec", "Channel", "Allocation", "Scheme", "Aggregation", "Observer")
HEAVY = {"numpy", "scipy", "pydantic", "yaml", "rich", "torch", "transformers", "matplotlib"}


def test_these_names_and_no_others() -> None:
    assert sorted(cutlayer.__all__) == sorted(
        ["__version__", *ERRORS, *FUNCTIONS, *VALUES, *ALIASES, *CONTRACTS]
    )
    assert set(cutlayer.__all__) <= set(dir(cutlayer))
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = cutlayer.Trainer  # type: ignore[attr-defined]


def test_editors_and_type_checkers_see_the_same() -> None:
    assert cutlayer.__file__ is not None
    tree = ast.parse(Path(cutlayer.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: f"{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: f"cutlayer.{home}" for name, home in cutlayer._HOMES.items()}
    assert seen == homes
    assert set(homes) == set(cutlayer.__all__) - {"__version__"}


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import cutlayer, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "cutlayer" in loaded
    assert not HEAVY & loaded


def test_without_torch_only_what_needs_it_is_missing() -> None:
    """The package as such: a run is read and planned, and what is missing is named."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers'), None))\n"
        "import cutlayer\n"
        "assert cutlayer.plan(cutlayer.Config()).chosen\n"
        "for use in (lambda: cutlayer.Aggregation, lambda: cutlayer.train(cutlayer.Config())):\n"
        "    try:\n"
        "        use()\n"
        "    except cutlayer.ConfigError as error:\n"
        "        print(error)\n"
        "others = set(cutlayer.__all__) - {'Aggregation', 'Evaluated', 'Figures', 'Talk'}\n"
        "print(len([getattr(cutlayer, name) for name in others]) == len(others))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "cutlayer.Aggregation needs torch: pip install 'cutlayer[train]'",
        "`cutlayer train` needs torch: pip install 'cutlayer[train]'",
        "True",
    ]


def test_no_module_has_the_name_of_what_is_offered() -> None:
    """The import system would put the module in its place."""
    modules = {module.name for module in pkgutil.iter_modules(cutlayer.__path__)}
    assert "training" in modules
    assert not modules & set(cutlayer.__all__)


@pytest.mark.parametrize("name", [*FUNCTIONS, *VALUES, *CONTRACTS, *ERRORS])
def test_every_name_has_a_docstring(name: str) -> None:
    """A function's says what it raises; so do a contract's methods, one or another."""
    value = getattr(cutlayer, name)
    text = inspect.getdoc(value) or ""
    assert len(text) > 20
    if name in FUNCTIONS:
        assert re.search(r"\bRaises\b", text)
    if inspect.isabstract(value):
        for method in value.__abstractmethods__:
            assert inspect.getdoc(inspect.getattr_static(value, method))


@pytest.mark.parametrize("name", [*FUNCTIONS, "Run", "Planned", "Compared", *CONTRACTS])
def test_every_parameter_is_annotated(name: str) -> None:
    value = getattr(cutlayer, name)
    own = [value] if inspect.isfunction(value) else []
    if inspect.isclass(value):
        own = [one for key, one in vars(value).items() if inspect.isfunction(one) and key[0] != "_"]
    # what needs torch is named, and imported by whoever asks
    offered = {each: getattr(cutlayer, each) for each in VALUES}
    for one in own:
        hints = typing.get_type_hints(one, localns=offered)
        assert set(inspect.signature(one).parameters) - {"self"} <= set(hints)


def test_schemes_are_nobodys_to_change() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        cutlayer.SCHEMES["mine"] = cutlayer.SCHEMES["sft"]  # type: ignore[index]
