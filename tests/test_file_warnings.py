"""Pillow's warnings name the file that they are about, once for each file."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from diffaug.file_warnings import naming_files, reading


def warn(text="Corrupt EXIF data", module="PIL.TiffImagePlugin"):
    """Warn as Pillow does, from its own module."""
    exec(  # the module of a warning is that of the code that warns
        compile("import warnings; warnings.warn(text)", "TiffImagePlugin.py", "exec"),
        {"__name__": module, "text": text},
    )


def texts(told):
    return sorted(str(warning.message) for warning in told)


def read(name):
    with reading(name):
        warn()
        warn()


def test_a_warning_names_its_file_in_whichever_thread_it_is_read():
    with pytest.warns(UserWarning) as told, naming_files(), ThreadPoolExecutor(4) as threads:
        list(threads.map(read, ["b.jpg", "a.jpg", "b.jpg"]))
    assert ["'a.jpg': Corrupt EXIF data", "'b.jpg': Corrupt EXIF data"] == texts(told)


def test_a_warning_outside_of_reading_stays_as_it_is():
    with pytest.warns(UserWarning) as told, naming_files():
        read("a.jpg")
        warn("something else", module="elsewhere")
    assert ["'a.jpg': Corrupt EXIF data", "something else"] == texts(told)


def test_a_job_inside_a_job_names_the_file_once():
    with pytest.warns(UserWarning) as told, naming_files(), naming_files():
        read("a.jpg")
    assert ["'a.jpg': Corrupt EXIF data"] == texts(told)


def test_filters_of_the_user_come_first():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="^Corrupt EXIF data"), naming_files():
            read("a.jpg")


def test_afterwards_warnings_are_as_before():
    before = warnings.showwarning, list(warnings.filters)
    with naming_files():
        assert warnings.showwarning is not before[0]
    assert before == (warnings.showwarning, list(warnings.filters))
