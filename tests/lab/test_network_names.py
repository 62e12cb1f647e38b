"""What a lab that was killed leaves is found by its name."""

from cutlayer.lab.network import lab_name, orphaned_names


def test_names_of_labs_whose_process_is_gone() -> None:
    names = [lab_name(7, "server"), lab_name(8, "0"), lab_name(7, "0"), "cutlayer", "lab-7-0"]
    assert orphaned_names(names, {8}.__contains__) == [lab_name(7, "server"), lab_name(7, "0")]
    assert orphaned_names(names, {7, 8}.__contains__) == []
