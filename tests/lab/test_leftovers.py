"""A lab's folder, and what is done about those of labs that were killed."""

from pathlib import Path

from cutlayer.lab.leftovers import delete_folders, lab_folder, processes
from cutlayer.lab.names import lab_name, orphans


def test_the_folder_is_this_labs_own_and_is_deleted() -> None:
    with lab_folder() as folder:
        (folder / "keys").mkdir()
        assert orphans([folder.name], ()) == [folder.name]
        assert orphans([folder.name], processes()) == []
    assert not folder.exists()


def test_folders_of_others_stay(tmp_path: Path) -> None:
    names = [lab_name(7, "a_b1"), lab_name(8, "c"), "mine"]
    for name in names:
        (tmp_path / name / "keys").mkdir(parents=True)
    assert delete_folders(tmp_path, {8}) == names[:1]
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
