"""What another package has, for a setting that names it: found, checked, called.

A plugin is a class, a function or a value: `package.module:Name`, or a name that an installed
package registers as an entry point. It is called with the setting's options, and with those things
of the run that it has parameters for.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from importlib.metadata import packages_distributions
from typing import Any, TypeVar

from cutlayer.config.section import PluginSection, registered
from cutlayer.errors import ConfigError, CutlayerError, nearest, quoted, raised

Contract = TypeVar("Contract")


def plugged(
    key: str,
    section: PluginSection,
    contract: type[Contract],
    of_the_run: Mapping[str, object],
    *,
    group: str,
) -> Contract:
    """The plugin of the setting `key`, made with its options: a `contract`.

    `of_the_run`: what it is given besides, by the names of its parameters. Raises ConfigError: not
    installed, not to be imported, no such name, options that it does not take or refuses, or it
    makes something else.
    """
    made = found = find_plugin(key, section, group)
    if not isinstance(found, contract) or section.options:
        made = call_plugin(key, section, found, of_the_run)
    if not isinstance(made, contract):
        raise ConfigError(
            f"{key} {section.name} makes {quoted(made)}, which is no cutlayer.{contract.__name__}"
        )
    for name in sorted(getattr(contract, "__abstractmethods__", ())):
        method = getattr(contract, name)
        if callable(method):  # no property
            _check_method(f"{key} {section.name}", getattr(made, name), name, method)
    return made


def find_plugin(key: str, section: PluginSection, group: str) -> Any:
    """What its name names. Raises ConfigError."""
    path = resolved(section.name, group)
    module, _, name = path.partition(":")
    try:
        holder = import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(key, section, module, error) from error
    except Exception as error:
        raise ConfigError(
            f"{key} {section.name}: {module} cannot be imported: {raised(error)}"
        ) from error
    if not hasattr(holder, name):
        known = [word for word, value in vars(holder).items() if _is_own(word, value, module)]
        raise ConfigError(f"{key}: {module} has no {name}; {nearest(name, known)}")
    return getattr(holder, name)


def call_plugin(
    key: str, section: PluginSection, found: Any, of_the_run: Mapping[str, object]
) -> object:
    """What it makes of its options and of the run. Raises ConfigError."""
    given = _arguments(key, section, found, of_the_run)
    try:
        return found(**given)
    except CutlayerError as error:
        raise ConfigError(f"{key} {section.name}: {error}") from error
    except Exception as error:
        options = ", ".join(section.options) or "no options"
        raise ConfigError(
            f"{key} {section.name} cannot be made with {options}: {raised(error)}"
        ) from error


def _is_own(word: str, value: object, module: str) -> bool:
    """Whether a module's name is for others, and not of what it imports itself."""
    if word.startswith("_") or inspect.ismodule(value):
        return False
    of = getattr(value, "__module__", None) if inspect.isclass(value) or callable(value) else module
    return str(of).partition(".")[0] == module.partition(".")[0]


def check_plugin(key: str, section: PluginSection, group: str, of_the_run: Collection[str]) -> None:
    """Raises ConfigError for a plugin that cannot be called with its options and the things of a
    run that have these names, as far as can be told without calling it."""
    found = find_plugin(key, section, group)
    given = _arguments(key, section, found, dict.fromkeys(of_the_run))
    asked = _signature(found)
    if asked is None:
        return
    try:
        asked.bind(**given)
    except TypeError as error:
        raise ConfigError(f"{key} {section.name} cannot be called: {error}; see options") from error


def resolved(name: str, group: str) -> str:
    """`package.module:Name` of a plugin, also of a registered one."""
    if ":" in name:
        return name
    entries = registered(group)
    if name not in entries:
        raise ConfigError(
            f"no installed package registers {name} in {group}: install the one that does, or name"
            " it as package.module:Name"
        )
    return entries[name].value


def portable(section: PluginSection, group: str) -> PluginSection:
    """The section as another machine can read it: its whole name, and the package to install."""
    path = resolved(section.name, group)
    top = path.partition(":")[0].partition(".")[0]
    package = section.package or next(iter(packages_distributions().get(top, ())), None)
    return section.model_copy(update={"name": path, "package": package})


def check_registered(key: str, section: PluginSection, group: str) -> None:
    """Raises ConfigError unless an installed package registers it: what another machine names is
    not imported for the naming."""
    if resolved(section.name, group) in {entry.value for entry in registered(group).values()}:
        return
    package = f" {section.package}" if section.package else ""
    raise ConfigError(
        f"{key} {section.name} is registered in {group} by no package here: install the"
        f" package{package} that has it"
    )


def _missing(
    key: str, section: PluginSection, module: str, error: ModuleNotFoundError
) -> ConfigError:
    top = module.partition(".")[0]
    if error.name not in (top, module):
        return ConfigError(f"{key} {section.name} needs {error.name}, which is not installed")
    package = section.package or top
    return ConfigError(
        f"{key} {section.name}: there is no {error.name} here: install {package}, or put the"
        " folder of its file on PYTHONPATH"
    )


def _check_method(what: str, own: object, name: str, contracts: Callable[..., object]) -> None:
    """Raises ConfigError for a method that cannot be called as the contract's is."""
    asked = inspect.signature(contracts)
    _, *parameters = (one.replace(annotation=one.empty) for one in asked.parameters.values())
    named = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    try:
        if not callable(own):
            raise TypeError(f"it is {quoted(own)}")
        given = [None] * (len(parameters) - len(named))
        inspect.signature(own).bind(*given, **dict.fromkeys(named))
    except TypeError as error:
        wanted = asked.replace(parameters=parameters, return_annotation=asked.empty)
        raise ConfigError(f"{what}: its {name} should take {wanted}: {error}") from error


def _arguments(
    key: str, section: PluginSection, found: Any, of_the_run: Mapping[str, object]
) -> dict[str, object]:
    """Its options, and what it has parameters for."""
    if not callable(found):
        raise ConfigError(
            f"{key} {section.name} is {quoted(found)}, which cannot be called"
            f"{' with options' if section.options else ''}: name a class or function"
        )
    asked = _signature(found)
    if asked is None:
        return dict(section.options)
    parameters = asked.parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return {**of_the_run, **section.options}
    unknown = [name for name in section.options if name not in parameters]
    if unknown:
        own = [name for name in parameters if name not in of_the_run]
        hint = nearest(unknown[0], own) if own else "it has no options"
        raise ConfigError(f"{key}.options: {section.name} takes no {unknown[0]}; {hint}")
    given = {name: value for name, value in of_the_run.items() if name in parameters}
    return {**given, **section.options}


def _signature(found: Callable[..., object]) -> inspect.Signature | None:
    """What it takes; None for one of C, which does not say."""
    try:
        return inspect.signature(found)
    except ValueError:
        return None
