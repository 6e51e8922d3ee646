"""Many machines, by Dask: pictures go to workers, or the parts of one picture do.

- connection.py: a cluster of this machine's own, or a running one, looked over before the work starts.
- steadfast.py: what this machine's own workers load first.
- pool.py: many tasks on the workers, each of which makes what it needs once.
- team.py: one picture, as the run sees it: a search whose arrays are on the workers.
- member.py: a worker's part of it, and what it computes.
- board.py: what the members tell each other, and how their numbers are added up.
- grid.py, pixels.py: who has which part, and the terms of a part's pixels.
"""
