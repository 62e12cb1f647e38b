"""What a lab that was killed leaves is found by its name."""

from pathlib import Path

from cutlayer.lab.leftovers import delete_folders, lab_folder, lab_name, orphans, processes


def test_names_of_labs_whose_process_is_gone() -> None:
    names = [lab_name(7, "server"), lab_name(8, "0"), lab_name(7, "0"), "cutlayer", "lab-7-0"]
    assert orphans(names, {8}) == [lab_name(7, "server"), lab_name(7, "0")]
    assert orphans(names, {7, 8}) == []


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
