"""Downloads, unpacks and checks the data sets: python -m datasets.prepare NAME… -data DIR

sources.py   the addresses of the archives and the images in them: facts only
download.py  an archive, from the user's folder or a mirror
unpack.py    an archive → the folders that the configs expect
check.py     number, names and sizes of the images in these folders
"""

__all__: list[str] = []
