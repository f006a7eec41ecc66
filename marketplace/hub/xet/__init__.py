"""Xet ingest: how the newest clients of the hub protocol upload large files.

A client cuts files into chunks, sends those it believes are new in *xorbs* of up to 64 MiB, and
then a *shard* that says of which chunks each file is made. Here xorbs are spooled on disk, and a
shard turns them into ordinary uploads, checked by their SHA-256. Nothing is served this way:
downloads are plain HTTP.

`hashing`, `xorbs` and `shards` are the formats and know no Django.
"""
