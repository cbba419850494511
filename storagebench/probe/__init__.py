"""The raw ceiling of a storage as this client sees it. What is asked (`plan`) is apart from how it is read (`workers`, `aio`), timed (`cells`) and
searched (`search`); `places` says where: a dataset's shards, only ever read, or scratch files of our own. Judges nothing and knows no loader.
"""
