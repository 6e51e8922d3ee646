"""Many machines, by Dask: pictures go to workers, or the tiles of one picture do.

- connection.py: a cluster of this machine's own, or a running one, looked over before the work starts.
- steadfast.py: what such workers load first.
- pool.py: many tasks on the workers, each of which makes what it needs once.
"""
