"""Gets the data sets: python -m datasets.prepare NAME… -data DIR

sources.py   where archives lie and which images come out of them: facts only
download.py  an archive, from the user's folder or a mirror
unpack.py    an archive → the folders that the configs expect
check.py     whether these folders are what they should be
"""

__all__: list[str] = []
