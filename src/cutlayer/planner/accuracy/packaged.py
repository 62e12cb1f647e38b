"""The profiles that come with the package.

Knows where they lie, and trains none: `cutlayer profile` made them, by the command inside.
"""

from importlib.resources import as_file, files

from cutlayer.planner.accuracy.profile import Profile, read_profile


def packaged_profile(model: str, data: str) -> Profile | None:
    """The profile of a model and data set by their packaged names; None if there is none."""
    for entry in files("cutlayer.planner").joinpath("profiles").iterdir():
        if entry.name.endswith(".json"):
            with as_file(entry) as path:
                profile = read_profile(path)
            if (profile.model, profile.data) == (model, data):
                return profile
    return None
